"""I-LoRA (Ren et al., 2024), on vision transformers: fast adapters learn, slow ones follow.

One frozen backbone has two sets of low-rank adapters (LoRA; Hu et al., 2022) and two heads. The
fast learner w is trained with replay, the slow one l is a running interpolation of it:
    L = CE(f(x; w), y) + gamma MSE(e(x'; w), e(x'; l)),   x' from memory, e the embedding
    w <- optimizer step,  then  l <- lambda_k l + (1 - lambda_k) w
with lambda_k = min(1 - 1/(k+1), lambda) after the k-th step, each factor by itself. With replay, CE
is the mean of the two batches' own. The rule and the loss are the paper's; its public code averages
the fast weights with themselves. A site is y = W x + alpha/r B A dropout(x), with a pair (A, B) of
its own for each of q, k, v and proj.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clframe.api import (
    Batch,
    ConfigError,
    Experience,
    Net,
    Readout,
    ReplayBuffer,
    Strategy,
    StreamInfo,
    check_choice,
    check_least,
    cross_entropy,
    evaluating,
    global_size,
    mean_squared_error,
    part,
    shared_rng,
)

SLICES = ("q", "k", "v")  # thirds of timm's fused layer
LEARNERS = ("slow", "fast")


class Adapted(nn.Module):
    """A frozen linear layer with fast and slow low-rank additions to some of its output's slices.

    One pair of factors per slice, `a` [s, r, in] and `b` [s, out/n, r], of the slices numbered
    `slices` out of n. `learner` is the set in use. `shares` says which rows of which global
    batches come in, so that all ranks' dropout masks are parts of one draw.
    """

    def __init__(
        self, inner: nn.Linear, slices: Sequence[int], num: int, rank: int, scale: float, p: float
    ) -> None:
        super().__init__()
        self.inner, self.num, self.scale, self.p = inner.requires_grad_(False), num, scale, p
        self.learner, self.shares = "fast", [(0, slice(0, 0))]
        a = torch.empty(len(slices), rank, inner.in_features)
        for factor in a:
            nn.init.kaiming_uniform_(factor, a=5**0.5)
        b = torch.zeros(len(slices), inner.out_features // num, rank)
        self.fast = nn.ParameterList([a.to(inner.weight), b.to(inner.weight)])
        self.slow = copy.deepcopy(self.fast).requires_grad_(False)
        self.register_buffer("slices", torch.tensor(slices), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        a, b = self.fast if self.learner == "fast" else self.slow
        low = F.linear(self._dropped(x), a.flatten(0, 1)).unflatten(-1, a.shape[:2])
        high = self.scale * torch.einsum("...sr,sor->...so", low, b)
        if len(a) == self.num:
            return out + high.flatten(-2)
        parts = out.unflatten(-1, (self.num, -1))
        return parts.index_add(-2, self.slices, high.to(parts.dtype)).flatten(-2)

    def _dropped(self, x: Tensor) -> Tensor:
        if not (self.training and self.p):
            return x
        rows = [rows for _, rows in self.shares]
        if sum(r.stop - r.start for r in rows) != len(x):  # somebody else's forward
            return F.dropout(x, self.p)
        seed = shared_rng("ilora/dropout").initial_seed()
        g = torch.Generator(x.device).manual_seed(seed)
        masks = [
            torch.rand((n, *x.shape[1:]), generator=g, device=x.device)[share]
            for n, share in self.shares
        ]
        return x * (torch.cat(masks) >= self.p) / (1 - self.p)


class Ilora(Strategy):
    """Two learners on one transformer: replay trains the fast one, the slow one is its average.

    rank: r of the adapters (8).
    alpha: their scale is alpha / r (16).
    dropout: share of a site's inputs that its adapter does not see in training (0.05).
    sites: which layers have adapters, of q, k, v and proj; the paper's are [q, v].
    rate: lambda, the share that the slow learner keeps of itself in a step (ours: 0.99).
    gamma: weight of the consistency term (1); 0 leaves it out.
    consistency: "plain" (squared error), or "one_sided": what the slow learner has less does not
        count (the released code's target).
    embedding: what is compared: "pooled" (the head's input) or "all_blocks" (each block's output).
    capacity: samples in memory (500).
    replay_size: samples drawn per step over all ranks; null draws as many as the batch has.
    inference: the learner of the tables, "slow" or "fast"; both are evaluated.

    Its settings: AdamW, lr 1e-4, no weight decay, batches of 64, 5 epochs.
    """

    usual_net = "vit"

    def __init__(
        self,
        *,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.05,
        sites: list[str] | tuple[str, ...] = ("q", "k", "v", "proj"),
        rate: float = 0.99,
        gamma: float = 1.0,
        consistency: str = "plain",
        embedding: str = "pooled",
        capacity: int = 500,
        replay_size: int | None = None,
        inference: str = "slow",
    ) -> None:
        super().__init__()
        check_choice(("plain", "one_sided"), consistency=consistency)
        check_choice(("pooled", "all_blocks"), embedding=embedding)
        check_choice(LEARNERS, inference=inference)
        for site in sites or [""]:
            check_choice((*SLICES, "proj"), sites=site)
        for name, share in (("dropout", dropout), ("rate", rate)):
            if not 0 <= share < 1:
                raise ConfigError(f"{name}: {share} is not a share in [0, 1).")
        check_least(1, rank=rank, replay_size=replay_size)
        check_least(0, gamma=gamma)
        self.rank, self.alpha, self.dropout, self.sites = rank, alpha, dropout, tuple(sites)
        self.rate, self.gamma, self.consistency = rate, gamma, consistency
        self.embedding, self.replay_size, self.inference = embedding, replay_size, inference
        self.memory = ReplayBuffer(capacity)

    def attach(self, net: Net, info: StreamInfo) -> None:
        super().attach(net, info)
        if net.frozen:
            raise ConfigError(
                "net.freeze: true, but ilora freezes the backbone itself; leave it out."
            )
        net.backbone.requires_grad_(False)
        self._adapted = [site for block in _blocks(net) for site in self._adapt(block)]
        self.slow_head = copy.deepcopy(net.head).requires_grad_(False)
        self.steps = 0
        self._states: list[Tensor] = []
        if self.embedding == "all_blocks":
            for block in _blocks(net):
                block.register_forward_hook(lambda _, __, out: self._states.append(out))

    def _adapt(self, block: nn.Module) -> Iterator[Adapted]:
        attention, scale = block.attn, self.alpha / self.rank
        fused = [SLICES.index(site) for site in SLICES if site in self.sites]
        for name, slices, num in (("qkv", fused, 3), ("proj", [0], 1)):
            if slices and (name == "qkv" or "proj" in self.sites):
                inner = getattr(attention, name)
                site = Adapted(inner, slices, num, self.rank, scale, self.dropout)
                setattr(attention, name, site)
                yield site

    def prepare(self, exp: Experience) -> None:
        closed = ~self.net.opened
        super().prepare(exp)
        new = closed & self.net.opened  # both learners start a class with the same row
        with torch.no_grad():
            for slow, fast in zip(
                self.slow_head.parameters(), self.net.head.parameters(), strict=True
            ):
                slow[new] = fast[new]
        self.later = exp.index > 0

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        size = global_size(batch.y)
        drawn = self.replay_size or size
        old = self.memory.sample(drawn, batch.x.device) if self.later else None
        x = self.augment(batch.x)
        if old is None:
            logits = self.net.classify(self._embed(x, [size])[0])
            return {"new": cross_entropy(logits, batch.y)}
        seen = self.augment(old["x"])
        sizes = [size, min(drawn, len(self.memory))]
        features, states = self._embed(torch.cat([x, seen]), sizes)
        here, there = self.net.classify(features).split([len(x), len(seen)])
        terms = {
            "new": cross_entropy(here, batch.y) / 2,
            "replay": cross_entropy(there, old["y"]) / 2,
        }
        if self.gamma:
            with torch.no_grad(), evaluating(self.net), self._as("slow"):
                target = self._embed(seen, [])[1]
            terms["consistency"] = self.gamma * self._apart(states[len(x) :], target)
        return terms

    def _embed(self, x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features [n, D], and what is compared of the learners [n, ...], of rows of batches.

        sizes: of the global batches of which `x` holds this rank's parts, one after the other.
        """
        for site in self._adapted:
            site.shares = [(size, part(size)) for size in sizes]
        self._states.clear()
        features = self.net.features(x)
        states, self._states = self._states, []
        return features, torch.stack(states, 1) if states else features

    def _apart(self, fast: Tensor, slow: Tensor) -> Tensor:
        if self.consistency == "one_sided":
            slow = torch.maximum(slow, fast.detach())
        return mean_squared_error(fast, slow)

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        self.steps += 1
        interpolate(self._pairs(), kept(self.steps, self.rate))

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every slow tensor and the fast one that it follows."""
        for site in self._adapted:
            yield from zip(site.slow, site.fast, strict=True)
        yield from zip(self.slow_head.parameters(), self.net.head.parameters(), strict=True)

    def after_batch(self, batch: Batch) -> None:
        self.memory.add(**batch._asdict())

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]

    @contextmanager
    def _as(self, learner: str) -> Iterator[None]:
        for site in self._adapted:
            site.learner = learner
        try:
            yield
        finally:
            for site in self._adapted:
                site.learner = "fast"

    def readouts(self) -> dict[str, Readout]:
        order = sorted(LEARNERS, key=lambda name: name != self.inference)
        return {name: self._readout(name) for name in order}

    def _readout(self, learner: str) -> Readout:
        def logits(x: Tensor, task: Tensor | None) -> Tensor:
            with self._as(learner):
                features = self.net.features(x)
            return self.net.classify(features, self.slow_head if learner == "slow" else None)

        return logits

    def predict(self, x: Tensor, task: Tensor | None) -> Tensor:
        return self._readout(self.inference)(x, task)


def kept(k: int, rate: float) -> float:
    """lambda_k: what the slow learner keeps of itself after step `k`, from 1."""
    return min(1 - 1 / (k + 1), rate)


def interpolate(pairs: Iterator[tuple[Tensor, Tensor]], rate: float) -> None:
    """slow <- rate slow + (1 - rate) fast, tensor by tensor: of factors, not of their products."""
    for slow, fast in pairs:
        slow.mul_(rate).add_(fast, alpha=1 - rate)


def _blocks(net: Net) -> list[nn.Module]:
    """The transformer's blocks, each with a fused `attn.qkv` and an `attn.proj`."""
    blocks = list(getattr(net.backbone, "blocks", []))
    for block in blocks or [nn.Module()]:
        layers = [getattr(getattr(block, "attn", None), name, None) for name in ("qkv", "proj")]
        if not all(isinstance(layer, nn.Linear | Adapted) for layer in layers):
            raise ConfigError(
                "net.name: ilora adapts the layers attn.qkv and attn.proj of a vision transformer; "
                "use net.name=vit, or timm:vit_tiny_patch16_224 and its kin."
            )
    return blocks
