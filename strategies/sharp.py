"""SHARP (Gurbuz et al., 2023): sparse layers, replay of activations, k-NN on stored features.

Every unit has a rank: 0 idle, 1 recruited in this experience, one more after each that follows.
Idle units never feed others. Early layers (up to the cut) are frozen from rank 2 on, late ones from
m + 2. At the start of phase p = 1, 2, ... of an experience, with tau(t) = (1 + cos(pi t / kappa))/2
and q = max(100 tau(max(p, 2)), q_min), each layer recruits the shortest list of its most active
units that has q % of its activity; connections idle -> recruited are dropped, and as many grow, at
0, into idle units. A step minimises, over the batch and a draw of stored activations,
    SupCon(z, y; T) + weight_decay (|W|^2 + |b|^2),      z: penultimate, idle units 0,
where stream samples that are alone in their class do not count. After an experience a class leaves
its activations at the cut, in 8 bits, for the m experiences to come, and its penultimate features
for good; those of the last m experiences are worked out anew. A query is classed by its k nearest
features, compared on the units that were recruited by the end of the class's own experience.

The mask of a class is not stored: ranks rise together, so these units are today those of rank
2 + (experiences since) or more. Nothing is predicted for classes that are still being learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from clframe.api import (
    Archive,
    Batch,
    ConfigError,
    Experience,
    Neighbours,
    Net,
    SparseChain,
    Strategy,
    StreamInfo,
    check_choice,
    check_range,
    class_counts,
    decode,
    encode,
    evaluating,
    first_of_each,
    gather,
    global_size,
    mean_of,
    pair_contrast,
    part,
    shared_rng,
)

SUBSET = 1024  # training samples that units are selected by
LEAST = {"phases": 1, "phase_epochs": 1, "replay_size": 1, "cut": 1, "s_stm": 1, "s_ltm": 1, "k": 1}
LEAST |= {"m": 0, "sparsity": 0, "q_min": 0, "weight_decay": 0}
LEAST |= dict.fromkeys(("kappa", "temperature", "lr", "gamma"), 1e-9)
MOST = {"sparsity": 0.999, "q_min": 100}


def tau(phase: int, kappa: float) -> float:
    return (1 + math.cos(math.pi * phase / kappa)) / 2


def most_active(activity: Tensor, q: float) -> Tensor:
    """The shortest list of units, most active first, with q % of the total, as bool [units]."""
    order = activity.argsort(descending=True, stable=True)
    sums = activity[order].cumsum(0)
    chosen = torch.zeros_like(activity, dtype=torch.bool)
    chosen[order[: int((100 * sums < q * sums[-1]).sum()) + 1]] = True
    return chosen


class Sharp(Strategy):
    """Sparse units that are recruited, tuned and frozen; activation replay; k-NN classification.

    phases: rewirings per experience (10); null takes as many as the run's `epochs` have room for.
    phase_epochs: passes over the data between them (3); else `epochs` of the run do not count.
    m: replay reaches back as many experiences, and late units are tuned in as many more (1).
    replay_size: stored activations per step over all ranks; null draws as many as the batch has.
    sparsity: share of connections that are absent; a first convolution has them all (0.6).
    cut: weighted layers before the cut; null: all convolutions, or the first layer if none (null).
    kappa: phases in which tau falls from 1 to 0 (30).
    q_min: least share of a layer's activity that its working units have, in % (90).
    temperature: T of the contrastive loss (0.1).
    lr: rate of Adadelta; null is the run's optimizer, which then lives through all phases (1.0).
    gamma: factor on `lr` from each phase to the next (1.0).
    weight_decay: weight of the squared weights and biases in the loss (0).
    s_stm: samples per class whose activations are kept (25).
    s_ltm: samples per class whose features are kept (25).
    k: neighbours that vote (5).
    store: what the short memory holds: "codes" (activations in 8 bits) or "images" (raw inputs).
    reinit: draw idle units anew after each experience (true).
    mask_idle_on_store: idle channels are 0 in stored activations (false).
    pretrained_early: the early layers came with `net.weights`: dense and never trained (false).

    Nets are chains of convolutions and linear layers with ReLU and pooling: mlp, cnn, lenet, vgg.
    The published one is vgg, batches of 256. `net.head` has no part in it.
    """

    def __init__(
        self,
        *,
        phases: int | None = 10,
        phase_epochs: int = 3,
        m: int = 1,
        replay_size: int | None = None,
        sparsity: float = 0.6,
        cut: int | None = None,
        kappa: float = 30,
        q_min: float = 90,
        temperature: float = 0.1,
        lr: float | None = 1.0,
        gamma: float = 1.0,
        weight_decay: float = 0.0,
        s_stm: int = 25,
        s_ltm: int = 25,
        k: int = 5,
        store: str = "codes",
        reinit: bool = True,
        mask_idle_on_store: bool = False,
        pretrained_early: bool = False,
    ) -> None:
        super().__init__()
        self.phases, self.phase_epochs, self.m, self.k = phases, phase_epochs, m, k
        self.replay_size, self.sparsity, self.cut, self.kappa = replay_size, sparsity, cut, kappa
        self.q_min, self.temperature, self.lr, self.gamma = q_min, temperature, lr, gamma
        self.s_stm, self.s_ltm, self.store, self.reinit = s_stm, s_ltm, store, reinit
        self.weight_decay, self.mask_idle_on_store = weight_decay, mask_idle_on_store
        self.pretrained_early = pretrained_early
        for name, least in LEAST.items():
            check_range(least, MOST.get(name, math.inf), **{name: getattr(self, name)})
        check_choice(("codes", "images"), store=store)
        self.stm, self.ltm = Archive(), Neighbours()
        self.register_buffer("done", torch.zeros((), dtype=torch.long))
        self.register_buffer("subset", torch.full((SUBSET,), -1))
        self._adadelta: torch.optim.Optimizer | None = None

    def attach(self, net: Net, info: StreamInfo) -> None:
        super().attach(net, info)
        if net.frozen:
            raise ConfigError("net.freeze: true leaves nothing to learn; set net.freeze=false.")
        net.head.requires_grad_(False)
        limits, kept = (2, self.m + 2), self.pretrained_early
        self.units = SparseChain(net.backbone, self.cut, limits, self.sparsity, kept=kept)

    def budget(self, exp: Experience) -> int | None:
        learns = exp.kind == "learn" and self.phases is not None
        return self.phases * self.phase_epochs if learns else None

    def optimizer(self, exp: Experience) -> torch.optim.Optimizer | None:
        if self.lr is not None:
            self._adadelta = torch.optim.Adadelta(self.trainable(), lr=self.lr)
        return self._adadelta

    def begin(self, exp: Experience) -> None:
        chosen = torch.randperm(len(exp.train), generator=shared_rng("subset"))[:SUBSET]
        self.subset.fill_(-1)[: len(chosen)] = chosen.to(self.subset)

    def begin_epoch(self, exp: Experience, epoch: int) -> None:
        phase, later = divmod(epoch, self.phase_epochs)
        if later:
            return
        index = self.subset[self.subset >= 0].to(exp.train.x.device)
        self.recruit(phase + 1, exp.train.x[index])
        if self._adadelta is not None:  # as good as a new one
            self._adadelta.state.clear()
            for group in self._adadelta.param_groups:
                group["lr"] = group["base_lr"] = self.lr * self.gamma**phase

    def recruit(self, phase: int, x: Tensor) -> None:
        """Choose the units of this experience by raw inputs `x`, and rewire around them."""
        q = max(100 * tau(max(phase, 2), self.kappa), self.q_min)
        x = self.net.normalise(x[part(len(x))].to(self.done.device))
        self.units.recruit([most_active(a.cpu(), q) for a in self.units.activity(x)])
        self.units.rewire()

    def before_step(self, batch: Batch) -> None:
        # momentum, decay and wrappers move weights that have no gradient: they are put back
        self._held = [p.detach().clone() for p, _ in self.units.parts()]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        z, labels = self._working(self.net.features(self.augment(batch.x))), gather(batch.y)
        paired = class_counts(labels, self.net.num_classes)[labels] > 1
        here = part(len(labels))
        own, place = paired[here], (paired.cumsum(0) - 1)[here]
        anchors = {"new": (z[own], batch.y[own], place[own])}
        everyone, labels = gather(z, of=batch.y)[paired], labels[paired]
        if len(self.stm):
            rows = self.stm.draw_classes(self.replay_size or global_size(batch.y))
            here, y = part(len(rows)), self.stm.column("y")[rows]
            old = self._working(self._recalled(rows[here]))
            place = len(labels) + torch.arange(len(rows), device=y.device)
            anchors["replay"] = (old, y[here], place[here])
            everyone, labels = torch.cat([everyone, gather(old)]), torch.cat([labels, y])
        return self._contrast(anchors, everyone, labels)

    def _contrast(
        self, anchors: dict[str, tuple[Tensor, ...]], everyone: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """The terms, of which samples that are alone in their class are no anchors."""
        paired = class_counts(labels, self.net.num_classes)[labels] > 1
        if not paired.any():
            return {}
        terms, count = {}, int(paired.sum())
        for name, (z, y, place) in anchors.items():
            z, y, place = (t[paired[place]] for t in (z, y, place))
            losses = pair_contrast(z, y, place, everyone, labels, self.temperature)
            terms[name] = mean_of(losses, count)
        if self.weight_decay:
            squares = sum(p.square().sum() for p, _ in self.units.parts())
            terms["decay"] = self.weight_decay * squares
        return terms

    def _working(self, features: Tensor) -> Tensor:
        return features.masked_fill(self.units[-1].rank == 0, 0.0)

    def _recalled(self, rows: Tensor) -> Tensor:
        """Penultimate features of these rows of the short memory."""
        if self.store == "images":
            return self.net.features(self.augment(self.stm.column("x")[rows]))
        codes, low, high = (self.stm.column(c)[rows] for c in ("codes", "low", "high"))
        return self.units.from_cut(decode(codes, low, high))

    @torch.no_grad()
    def after_backward(self) -> None:
        for parameter, fixed in self.units.parts():
            if parameter.grad is not None:
                parameter.grad.masked_fill_(fixed, 0.0)

    @torch.no_grad()
    def after_batch(self, batch: Batch) -> None:
        for held, (parameter, fixed) in zip(self._held, self.units.parts(), strict=True):
            parameter.copy_(torch.where(fixed, held, parameter))

    @torch.no_grad()
    def end(self, exp: Experience) -> bool:
        self.done += 1
        self.units.age()
        with torch.autocast(self.done.device.type, enabled=False), evaluating(self):
            self._renew(exp)
        return True

    def _renew(self, exp: Experience) -> None:
        """Fill the memories with what `exp` brought, in place of older samples of its classes."""
        for memory in (self.stm, self.ltm):
            memory.drop_classes(exp.train.y.unique())
        self._store(*self._first(exp, self.s_stm))
        if self.reinit:
            self.units.redraw()
        x, columns = self._first(exp, self.s_ltm)
        self.ltm.append(features=self._mapped(self.net.features, x), **columns)
        older = torch.nonzero(self.stm.column("group") < self.done).flatten()
        rows = older[first_of_each(self.stm.column("y")[older], self.s_ltm)]
        columns = {name: self.stm.column(name)[rows] for name in columns}
        self.ltm.drop_classes(columns["y"])
        self.ltm.append(features=self._mapped(self._recalled, rows), **columns)
        self.stm.keep(self.stm.column("group") > self.done - self.m)

    def _first(self, exp: Experience, count: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Inputs of the first `count` samples of each class, and columns that say what they are."""
        batch = exp.train.take(first_of_each(exp.train.y, count))
        x, y, uid = (t.to(self.done.device) for t in (batch.x, batch.y, batch.uid))
        return x, {"y": y, "uid": uid, "group": torch.ones_like(y) * self.done}

    def _store(self, x: Tensor, columns: dict[str, Tensor]) -> None:
        """Into the short memory, class by class in 8 bits."""
        if self.store == "images":
            self.stm.append(x=x, **columns)
            return
        values = self._mapped(self.units.to_cut, self.net.normalise(x))
        if self.mask_idle_on_store:
            values = self.units.without_idle(values)
        self.stm.append(**encode(values, columns["y"]), **columns)

    def _mapped(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """`function` of all rows, of which each rank works out its part."""
        pieces = [function(some) for some in rows[part(len(rows))].split(SUBSET)]
        return gather(torch.cat(pieces))

    @torch.no_grad()
    def predict(self, x: Tensor, task: Tensor | None) -> Tensor:
        """Votes of the nearest stored features, of the task's own if given; at first all alike."""
        with torch.autocast(x.device.type, enabled=False):  # near and far is a matter of digits
            features = self.net.features(x)
            if not len(self.ltm):  # a number that depends on how the features were had
                return features.sum(1, keepdim=True).expand(-1, self.net.num_classes)
            few, classes = self.k, self.net.num_classes
            return self.ltm.vote(features, few, classes, self._units_of, pooled=task is None)

    def _units_of(self, experience: int) -> Tensor:
        """Penultimate units recruited by the end of an experience (from 1 on), bool [d]."""
        return self.units[-1].rank >= 2 + self.done - experience

    def forget(self, exp: Experience) -> bool:
        before = len(self.ltm)
        super().forget(exp)
        return len(self.ltm) < before
