"""Optional series that are no function of the trace: feature drift, gradient norms, their split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clframe.core import dist
from clframe.core.strategy import Strategy
from clframe.errors import ConfigError, nearest
from clframe.evaluation.bank import EvalBank

KNOWN = ("feature_drift", "gradient_norm", "decomposition")


class Diagnostics:
    """The diagnostics of the stability-gap paper (De Lange et al., ICLR 2023, appendix).

    feature_drift: mean squared distance that one update moves the features of each seen experience.
    gradient_norm: L2 norm of the gradient of each seen experience's mean cross-entropy.
    decomposition: norms and cosine of the plasticity gradient (loss term `new`) and of the
    stability gradient (all other terms) at every training step.

    Raises ConfigError for an unknown name.
    """

    def __init__(
        self,
        strategy: Strategy,
        bank: EvalBank,
        names: tuple[str, ...],
        positions: list[int],
        chunk: Callable[[], int],
    ) -> None:
        for n in names:
            if n not in KNOWN:
                raise ConfigError(
                    f"eval.diagnostics: {n!r} is unknown.{nearest(n, KNOWN)} "
                    f"Known: {', '.join(KNOWN)}."
                )
        self.strategy, self.bank, self.names = strategy, bank, names
        self.positions, self.chunk = positions, chunk
        self._before: Tensor | None = None
        self._series: dict[tuple[str, ...], list[tuple[int, Tensor]]] = {}

    @property
    def needs_before(self) -> bool:
        return "feature_drift" in self.names

    def before(self, seen: int) -> None:
        """Remember the features just before the tracked update."""
        self._before = self._features(seen)

    def after(self, iteration: int, seen: int) -> None:
        """Compare with `before`, and take the gradient norms, after the update."""
        if "feature_drift" in self.names and self._before is not None:
            moved = (self._features(seen) - self._before).square().sum(1)
            self._add("feature_drift", iteration, self._per_experience(moved, seen))
            self._before = None
        if "gradient_norm" in self.names:
            norms = [self._gradient_norm(i) for i in range(seen)]
            self._add("gradient_norm", iteration, torch.stack(norms))

    def gradients(self, iteration: int, terms: dict[str, Tensor]) -> None:
        """Split the coming update's gradient, leaving `.grad` and the graph as they are."""
        if "decomposition" not in self.names or not terms:
            return
        params = list(self.strategy.trainable())
        new = [v for k, v in terms.items() if k == "new"]
        old = [v for k, v in terms.items() if k != "new"]
        plastic, stable = self._flat(new, params), self._flat(old, params)
        sizes = plastic.norm(), stable.norm()
        cosine = (plastic @ stable) / (sizes[0] * sizes[1])  # NaN when a norm is 0: absent
        row = torch.stack([*sizes, (plastic + stable).norm(), cosine])
        names = ("plasticity", "stability", "total", "cosine")
        keys = tuple(f"gradient/{n}" for n in names)
        self._series.setdefault(keys, []).append((iteration, row.double()))

    def drain(self) -> list[dict[str, Any]]:
        """Frames of everything collected since the last call."""
        kept, self._series = self._series, {}
        return [
            {
                "keys": np.array(keys),
                "iteration": np.array([t for t, _ in rows], dtype=np.int64),
                "values": torch.stack([v for _, v in rows]).cpu().numpy(),
            }
            for keys, rows in kept.items()
        ]

    def _add(self, name: str, iteration: int, values: Tensor) -> None:
        keys = tuple(f"{name}/exp_{p:02d}" for p in self.positions[: len(values)])
        self._series.setdefault(keys, []).append((iteration, values.double()))

    def _features(self, seen: int) -> Tensor:
        end = self.bank.ends[seen - 1]
        with torch.inference_mode():
            pieces = self.bank.x[:end].split(self.chunk())
            return torch.cat([self.strategy.net.features(x).flatten(1).float() for x in pieces])

    def _per_experience(self, values: Tensor, seen: int) -> Tensor:
        sums = torch.zeros(seen, device=values.device, dtype=values.dtype)
        sums.index_add_(0, self.bank.owner[: len(values)], values)
        totals = torch.tensor(self.bank.totals[:seen], device=values.device)
        return dist.total(sums) / totals

    def _gradient_norm(self, i: int) -> Tensor:
        start = self.bank.ends[i] - self.bank.sizes[i]
        params = [p for p in self.strategy.net.parameters() if p.requires_grad]
        total = [torch.zeros_like(p) for p in params]
        readout = next(iter(self.strategy.readouts().values()))
        for x, y, task in zip(
            *(
                t[start : self.bank.ends[i]].split(self.chunk())
                for t in (self.bank.x, self.bank.y, self.bank.task)
            ),
            strict=True,
        ):
            with torch.enable_grad():
                logits = readout(x, task if self.bank.with_task else None)
                loss = torch.nn.functional.cross_entropy(logits, y, reduction="sum")
            grads = torch.autograd.grad(loss, params, allow_unused=True)
            for t, g in zip(total, grads, strict=True):
                if g is not None:
                    t += g
        flat = dist.total(torch.cat([t.reshape(-1) for t in total]))
        return flat.norm() / self.bank.totals[i]

    def _flat(self, terms: list[Tensor], params: list[torch.nn.Parameter]) -> Tensor:
        terms = [t for t in terms if t.requires_grad]
        if not terms:
            return torch.zeros(sum(p.numel() for p in params), device=self.bank.x.device)
        grads = torch.autograd.grad(
            torch.stack(terms).sum(), params, retain_graph=True, allow_unused=True
        )
        filled = [
            torch.zeros_like(p) if g is None else g for p, g in zip(params, grads, strict=True)
        ]
        dist.average_gradients(filled)
        return torch.cat([g.reshape(-1) for g in filled])
