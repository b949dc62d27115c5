"""Power-law rehearsal (arXiv 2401.10393): meet earlier experiences ever more seldom, never not.

At phase i, counted from 0 over what is learned, the data is all N samples of the new experience and
n_j of each earlier one, j = 0..i-1, whose lag is l = i - j:
    unrestricted     n = N (1 + l/10)^-b                      b = 5.6, 2.6 N at the tenth phase
    a fixed budget   n = R w_j / sum w,   R = floor(r N)
      reverse_power  w = (10 + i - l)^4                       of the place from the oldest, not of l
      exponential    w = exp(-l / beta)
      uniform        w = 1
      power          w = l^-d                                 inferred
      shifted_power  w = (1 + l/10)^-b                        inferred
    all              n = N: the paper's upper bound; its lower one is fine_tune
The counts are of distinct samples, which are drawn anew at every phase and are then in each of its
epochs. Published in abstracts and in a student project's code that fits them, which tabulates
`unrestricted` and cuts the others off (`rounding: floor`). Inferred: bounded storage, weighted
memories, `lag: last_seen`, forgetting (what is withdrawn drops out; no other count changes).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clframe.api import (
    Archive,
    ConfigError,
    Experience,
    Net,
    ReplayBuffer,
    Samples,
    Strategy,
    StreamInfo,
    Wrapper,
    check_above,
    check_choice,
    check_least,
    check_range,
    generator,
    shared_rng,
)

WEIGHTS: dict[str, Callable[[Law, int, int], float]] = {
    "reverse_power": lambda law, lag, phase: (10 + phase - lag) ** 4,
    "exponential": lambda law, lag, phase: math.exp((1 - lag) / law.beta),
    "uniform": lambda law, lag, phase: 1.0,
    "power": lambda law, lag, phase: lag**-law.d,
    "shifted_power": lambda law, lag, phase: (1 + lag / 10) ** -law.b,
}
GUARD = 1e-9  # what an integer may lack after floating-point arithmetic
LEAST = 1e-30  # weight of a memory row: it may be drawn where there are no others

log = logging.getLogger(__name__)


class Law(NamedTuple):
    """How much of each earlier experience is met; `lags` are theirs, the oldest one's first."""

    name: str
    amount: float = 1.0
    b: float = 5.6
    d: float = 1.0
    beta: float = 1.0

    def rates(self, lags: Sequence[int]) -> list[float]:
        """n / N, unrounded."""
        if self.name == "all":
            return [1.0] * len(lags)
        if self.name == "unrestricted":
            return [(1 + lag / 10) ** -self.b for lag in lags]
        return [self.amount * share for share in self.shares(lags)]

    def shares(self, lags: Sequence[int]) -> list[float]:
        """Of a budget; they add up to 1."""
        weights = [WEIGHTS[self.name](self, lag, len(lags)) for lag in lags]
        return [weight / sum(weights) for weight in weights]

    def counts(self, size: int, lags: Sequence[int], rounding: str = "largest") -> list[int]:
        """n beside `size` new samples.

        By largest remainder they add up to floor(amount * size), the later experience first among
        equals; without a budget each is rounded on its own.
        """
        if self.name not in WEIGHTS:
            more = 0.5 if rounding == "largest" else GUARD
            return [math.floor(size * rate + more) for rate in self.rates(lags)]
        budget = math.floor(self.amount * size + GUARD)
        exact = [budget * share for share in self.shares(lags)]
        whole = [math.floor(n + GUARD) for n in exact]
        if rounding == "largest":
            order = sorted(range(len(lags)), key=lambda j: (round(whole[j] - exact[j], 9), -j))
            for j in order[: budget - sum(whole)]:
                whole[j] += 1
        return whole


class PowerLaw(Wrapper):
    """Train any strategy on the new experience and on ever fewer samples of the earlier ones.

    law: "unrestricted", "reverse_power", "exponential", "uniform", "power", "shifted_power", "all".
    amount: budget of the five in the middle, in sizes of the new experience: r, from 0 to 1 (0.5).
    b: exponent of unrestricted and shifted_power (5.6).
    d: exponent of power (1).
    beta: lags in which exponential falls to 1/e (1).
    rounding: "largest" (remainder; no sample is lost) or "floor" (as released).
    lag: phases since an experience was "introduced" (as released) or "last_seen", rehearsal
        included, so that lags exceed 1 only where a count was 0.
    over: "data" (the schedule) or "memory" (see below).
    stored: keep as many samples of each experience, drawn when it ends, and rehearse from them
        alone; null has all earlier data at hand.
    oversample: draw more samples than there are with replacement (false: take each once, and say
        in the log how many are missing).

    `power_law+fine_tune` is the rehearsal environment itself; a base with a memory of its own is
    offered rehearsed samples too. A base that chooses its own data, as joint does, is refused.
    With over=memory the data is left alone: what `base` draws from its memories is weighted by n/N
    of each row's experience, the newest counting 1. A sample of several experiences is of the
    latest. Which samples are drawn depends on nothing but the seed and the two experiences.
    """

    def __init__(
        self,
        base: Strategy,
        *,
        law: str = "unrestricted",
        amount: float = 0.5,
        b: float = 5.6,
        d: float = 1.0,
        beta: float = 1.0,
        rounding: str = "largest",
        lag: str = "introduced",
        over: str = "data",
        stored: int | None = None,
        oversample: bool = False,
    ) -> None:
        super().__init__(base)
        check_choice(("unrestricted", *WEIGHTS, "all"), law=law)
        check_choice(("largest", "floor"), rounding=rounding)
        check_choice(("introduced", "last_seen"), lag=lag)
        check_choice(("data", "memory"), over=over)
        check_range(0, 1, amount=amount)
        check_range(0, 100, b=b, d=d)
        check_above(0, beta=beta)
        check_least(1, stored=stored)
        if over == "memory" and stored is not None:
            raise ConfigError(f"stored: {stored} has no use with over=memory; leave it out.")
        if over == "memory" and lag == "last_seen":
            raise ConfigError("lag: 'last_seen' is for over=data; give introduced.")
        self.law, self.rounding, self.lag = Law(law, amount, b, d, beta), rounding, lag
        self.over, self.stored, self.oversample = over, stored, oversample
        self.archive = Archive()
        self.planned: list[list[int]] = []  # counts of each ended phase, oldest experience first
        self._plan: list[int] = []
        self._know_nothing()

    def attach(self, net: Net, info: StreamInfo) -> None:
        super().attach(net, info)
        self.seed = shared_rng("power_law").initial_seed()
        if self.over == "data" and self.reference == "joint":
            raise self._chosen_already()
        if self.over == "memory":
            buffers = [m for m in self.base.modules() if isinstance(m, ReplayBuffer)]
            if not buffers:
                raise ConfigError(
                    f"over: 'memory' needs a replay memory, which {type(self.base).__name__} "
                    "has not; give data, or wrap replay."
                )
            for buffer in buffers:
                buffer.weigh = self._weigher(buffer.weigh)

    def data(self, exp: Experience, past: Sequence[Experience]) -> Samples | None:
        own = self.base.data(exp, past)
        if self.over == "memory":
            self._look_up([*past, exp] if exp.kind == "learn" else past)
            self._at = exp.index
        if self.over == "memory" or exp.kind == "forget":
            return own
        if own is not None:
            raise self._chosen_already()
        size = len(exp.train)
        self._plan = [*self.law.counts(size, self._lags(len(past)), self.rounding), size]
        parts = [self._draw(old, exp, n) for old, n in zip(past, self._plan[:-1], strict=True)]
        parts = [part for part in parts if len(part)]
        return Samples.cat([*parts, exp.train]) if parts else None

    def _chosen_already(self) -> ConfigError:
        return ConfigError(
            f"over: 'data' cannot add to what {type(self.base).__name__} has chosen to train on; "
            "wrap a strategy that trains on what comes, as fine_tune or replay."
        )

    def _lags(self, phase: int) -> list[int]:
        """The lag of each earlier experience, oldest first."""
        if self.lag == "introduced":
            return [phase - j for j in range(phase)]
        met = list(range(phase))
        for i, plan in enumerate(self.planned):
            met[: i + 1] = [i if n else last for n, last in zip(plan, met, strict=False)]
        return [phase - i for i in met]

    def _draw(self, old: Experience, exp: Experience, n: int) -> Samples:
        """`n` samples of an earlier experience to train on beside `exp`."""
        rows = self._at_hand(old)
        have = len(rows)
        if self.law.name == "all":
            n = have
        g = generator(self.seed, "power_law", exp.origin, old.origin)
        if n > have and have and self.oversample:
            index = torch.randint(have, (n,), generator=g)
        else:
            index = torch.randperm(have, generator=g)[:n]
            if 0 < have < n:
                message = "experience %d rehearses experience %d with %d samples, short of %d"
                log.warning(message, exp.index, old.index, have, n)
        return Samples(*rows.take(index.to(rows.y.device))).to(exp.train.x.device)

    def _at_hand(self, exp: Experience) -> Samples:
        """What there is of an earlier experience."""
        if self.stored is None:
            return exp.train
        if not len(self.archive):
            return Samples(*exp.train.take(torch.empty(0, dtype=torch.long)))
        own = torch.nonzero(self.archive.column("experience") == exp.index).flatten()
        x, y, task, uid = (self.archive.column(c)[own] for c in ("x", "y", "task", "uid"))
        return Samples(x, y, task, uid)

    def end(self, exp: Experience) -> bool | None:
        if self.over == "data":
            self.planned.append(self._plan)
        if self.stored is not None:
            index = torch.randperm(len(exp.train), generator=shared_rng("power_law/store"))
            rows = exp.train.take(index[: self.stored].to(exp.train.y.device))
            place = torch.full_like(rows.y, exp.index)
            self.archive.append(**rows._asdict(), experience=place)
        changed = super().end(exp)
        self._know_nothing()
        return changed

    def forget(self, exp: Experience) -> bool | None:
        if self._at != exp.index:  # `data` was not asked: as in a run that is resumed here
            self._know_nothing()
        self.archive.forget(uids=torch.tensor(exp.uids, dtype=torch.long))
        return super().forget(exp)

    def _know_nothing(self) -> None:
        """Until `data` is asked again, rows weigh alike: weights are no part of a checkpoint."""
        self._uid, self._weight = torch.empty(0, dtype=torch.long), torch.empty(0).double()
        self._at = -1

    def _look_up(self, learned: Sequence[Experience]) -> None:
        """What a memory row of each sample weighs now that the last of `learned` is the newest."""
        rates = [*self.law.rates(self._lags(len(learned) - 1)), 1.0]
        uid = torch.cat([e.train.uid.cpu() for e in learned])
        pairs = zip(learned, rates, strict=True)
        weight = torch.cat([torch.full((len(e.train),), r, dtype=torch.double) for e, r in pairs])
        self._uid, order = uid.sort(stable=True)
        self._weight = weight[order].clamp_min(LEAST)

    def _weigher(
        self, own: Callable[[ReplayBuffer], Tensor] | None
    ) -> Callable[[ReplayBuffer], Tensor]:
        """The weights of a memory's rows, on top of what weighs them already."""

        def weigh(buffer: ReplayBuffer) -> Tensor:
            uid = buffer.column("uid").cpu()
            if not len(self._uid):
                return torch.ones(len(uid), dtype=torch.double)
            at = torch.searchsorted(self._uid, uid, right=True).sub_(1).clamp_min_(0)
            weight = self._weight[at].where(self._uid[at] == uid, 1.0)
            return weight if own is None else weight * own(buffer).cpu().double()

        return weigh

    def get_extra_state(self) -> dict[str, Any]:
        return {"planned": [list(plan) for plan in self.planned]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.planned = [list(plan) for plan in state["planned"]]
