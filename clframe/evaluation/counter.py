"""Counts on one bank in the cheapest way the run may take, and proves it against the plain one."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from clframe.core import dist
from clframe.core.strategy import Frozen, Strategy
from clframe.errors import TrainingError
from clframe.evaluation.bank import EvalBank, View
from clframe.evaluation.counting import count, plain
from clframe.evaluation.shortcuts import FeatureCache, Recorded, SecondLook, cuda_graph

log = logging.getLogger(__name__)

Mode = Literal["plain", "cached", "bf16", "graph"]


@dataclass(frozen=True)
class Plan:
    """How to count: `mode` says by which shortcut, `chunk` how many samples go through at once.

    plain: the run's own forward. cached: the same behind kept features, where a strategy declares
    them. bf16: `SecondLook` (kept features, too). graph: the plain forward as a CUDA graph.
    """

    mode: Mode
    chunk: int


class Counter:
    """Correct predictions of `strategy` on a bank; equal counts whatever the plan."""

    def __init__(
        self,
        bank: EvalBank,
        strategy: Strategy,
        plan: Plan,
        features: FeatureCache | None = None,
    ) -> None:
        self.bank, self.strategy, self.plan = bank, strategy, plan
        self.fallback: str | None = None
        self.features = features or FeatureCache()
        self._second = SecondLook()
        self._recorded = Recorded(cuda_graph)
        self._view: tuple[object, View] | None = None

    def __call__(self, upto: int, seen: int, mask: Tensor) -> Tensor:
        """[readouts * 3, upto] int64; `mask` is the additive one of the `seen` experiences met."""
        bank, plan = self.bank, self.plan
        frozen = self._frozen() if plan.mode in ("cached", "bf16") else None
        x, readouts = bank.x, self.strategy.readouts()
        if frozen is not None:
            x, readouts = self.features(frozen, bank.x, plan.chunk), dict(frozen.readouts)
        key = (upto, seen, frozen is not None, self.features.round)
        if self._view is None or self._view[0] != key:
            self._view = key, bank.view(upto, seen, x)
        view = self._view[1]
        if plan.mode == "graph" and self.strategy.predicts_plainly():

            def work() -> Tensor:
                return count(view, readouts, mask, bank.own, chunk=plan.chunk)

            return self._recorded(work, self.strategy, *key, mask.data_ptr())
        look = self._second if plan.mode == "bf16" else plain
        return count(view, readouts, mask, bank.own, chunk=plan.chunk, look=look)

    def _frozen(self) -> Frozen | None:
        """The strategy's declaration, unless an optimizer may write to what it declares."""
        frozen = self.strategy.frozen_features()
        if frozen is None:
            return None
        names = list(self.strategy.readouts())
        if not isinstance(frozen.module, nn.Module) or list(frozen.readouts) != names:
            raise TrainingError(
                f"{type(self.strategy).__name__}.frozen_features: expected an nn.Module and the "
                f"readouts {names}, not {frozen.module!r} and {list(frozen.readouts)}."
            )
        if any(p.requires_grad for p in frozen.module.parameters()):
            return None
        return frozen

    def plainly(self, upto: int, seen: int, mask: Tensor) -> Tensor:
        """The same without any shortcut."""
        view, readouts = self.bank.view(upto, seen), self.strategy.readouts()
        return count(view, readouts, mask, self.bank.own, chunk=self.plan.chunk)

    def prove(self, upto: int, seen: int, mask: Tensor) -> None:
        """Before the first update: where the shortcut fails, say so and count plainly."""
        try:
            problem = self.problem(upto, seen, mask)
        except TrainingError:
            raise
        except RuntimeError as error:  # a graph that cannot be recorded, a type without kernels
            problem = f"{type(error).__name__}: {error}"
        problem = _anyones(problem)
        if problem is not None:
            self.fallback = f"eval.mode {self.plan.mode} was given up at the start: {problem}"
            self.plan = replace(self.plan, mode="plain")
            log.warning("%s; evaluating plainly", self.fallback)

    def confirm(self, upto: int, seen: int, mask: Tensor, iteration: int) -> None:
        """Raise TrainingError where the counts before `iteration` may have been wrong."""
        if problem := _anyones(self.problem(upto, seen, mask)):
            raise TrainingError(
                f"eval.mode {self.plan.mode} counted wrongly before iteration {iteration}: "
                f"{problem}. Mend {type(self.strategy).__name__}.frozen_features, or set "
                "eval.mode=plain; then delete this run's folder and run it again."
            )

    def problem(self, upto: int, seen: int, mask: Tensor) -> str | None:
        """How the shortcut's counts differ from those of `plainly`; None if they do not."""
        mode = self.plan.mode
        if mode == "plain" or (mode == "cached" and self._frozen() is None):
            return None
        if mode == "graph" and not self.strategy.predicts_plainly():
            return "the strategy predicts in a way of its own"
        wrong = int((self(upto, seen, mask) != self.plainly(upto, seen, mask)).sum())
        return f"{wrong} counts differ from the plain forward's" if wrong else None


def _anyones(problem: str | None) -> str | None:
    """The first problem that any rank has: they count in one way."""
    return next((p for p in dist.everyones(problem) if p is not None), None)
