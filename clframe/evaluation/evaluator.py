"""The continual evaluator: accuracy on every experience seen so far, after every due update."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from clframe.core import dist
from clframe.core.experience import Experience, Stream
from clframe.core.net import evaluating, same_randomness
from clframe.core.strategy import Strategy
from clframe.errors import TrainingError
from clframe.evaluation.bank import EvalBank
from clframe.evaluation.counter import Counter, Plan
from clframe.evaluation.counting import MASKS
from clframe.evaluation.diagnostics import Diagnostics
from clframe.evaluation.frames import Block, Frames
from clframe.evaluation.schedule import is_due
from clframe.evaluation.trial import choose, untried

BLOCK = 256  # observations kept on the device before they go to the host together
PATIENCE = 1.0  # seconds after which a single process sends what it has, for the progress bar


class Sink(Protocol):
    """Where frames go: `tracking.journal.Journal`, or nothing on ranks other than 0."""

    def append(self, kind: str, **arrays: Any) -> None: ...


class ContinualEvaluator:
    """Observes a strategy and changes nothing: modes, buffers and generators are as before.

    Counts and losses stay on the device; `flush` brings a block of them to the host, sums the
    counts over ranks and appends them to `sink` as frames `trace`, `boundary` and `metrics`.
    `primary` names the readout of every table, such as "net/seen". How it counts is its `plan`,
    chosen at the first observation and compared with the plain forward there and at boundaries.
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
        plan: Plan,
        device: torch.device,
        precision: Callable[[], AbstractContextManager[Any]],
        budget: int | None = None,
        mode: str = "plain",
        fixed_chunk: bool = True,
        channels_last: bool = False,
        diagnostics: tuple[str, ...] = (),
    ) -> None:
        self.stream, self.strategy, self.sink = stream, strategy, sink
        self.rho, self.dense, self.precision, self.device = rho, dense, precision, device
        self.mode, self.fixed_chunk, self.seconds = mode, fixed_chunk, 0.0
        self.trial: dict[str, float] | None = None  # None: not yet held
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
                channels_last=channels_last,
                budget=budget if size is not None else None,
            )

        largest = max(len(e.eval) for e in self.learned)
        whole = subset is None or subset >= largest
        self.bank = bank(largest if whole else subset, strategy.net.normalise)
        full = self.bank if whole and budget is None else bank(None, _raw)
        self.counter = Counter(self.bank, strategy, plan)
        shared = self.counter.features if full is self.bank else None
        self.full = Counter(full, strategy, plan, shared)
        learners = list(strategy.readouts())
        self.readouts = [f"{name}/{mask}" for name in learners for mask in MASKS]
        self.primary = f"{learners[0]}/{'task' if with_task else 'seen'}"
        self.diagnostics = Diagnostics(
            strategy, self.bank, diagnostics, self.positions, lambda: self.counter.plan.chunk
        )
        self._frames = Frames(stream, self.readouts, self.primary, strategy.net.growing)
        self._masks = self._seen_masks()
        self._blocks: list[Block] = []
        self._observed = 0
        self._losses: list[tuple[int, tuple[str, ...], Tensor]] = []
        self._sent = time.monotonic()

    def _seen_masks(self) -> list[Tensor]:
        """Per number of learnt experiences, the additive mask of the classes seen by then."""
        out = []
        mask = torch.full((self.stream.num_classes,), -torch.inf, device=self.device)
        for e in self.learned:
            mask = mask.clone()
            mask[list(e.classes)] = 0.0
            out.append(mask)
        return [out[0], *out]

    def facts(self) -> dict[str, Any]:
        """The plan, the milliseconds of the trial that it won, and why it was given up, if so."""
        return {
            "plan": asdict(self.counter.plan),
            "trial_ms": self.trial or {},
            "fallback": self.counter.fallback,
            "features_kept": self.counter.features.round > 0,
        }

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
            values = torch.stack([t.detach() for t in terms.values()])
            self._losses.append((iteration, names, values))
        if self.due(local, last):
            self._observe(exp, iteration, len(self.learned) if last else self.num_seen(exp))
            with self._watch(active=bool(self.diagnostics.names)):
                self.diagnostics.after(iteration, self.num_seen(exp))
        full = max(self._observed, len(self._losses)) >= BLOCK
        if full or (dist.world() == 1 and time.monotonic() - self._sent > PATIENCE):
            self.flush()

    def boundary(self, exp: Experience, iteration: int, *, subset: bool) -> None:
        """Evaluate everything on the full sets; with `subset`, also for the trace."""
        if subset:
            self.observe(exp, iteration)
        self.flush()
        seen, upto = self.num_seen(exp), len(self.learned)
        with self._watch():
            self.counter.confirm(upto, seen, self._masks[seen], iteration)
            counts = dist.total(self.full(upto, seen, self._masks[seen])).cpu().numpy()
        block = Block(exp.index, seen, upto, self.full.bank.totals, [iteration])
        self.sink.append("boundary", **self._frames.rows(block, counts[None]))

    def observe(self, exp: Experience, iteration: int) -> None:
        """A row of the trace with every experience, those to come as well."""
        self._observe(exp, iteration, len(self.learned))

    def _observe(self, exp: Experience, iteration: int, upto: int) -> None:
        seen = self.num_seen(exp)
        with self._watch():
            if self.trial is None:
                self._choose(upto, seen)
            counts = self.counter(upto, seen, self._masks[seen])
        last = self._blocks[-1] if self._blocks else None
        if last is None or (last.train, last.seen, last.upto) != (exp.index, seen, upto):
            totals = self.bank.shares(upto, seen)
            last = Block(exp.index, seen, upto, totals)
            self._blocks.append(last)
        last.iterations.append(iteration)
        last.counts.append(counts)
        self._observed += 1

    def _choose(self, upto: int, seen: int) -> None:
        """Hold the trial, unless there is little to evaluate, and prove what won."""
        default = self.counter.plan
        self.counter.plan, self.trial = untried(default, self.mode), {}
        if self.rho or self.dense:
            found = choose(
                self.bank, self.strategy, default, mode=self.mode, fixed=self.fixed_chunk
            )
            self.counter.plan, self.trial = dist.agreed(found)
        self.counter.prove(upto, seen, self._masks[seen])
        self._use(self.counter.plan)

    def _use(self, plan: Plan) -> None:
        """Full sets are counted plainly, save for features that are kept anyway."""
        self.counter.plan = plan
        kept = plan.mode in ("cached", "bf16")
        self.full.plan = Plan("cached" if kept else "plain", plan.chunk)

    def _watch(self, active: bool = True) -> AbstractContextManager[None]:
        return _Watch(self, active)

    # -- sending -----------------------------------------------------------------------------

    def flush(self) -> None:
        """Bring everything observed so far to the host and to the sink.

        Raises TrainingError when a loss was not finite.
        """
        start = time.perf_counter()
        self._flush_losses()
        if self._blocks:
            kept, self._blocks, self._observed = self._blocks, [], 0
            every = [c for block in kept for c in block.counts]
            flat = dist.total(torch.cat([c.reshape(-1) for c in every])).cpu().numpy()
            sizes = [len(b.iterations) * len(self.readouts) * b.upto for b in kept]
            for block, part in zip(kept, np.split(flat, np.cumsum(sizes)[:-1]), strict=True):
                counts = part.reshape(len(block.iterations), len(self.readouts), block.upto)
                self.sink.append("trace", **self._frames.rows(block, counts))
                self.sink.append("metrics", **self._frames.series(block, counts))
        for frame in self.diagnostics.drain():
            self.sink.append("metrics", **frame)
        self._sent = time.monotonic()
        self.seconds += time.perf_counter() - start

    def _flush_losses(self) -> None:
        kept, self._losses = self._losses, []
        while kept:  # runs of updates with the same terms become one frame
            names = kept[0][1]
            run = next((i for i, k in enumerate(kept) if k[1] != names), len(kept))
            block = torch.stack([v for *_, v in kept[:run]]).double()
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

    # -- resuming ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What the curves need to go on, and how to count; call after `flush`."""
        frames = self._frames  # a net may begin to grow when a class is discarded
        kept = {"lows": dict(frames.lows), "after": dict(frames.after), "growing": frames.growing}
        return kept | {"seconds": self.seconds, "counting": self.facts()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._frames.lows, self._frames.after = dict(state["lows"]), dict(state["after"])
        self._frames.growing = state["growing"]
        self.seconds = state["seconds"]
        counting = state["counting"]
        self.trial, self.counter.fallback = counting["trial_ms"], counting["fallback"]
        self._use(Plan(**counting["plan"]))


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
            self.inner = [evaluating(strategy), same_randomness(), self.owner.precision()]
            for context in self.inner:
                context.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self.active:
            for context in reversed(self.inner):
                context.__exit__(*error)
            self.owner.seconds += time.perf_counter() - self.start
