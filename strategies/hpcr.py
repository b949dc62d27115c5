"""PCR and HPCR (Lin et al., 2023 and 2025): contrast samples with the proxies of present classes.

The current batch and a draw of the memory come in two views each, plain and augmented; Y are all
their labels, n_c of them c. Proxies w_c are the rows of a cosine head, s_ic = cos(z_i, w_c) / tau:
    L_PCR = mean over i of [-s_i,y_i + log sum_c n_c exp(s_ic)]
    L = tau_s(i) L_PCR + alpha L_PCD + beta L_SCD      (the last two from the second experience on)
tau_s swings the temperature of the gradient from tau_high to tau_low and back within `period`
batches. L_PCD is the squared change of the memory rows' logits, a mean over the columns Y; L_SCD
the cross-entropy between their cosines with each other then and now. The stored logits and
features are those of the plain view in train mode, before the first update on that sample.

As in the authors' code: single pass, nothing happens while the memory is empty, and the batch is
offered to it afterwards. Unlike it: exact reservoir, no last incomplete batch is dropped.
"""

from __future__ import annotations

import math

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
    gather,
    global_size,
    mean_of,
    pair_contrast,
    part,
    proxy_contrast,
    proxy_distillation,
    relation_distillation,
)

CHOICES = {"pair_mode": ("proxy", "one", "all", "auto"), "view": ("resized_crop", "net")}


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
    view: the second view: "resized_crop" (as published) or "net" (what net.augment does).

    Its head is a cosine one whatever `net.head` says; the published runs have
    net.normalise=false, batches of 10, and lr 0.1 without momentum.
    """

    steps: Tensor

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
        for name, choice in (("pair_mode", pair_mode), ("view", view)):
            if choice not in CHOICES[name]:
                known = ", ".join(CHOICES[name])
                raise ConfigError(f"{name}: {choice!r} is unknown; choose from {known}.")
        heats = {"temperature": temperature, "tau_low": tau_low, "tau_high": tau_high}
        for name, heat in heats.items():
            if not heat > 0:
                raise ConfigError(f"{name}: {heat} is no temperature; give more than 0.")
        for name, weight in (("alpha", alpha), ("beta", beta)):
            if not weight >= 0:
                raise ConfigError(f"{name}: {weight} is not a weight; give 0 or more.")
        if replay_size is not None and replay_size < 1:
            raise ConfigError(f"replay_size: {replay_size} rows cannot be drawn; give 1 or more.")
        if repeats < 1 or period < 0:
            name, value = ("repeats", repeats) if repeats < 1 else ("period", period)
            raise ConfigError(f"{name}: {value} is too few; give {int(repeats < 1)} or more.")
        self.replay_size, self.tau, self.repeats = replay_size, temperature, repeats
        self.pair_mode, self.pair_threshold = pair_mode, pair_threshold
        self.tau_low, self.tau_high, self.period = tau_low, tau_high, period
        self.alpha, self.beta, self.view = alpha, beta, view
        self.memory = ReplayBuffer(capacity)
        self.resized_crop = ResizedCrop()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self._second: Tensor | None = None

    def attach(self, net: Net, info: StreamInfo) -> None:
        super().attach(net, info)
        scale = 1 / self.tau
        net.head = CosineLinear(net.num_features, net.num_classes, scale=scale, guard=1e-6)

    def prepare(self, exp: Experience) -> None:
        super().prepare(exp)
        self.later = exp.index > 0

    def begin(self, exp: Experience) -> None:
        self.steps.zero_()

    def before_step(self, batch: Batch) -> None:
        if self._second is None:  # one for all repeats
            self._second = self._viewed(batch.x)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        assert self._second is not None
        features = self.net.features(torch.cat([batch.x, self._second]))
        plain = features[: len(batch.x)].detach()
        self._recorded = self.net.without_closed(self.net.classify(plain)), plain
        old = self.memory.sample(self.replay_size or global_size(batch.y), batch.x.device)
        if old is None:
            return {}
        replayed = self.net.features(torch.cat([old["x"], self._viewed(old["x"])]))
        labels = torch.cat([gather(old["y"]).repeat(2), gather(batch.y).repeat(2)])
        terms = self._contrast(labels, replay=(replayed, old["y"]), new=(features, batch.y))
        drawn = 2 * global_size(old["y"])
        if self.later and self.alpha:
            logits, target = self.net.classify(replayed), old["logits"].repeat(2, 1)
            change = mean_of(proxy_distillation(logits, target, labels), drawn)
            terms["proxy_distil"] = self.alpha * change
        if self.later and self.beta:
            everyone, stored = _both_views(replayed, old["y"]), gather(old["features"]).repeat(2, 1)
            drift = relation_distillation(replayed, _rows(old["y"]), everyone, stored, self.tau)
            terms["sample_distil"] = self.beta * mean_of(drift, drawn)
        return terms

    def _viewed(self, x: Tensor) -> Tensor:
        return self.resized_crop(x) if self.view == "resized_crop" else self.augment(x)

    def _contrast(self, labels: Tensor, **groups: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """The share of each group of anchors (features [2 n, D], labels [n]) in the mean over Y."""
        sizes = {name: 2 * global_size(y) for name, (_, y) in groups.items()}
        pairs = self.pair_mode in ("one", "all")
        if self.pair_mode == "auto":
            pairs = sizes["replay"] >= 2 * self.pair_threshold
        if not pairs:
            return {
                name: self.swing()
                * mean_of(proxy_contrast(self.net.classify(z), y.repeat(2), labels), len(labels))
                for name, (z, y) in groups.items()
            }
        everyone = torch.cat([_both_views(z, y) for z, y in groups.values()])
        proxies = self.net.head.weight[labels]  # one for each sample
        rivals, names = torch.cat([everyone, proxies]), labels.repeat(2)
        terms, first, count = {}, 0, len(labels) * (2 if self.pair_mode == "all" else 1)
        for name, (z, y) in groups.items():
            rows, own = _rows(y) + first, y.repeat(2)
            losses = pair_contrast(z, own, rows, rivals, names, self.tau)
            if self.pair_mode == "all":
                rows = rows + len(labels)
                losses = losses + pair_contrast(rivals[rows], own, rows, rivals, names, self.tau)
            terms[name] = self.swing() * mean_of(losses, count)
            first += sizes[name]
        return terms

    def swing(self) -> Tensor | float:
        """tau_s: by how much the gradient's temperature differs from that of the softmax."""
        if not self.period:
            return 1.0
        low, high = self.tau / self.tau_high, self.tau / self.tau_low
        turn = (self.steps % self.period) * (2 * math.pi / self.period)
        return low + (high - low) * (1 - torch.cos(turn)) / 2

    def after_batch(self, batch: Batch) -> None:
        rows = batch._asdict()
        if self.alpha or self.beta:
            rows["logits"], rows["features"] = self._recorded
        self.memory.add(**rows)
        self.steps += 1
        self._second = None


def _rows(y: Tensor) -> Tensor:
    """Where this rank's two views of a batch stand in `_both_views`, [2 n]."""
    count = global_size(y)
    own = torch.arange(count, device=y.device)[part(count)]
    return torch.cat([own, own + count])


def _both_views(rows: Tensor, y: Tensor) -> Tensor:
    """First views of the global batch, then second ones: [2 n, D] of each rank to [2 N, D]."""
    return gather(torch.stack(rows.chunk(2), 1), of=y).transpose(0, 1).flatten(0, 1)
