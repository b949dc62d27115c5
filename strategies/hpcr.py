"""PCR and HPCR (Lin et al., 2023 and 2025): contrast samples with the proxies of present classes.

The current batch and a draw of the memory come in two views each, plain and augmented; Y are all
their labels, n_c of them c. Proxies w_c are the rows of a cosine head, s_ic = cos(z_i, w_c) / tau:
    L_PCR = mean over i of [-s_i,y_i + log sum_c n_c exp(s_ic)]
    L = tau_s(i) L_PCR + alpha L_PCD + beta L_SCD      (the last two from the second experience on)
tau_s swings the temperature of the gradient from tau_high to tau_low and back within `period`
batches. L_PCD is the squared change of the memory rows' logits, a mean over the columns Y; L_SCD
the cross-entropy between their cosines with each other then and now. The stored logits and
features are those of the plain view in train mode, before the (last) update on that batch.

As in the authors' code, whose runs are a single pass, nothing happens while the memory is empty,
and a batch is offered to it afterwards. Unlike there, the reservoir is exact (Algorithm R), rows
and features of a partly filled memory belong together, and no last incomplete batch is dropped.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from clframe.api import (
    Batch,
    ConfigError,
    CosineLinear,
    Experience,
    Net,
    ReplayBuffer,
    ResizedCrop,
    Strategy,
    StreamInfo,
    check_above,
    check_choice,
    check_least,
    class_counts,
    gather,
    global_size,
    mean_of,
    pair_contrast,
    part,
    proxy_contrast,
    proxy_distillation,
    relation_distillation,
)


class Hpcr(Strategy):
    """Proxy-contrastive replay; with period=0, alpha=0 and beta=0 it is PCR (preset `pcr`).

    capacity: samples in memory (1000).
    replay_size: samples drawn per step over all ranks; null draws as many as the batch has.
    temperature: tau of all cosines (0.09).
    pair_mode: what competes with a sample: "proxy" (proxies of present classes), "one" (all other
        samples too), "all" (and each proxy is an anchor), "auto" ("one" for large draws).
    pair_threshold: samples drawn from which "auto" is "one" (100; ours, the paper's is unknown).
    tau_low: temperature of the gradient in the middle of a period (0.05).
    tau_high: temperature of the gradient at the ends of a period (0.16).
    period: batches in which it swings once, counted in each experience (500); 0: it does not.
    alpha: weight of the proxy-level distillation (0.1; CIFAR-10: 0.01).
    beta: weight of the sample-level distillation (0.5).
    repeats: updates on each batch, each with a new draw of the memory (1).
    view: the second view: "resized_crop" (as published) or "net" (what net.augment=true does).

    Its head is a cosine one whatever `net.head` says; the published runs have
    net.normalise=false, batches of 10, and lr 0.1 without momentum.
    """

    batches: Tensor

    def __init__(
        self,
        *,
        capacity: int = 1000,
        replay_size: int | None = None,
        temperature: float = 0.09,
        pair_mode: str = "proxy",
        pair_threshold: int = 100,
        tau_low: float = 0.05,
        tau_high: float = 0.16,
        period: int = 500,
        alpha: float = 0.1,
        beta: float = 0.5,
        repeats: int = 1,
        view: str = "resized_crop",
    ) -> None:
        super().__init__()
        check_choice(("proxy", "one", "all", "auto"), pair_mode=pair_mode)
        check_choice(("resized_crop", "net"), view=view)
        check_above(0, temperature=temperature, tau_low=tau_low, tau_high=tau_high)
        check_least(0, alpha=alpha, beta=beta, period=period)
        check_least(1, replay_size=replay_size, repeats=repeats, pair_threshold=pair_threshold)
        if tau_low > tau_high:
            raise ConfigError(f"tau_low: {tau_low} is above tau_high, {tau_high}; swap them.")
        self.replay_size, self.tau, self.repeats = replay_size, temperature, repeats
        self.pair_mode, self.pair_threshold = pair_mode, pair_threshold
        self.tau_low, self.tau_high, self.period = tau_low, tau_high, period
        self.alpha, self.beta, self.view = alpha, beta, view
        self.memory = ReplayBuffer(capacity)
        self.resized_crop = ResizedCrop()
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))
        self._second: Tensor | None = None
        self._recorded: dict[str, Tensor] = {}

    def attach(self, net: Net, info: StreamInfo) -> None:
        super().attach(net, info)
        scale = 1 / self.tau
        net.head = CosineLinear(net.num_features, net.num_classes, scale=scale, guard=1e-6)

    def prepare(self, exp: Experience) -> None:
        super().prepare(exp)
        self.later = exp.index > 0

    def begin(self, exp: Experience) -> None:
        self.batches.zero_()

    def before_step(self, batch: Batch) -> None:
        if self._second is None:  # one for all repeats
            self._second = self._viewed(batch.x)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        assert self._second is not None
        new = self._anchors(batch.x, self._second, batch.y)
        if self.alpha or self.beta:
            logits, features = (
                rows[: len(batch.x)].detach() for rows in (new.logits, new.features)
            )
            self._recorded = {"logits": self.net.without_closed(logits), "features": features}
        old = self.memory.sample(self.replay_size or global_size(batch.y), batch.x.device)
        if old is None:
            return {}
        replay = self._anchors(old["x"], self._viewed(old["x"]), old["y"])
        labels = torch.cat([gather(y).repeat(2) for y in (old["y"], batch.y)])
        counts = class_counts(labels, self.net.num_classes)
        if self._takes_pairs(global_size(old["y"])):
            terms = self._contrast_pairs(labels, replay=replay, new=new)
        else:
            terms = {
                name: mean_of(proxy_contrast(g.logits, g.y.repeat(2), counts), len(labels))
                for name, g in (("new", new), ("replay", replay))
            }
        terms = {name: self.swing() * term for name, term in terms.items()}
        if self.later and self.alpha:
            change = proxy_distillation(replay.logits, old["logits"].repeat(2, 1), counts)
            terms["proxy_distil"] = self.alpha * mean_of(change, replay.size)
        if self.later and self.beta:
            everyone, stored = replay.everyone(), gather(old["features"]).repeat(2, 1)
            drift = relation_distillation(
                replay.features, replay.rows(), everyone, stored, self.tau
            )
            terms["sample_distil"] = self.beta * mean_of(drift, replay.size)
        return terms

    def _anchors(self, x: Tensor, second: Tensor, y: Tensor) -> Anchors:
        features = self.net.features(torch.cat([x, second]))
        return Anchors(features, self.net.classify(features), y)

    def _viewed(self, x: Tensor) -> Tensor:
        return self.resized_crop(x) if self.view == "resized_crop" else self.augment(x)

    def _takes_pairs(self, drawn: int) -> bool:
        if self.pair_mode == "auto":
            return drawn >= self.pair_threshold
        return self.pair_mode != "proxy"

    def _contrast_pairs(self, labels: Tensor, **groups: Anchors) -> dict[str, Tensor]:
        """What each group has of the mean over all anchors, with samples and proxies as rivals."""
        everyone = torch.cat([group.everyone() for group in groups.values()])
        proxies = self.net.head.weight[labels]  # one for each sample
        rivals, names = torch.cat([everyone, proxies]), labels.repeat(2)
        terms, first, count = {}, 0, len(labels) * (2 if self.pair_mode == "all" else 1)
        for name, group in groups.items():
            own, rows = group.y.repeat(2), group.rows() + first
            losses = pair_contrast(group.features, own, rows, rivals, names, self.tau)
            if self.pair_mode == "all":
                rows = rows + len(labels)
                losses = losses + pair_contrast(rivals[rows], own, rows, rivals, names, self.tau)
            terms[name] = mean_of(losses, count)
            first += group.size
        return terms

    def swing(self) -> Tensor | float:
        """tau_s: by how much the gradient's temperature differs from that of the softmax."""
        if not self.period:
            return 1.0
        low, high = self.tau / self.tau_high, self.tau / self.tau_low
        turn = (self.batches % self.period) * (2 * math.pi / self.period)
        return low + (high - low) * (1 - torch.cos(turn)) / 2

    def after_batch(self, batch: Batch) -> None:
        self.memory.add(**batch._asdict(), **self._recorded)
        self.batches += 1
        self._second = None


class Anchors(NamedTuple):
    """This rank's two views of some rows: features [2 n, D], logits [2 n, C], labels [n]."""

    features: Tensor
    logits: Tensor
    y: Tensor

    @property
    def size(self) -> int:
        """Views on all ranks."""
        return 2 * global_size(self.y)

    def everyone(self) -> Tensor:
        """The features of all ranks, first views before second ones; [size, D]."""
        both = torch.stack(self.features.chunk(2), 1)
        return gather(both, of=self.y).transpose(0, 1).flatten(0, 1)

    def rows(self) -> Tensor:
        """Where this rank's views stand in `everyone`, [2 n]."""
        count = global_size(self.y)
        own = torch.arange(count, device=self.y.device)[part(count)]
        return torch.cat([own, own + count])
