"""The continual evaluator: accuracy on every experience seen so far, after every due update."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from clframe.core import dist
from clframe.core.experience import Experience, Stream
from clframe.core.net import evaluating, frozen_state
from clframe.core.strategy import Strategy
from clframe.errors import TrainingError
from clframe.evaluation.bank import MASKS, EvalBank
from clframe.evaluation.diagnostics import Diagnostics
from clframe.evaluation.schedule import is_due

BLOCK = 256  # observations kept on the device before they go to the host together
PATIENCE = 1.0  # seconds after which a single process sends what it has, for the progress bar


class Sink(Protocol):
    """Where frames go: `tracking.journal.Journal`, or nothing on ranks other than 0."""

    def append(self, kind: str, **arrays: Any) -> None: ...


class ContinualEvaluator:
    """Observes a strategy and changes nothing: modes, buffers and generators are as before.

    Counts and losses stay on the device; `flush` brings a block of them to the host, sums the
    counts over ranks and appends them to `sink` as frames `trace`, `boundary` and `metrics`.
    `primary` names the readout of every table, such as "net/seen".
    """

    def __init__(
        self,
        stream: Stream,
        strategy: Strategy,
        sink: Sink,
        *,
        rho: int,
        dense: int,
        subset: int | None,
        seed: int,
        chunk: int,
        device: torch.device,
        precision: Callable[[], AbstractContextManager[Any]],
        channels_last: bool = False,
        diagnostics: tuple[str, ...] = (),
    ) -> None:
        self.stream, self.strategy, self.sink = stream, strategy, sink
        self.rho, self.dense = rho, dense
        self.precision, self.device = precision, device
        self.seconds = 0.0
        self.learned = stream.learned
        self.positions = [e.index for e in self.learned]
        with_task = stream.setting == "task"

        def bank(size: int | None, prepare: Callable[[Tensor], Tensor]) -> EvalBank:
            return EvalBank(
                self.learned,
                num_classes=stream.num_classes,
                with_task=with_task,
                subset=size,
                seed=seed,
                device=device,
                normalise=prepare,
                chunk=chunk,
                channels_last=channels_last,
            )

        self.bank = bank(subset, strategy.net.normalise)
        largest = max(len(e.eval) for e in self.learned)
        self.full = self.bank if subset is None or subset >= largest else bank(None, _raw)
        learners = list(strategy.readouts())
        self.readouts = [f"{name}/{mask}" for name in learners for mask in MASKS]
        self.primary = f"{learners[0]}/{'task' if with_task else 'seen'}"
        self.diagnostics = Diagnostics(strategy, self.bank, diagnostics, self.positions)
        self._bias = self._seen_biases()
        self._counts: list[tuple[int, int, int, Tensor]] = []
        self._losses: list[tuple[int, tuple[str, ...], Tensor]] = []
        self._lows: dict[int, float] = {}  # running minimum of each experience no longer trained
        self._sent = time.monotonic()

    def _seen_biases(self) -> list[Tensor]:
        """Per number of learnt experiences, the additive mask of the classes seen by then."""
        out = []
        bias = torch.full((self.stream.num_classes,), -torch.inf, device=self.device)
        for e in self.learned:
            bias = bias.clone()
            bias[list(e.classes)] = 0.0
            out.append(bias)
        return [out[0], *out]

    def num_seen(self, exp: Experience) -> int:
        """How many experiences have been met once `exp` is being trained."""
        return sum(p <= exp.index for p in self.positions)

    # -- observing ---------------------------------------------------------------------------

    def due(self, local: int, last: bool) -> bool:
        return is_due(local, rho=self.rho, dense=self.dense, last=last)

    def before_update(self, exp: Experience, local: int, last: bool) -> None:
        """Capture what a one-update difference needs; free unless diagnostics ask for it."""
        if self.diagnostics.needs_before and self.due(local, last):
            with self._watch():
                self.diagnostics.before(self.num_seen(exp))

    def gradients(self, iteration: int, terms: dict[str, Tensor]) -> None:
        """Split the gradient of the coming update; free unless diagnostics ask for it."""
        self.diagnostics.gradients(iteration, terms)

    def after_update(
        self, exp: Experience, iteration: int, local: int, last: bool, terms: dict[str, Tensor]
    ) -> None:
        """Record the losses of this update and, when it is due, every seen experience."""
        if terms:
            names = tuple(terms)
            values = torch.stack([t.detach().double() for t in terms.values()])
            self._losses.append((iteration, names, values))
        if self.due(local, last):
            self._observe(exp, iteration, len(self.learned) if last else self.num_seen(exp))
            with self._watch(active=bool(self.diagnostics.names)):
                self.diagnostics.after(iteration, self.num_seen(exp))
        full = max(len(self._counts), len(self._losses)) >= BLOCK
        if full or (dist.world() == 1 and time.monotonic() - self._sent > PATIENCE):
            self.flush()

    def boundary(self, exp: Experience, iteration: int, *, subset: bool) -> None:
        """Evaluate everything on the full sets; with `subset`, also for the trace."""
        if subset:
            self.observe(exp, iteration)
        self.flush()
        with self._watch():
            counts = dist.total(self._count(self.full, exp, len(self.learned))).cpu()
        rows = self._rows([(iteration, exp.index, self.num_seen(exp), counts)], self.full)
        self.sink.append("boundary", **rows)

    def observe(self, exp: Experience, iteration: int) -> None:
        """A row of the trace with every experience, those to come as well."""
        self._observe(exp, iteration, len(self.learned))

    def _observe(self, exp: Experience, iteration: int, upto: int) -> None:
        with self._watch():
            counts = self._count(self.bank, exp, upto)
        self._counts.append((iteration, exp.index, self.num_seen(exp), counts))

    def _count(self, bank: EvalBank, exp: Experience, upto: int) -> Tensor:
        return bank.counts(self.strategy.readouts(), upto, self._bias[self.num_seen(exp)])

    def _watch(self, active: bool = True) -> AbstractContextManager[None]:
        return _Watch(self, active)

    # -- sending -----------------------------------------------------------------------------

    def flush(self) -> None:
        """Bring everything observed so far to the host and to the sink.

        Raises TrainingError when a loss was not finite.
        """
        start = time.perf_counter()
        self._flush_losses()
        if self._counts:
            kept, self._counts = self._counts, []
            flat = dist.total(torch.cat([c.reshape(-1) for *_, c in kept])).cpu()
            parts = flat.split([c.numel() for *_, c in kept])
            host = [(*k[:3], p.view_as(k[3])) for k, p in zip(kept, parts, strict=True)]
            self.sink.append("trace", **self._rows(host, self.bank))
            self.sink.append("metrics", **self._series(host))
        for frame in self.diagnostics.drain():
            self.sink.append("metrics", **frame)
        self._sent = time.monotonic()
        self.seconds += time.perf_counter() - start

    def _flush_losses(self) -> None:
        kept, self._losses = self._losses, []
        while kept:  # runs of updates with the same terms become one frame
            names = kept[0][1]
            run = next((i for i, k in enumerate(kept) if k[1] != names), len(kept))
            block = torch.stack([v for *_, v in kept[:run]])
            values = (dist.total(block) / dist.world()).cpu().numpy()
            iteration = np.array([k[0] for k in kept[:run]], dtype=np.int64)
            kept = kept[run:]
            bad = np.argwhere(~np.isfinite(values))
            if len(bad):
                row, term = bad[0]
                raise TrainingError(
                    f"loss term {names[term]!r} is {values[row, term]} at iteration "
                    f"{iteration[row]}; lower optim.lr (or set clip) and run again."
                )
            keys = np.array([f"loss/{n}" for n in (*names, "total")])
            total = values.sum(1, keepdims=True)
            table = np.concatenate([values, total], axis=1)
            self.sink.append("metrics", keys=keys, iteration=iteration, values=table)

    def _rows(self, blocks: list[tuple[int, int, int, Tensor]], bank: EvalBank) -> dict[str, Any]:
        """Long-format columns; a class not seen yet has no row under the mask `seen`."""
        totals = np.array(bank.totals)
        names = np.array(self.readouts)
        columns: dict[str, list[Any]] = {
            k: [] for k in ("iteration", "train_experience", "eval_experience", "readout")
        }
        correct, sizes = [], []
        for iteration, train, seen, counts in blocks:
            upto = counts.shape[1]
            use = np.ones((len(names), upto), dtype=bool)
            hidden = torch.isinf(self._bias[seen]).cpu()
            for i in range(seen, upto):
                if self.strategy.net.growing:  # there is no output to ask yet
                    use[:, i] = False
                elif hidden[list(self.learned[i].classes)].any():
                    use[0 :: len(MASKS), i] = False
            r, e = np.nonzero(use)
            columns["iteration"].append(np.full(len(r), iteration, dtype=np.int64))
            columns["train_experience"].append(np.full(len(r), train, dtype=np.int64))
            columns["eval_experience"].append(np.array(self.positions, dtype=np.int64)[e])
            columns["readout"].append(names[r])
            correct.append(counts.numpy()[r, e].astype(np.int64))
            sizes.append(totals[e].astype(np.int64))
        out = {k: np.concatenate(v) for k, v in columns.items()}
        return out | {"correct": np.concatenate(correct), "total": np.concatenate(sizes)}

    def _series(self, blocks: list[tuple[int, int, int, Tensor]]) -> dict[str, Any]:
        """The curves people look at: accuracies, and of those not forgotten min-ACC and WC-ACC."""
        row = self.readouts.index(self.primary)
        keys = [f"acc/exp_{p:02d}" for p in self.positions] + ["min_acc", "wc_acc", "avg_acc"]
        values = np.full((len(blocks), len(keys)), np.nan)
        iteration = np.array([b[0] for b in blocks], dtype=np.int64)
        for i, (t, train, seen, counts) in enumerate(blocks):
            acc = counts[row, :seen].numpy() / np.array(self.bank.totals[:seen])
            values[i, :seen] = acc
            gone = {p for e in self.stream.experiences[: train + 1] for p in e.forgets}
            kept = [j for j in range(seen) if self.positions[j] not in gone]
            if t == 0 or not kept:
                continue
            *olds, latest = kept
            for old in olds:
                self._lows[old] = min(self._lows.get(old, math.inf), float(acc[old]))
            values[i, -1] = acc[kept].mean()
            values[i, -2] = acc[latest]
            if olds:
                low = sum(self._lows[old] for old in olds) / len(olds)
                values[i, -3] = low
                values[i, -2] = acc[latest] / len(kept) + (1 - 1 / len(kept)) * low
        return {"keys": np.array(keys), "iteration": iteration, "values": values}

    # -- resuming ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What the curves need to go on; call after `flush`."""
        return {"lows": dict(self._lows), "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._lows, self.seconds = dict(state["lows"]), state["seconds"]


def _raw(x: Tensor) -> Tensor:
    """The full sets stay as small as they came; boundaries are few."""
    return x


class _Watch:
    """Eval mode, the run's precision, untouched state, and the time it takes."""

    def __init__(self, owner: ContinualEvaluator, active: bool) -> None:
        self.owner, self.active = owner, active

    def __enter__(self) -> None:
        if self.active:
            self.start = time.perf_counter()
            strategy = self.owner.strategy
            self.inner = [frozen_state(strategy), evaluating(strategy), self.owner.precision()]
            for context in self.inner:
                context.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self.active:
            for context in reversed(self.inner):
                context.__exit__(*error)
            self.owner.seconds += time.perf_counter() - self.start
