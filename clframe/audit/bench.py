"""What runs that forgot the same are judged by: the data, the companions, and what those answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from clframe.audit import agreement, attacks
from clframe.audit.attacks import Attack, Outputs, Sets
from clframe.audit.evidence import Forgotten, answers, features, gather
from clframe.audit.recovery import Lesson
from clframe.config.companions import Audit
from clframe.config.schema import RunConfig
from clframe.core.strategy import Strategy
from clframe.engine.build import make_stream
from clframe.engine.load import load_run
from clframe.errors import ClframeError

T = TypeVar("T")
Distances = dict[str, float | None]


@dataclass(frozen=True)
class Case:
    """A run's folder with those of its companions; `peers`: retrained runs on the same data."""

    cfg: RunConfig
    folder: Path
    retrained: Path
    unasked: Path
    peers: tuple[Path, ...]


class Bench:
    """Everything that the cases of one seed and sequence share, each worked out once.

    M_r is the retrained run, M_o the one never asked. `case` may be any of the cases.
    """

    def __init__(self, case: Case, audit: Audit) -> None:
        self.case, self.audit = case, audit
        self.evidence = gather(make_stream(case.cfg), audit.samples)
        if self.evidence.forgotten and not self.evidence.retain_train:
            raise ClframeError("nothing is held at the end, so there is nothing to compare with")
        self._again: dict[tuple[int, ...], Any] = {}

    @cached_property
    def retrained(self) -> Strategy:
        return load_run(self.case.retrained)

    @cached_property
    def answered(self) -> dict[str, Sets]:
        """What M_r and M_o answer."""
        return {
            "retrained": self.ask(self.retrained),
            "unasked": self.ask(load_run(self.case.unasked)),
        }

    @cached_property
    def attacked(self) -> dict[str, dict[str, Attack]]:
        """Every attack on M_r and M_o."""
        return {name: self.attack(sets) for name, sets in self.answered.items()}

    @cached_property
    def peers(self) -> dict[str, tuple[list[Outputs], list[npt.NDArray[np.float64] | None]]]:
        """By split of test data, what all retrained runs answer, and their features."""
        models = [load_run(p) for p in self.case.peers]
        return {
            split: (
                [answers(m, parts, self.evidence) for m in models],
                [features(m, parts) for m in models],
            )
            for split, parts in self.evidence.tests.items()
        }

    @cached_property
    def active(self) -> npt.NDArray[np.bool_] | None:
        """The classes that may be answered where some are held no more; None is all."""
        lost = self.evidence.emptied
        if self.evidence.by_task or not lost:
            return None
        return ~np.isin(self.evidence.retain_train[0].classes, lost)

    @cached_property
    def floors(self) -> dict[str, Distances]:
        """By split, the distances between retrained runs of different seeds, on the same data."""
        found = {}
        for split, (given, seen) in self.peers.items():
            outputs, distances = [g.p for g in given], agreement.divergences(self.active)
            found[split] = {k: agreement.noise_floor(outputs, f) for k, f in distances.items()}
            if all(x is not None for x in seen):
                of_features = agreement.FEATURES.items()
                found[split] |= {k: agreement.noise_floor(seen, f) for k, f in of_features}
        return found

    def ask(self, model: Strategy) -> Sets:
        """What a model answers to everything."""
        parts = (getattr(self.evidence, split) for split in Sets._fields)
        return Sets(*(answers(model, p, self.evidence) for p in parts))

    def attack(self, sets: Sets) -> dict[str, Attack]:
        """All attacks on a model that answers so."""
        number = self.audit.attack_samples
        return attacks.run_attacks(sets, seed=self.case.cfg.seed, per_task=number)

    def lesson(self, lost: Forgotten) -> Lesson:
        """How models learn again what one request took."""
        return Lesson(self.case.cfg, lost, self.evidence.by_task)

    def curve(self, lost: Forgotten, model: Strategy) -> list[float]:
        """Accuracy before and after each step of learning it again, of a copy of `model`."""
        steps = self.audit.relearn_steps
        return self._once(model, (lost.position,), lambda: self.lesson(lost).curve(model, steps))

    def recovery(self, lost: Forgotten, model: Strategy, images: int) -> float | None:
        """Accuracy at the end of learning it again from so many images of each class."""
        key, steps = (lost.position, images), self.audit.relearn_steps
        return self._once(model, key, lambda: self.lesson(lost).after(model, steps, images))

    def _once(self, model: Strategy, key: tuple[int, ...], make: Callable[[], T]) -> T:
        """Of M_r, what was made before under this key."""
        if model is not self.retrained:
            return make()
        if key not in self._again:
            self._again[key] = make()
        found: T = self._again[key]
        return found
