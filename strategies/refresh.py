"""Refresh learning (Wang et al., 2024): unlearn a little before each step, then relearn.

For each tensor theta of the network's weights, with g the gradient of the unlearning loss, xi
standard normal and F the diagonal of the Fisher matrix:
    theta <- theta + delta (u + noise_scale xi) / (1 + fisher_scale F)
    u = g |theta| / |g|  (norm: per_tensor)     u = g  (norm: none)
Shifted weights are not put back: the base strategy's own step starts from them. The released code
ascends the cross-entropy of the incoming batch alone (the defaults here); the paper the whole loss
of the mini-batch by a preconditioned step, `loss_scope: full_cl, norm: none` (experimental: its
literal noise destroys a network, so that scale and damping are ours).
    F <- fisher_decay F + mean of p(y|x) (d log p(y|x) / d theta)^2     after each experience
over all its samples, by true labels, in eval mode (the released code: by batch statistics of one).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from clframe.api import (
    Batch,
    Experience,
    Net,
    Strategy,
    StreamInfo,
    Wrapper,
    check_choice,
    check_least,
    check_range,
    cross_entropy,
    fisher_diagonal,
    frozen_state,
    mean_grad,
    shared_rng,
)


class Refresh(Wrapper):
    """Before each update of any strategy, a small step uphill.

    delta: length of the step, in norms of each tensor (1e-5, as released; with norm=none a rate).
    ascents: how many of them before each update (the paper's J: 1).
    loss_scope: what is unlearnt: "current_ce", of the incoming batch, or "full_cl", the base's own.
    norm: "per_tensor" (a gradient as long as its tensor) or "none" (as it is).
    noise_scale: of normal noise, within delta (1e-3; 0 saves the time of drawing it).
    fisher_scale: how much important weights are spared (1e-3; 0 saves estimating the matrix).
    fisher_decay: what is kept of the matrix from one experience to the next (1e-5).
    fisher_samples: samples of each experience that estimate it; null takes all, as published
        (for a ResNet-18 on a CPU that takes longer than training).

    It moves what is trainable of the network when it is attached. It also unlearns where the base
    then makes no update, as HPCR does while its memory is empty. A forget request clears F.
    """

    def __init__(
        self,
        base: Strategy,
        *,
        delta: float = 1e-5,
        ascents: int = 1,
        loss_scope: str = "current_ce",
        norm: str = "per_tensor",
        noise_scale: float = 1e-3,
        fisher_scale: float = 1e-3,
        fisher_decay: float = 1e-5,
        fisher_samples: int | None = None,
    ) -> None:
        super().__init__(base)
        check_choice(("current_ce", "full_cl"), loss_scope=loss_scope)
        check_choice(("per_tensor", "none"), norm=norm)
        check_least(0, delta=delta, noise_scale=noise_scale, fisher_scale=fisher_scale)
        check_range(0, 1, fisher_decay=fisher_decay)
        check_least(1, ascents=ascents, fisher_samples=fisher_samples)
        self.delta, self.ascents, self.loss_scope, self.norm = delta, ascents, loss_scope, norm
        self.noise_scale, self.fisher_scale = noise_scale, fisher_scale
        self.fisher_decay, self.fisher_samples = fisher_decay, fisher_samples

    def attach(self, net: Net, info: StreamInfo) -> None:
        super().attach(net, info)
        self.names = [name for name, p in self.net.named_parameters() if p.requires_grad]
        zeros = [torch.zeros_like(self.net.get_parameter(name)) for name in self.names]
        self.fisher = nn.ParameterList(nn.Parameter(zero, False) for zero in zeros)

    def before_step(self, batch: Batch) -> None:
        super().before_step(batch)
        for _ in range(self.ascents if self.delta else 0):
            self.unlearn(batch)

    def unlearn(self, batch: Batch) -> None:
        """One step uphill; batch norm's statistics, `.grad` and all draws stay as they are."""
        trained = {id(p) for p in self.trainable() if p.requires_grad}
        pairs = zip(map(self.net.get_parameter, self.names), self.fisher, strict=True)
        moved = [(weight, fisher) for weight, fisher in pairs if id(weight) in trained]
        with frozen_state(self):
            terms = self._uphill(batch) if moved else {}
            if not terms:
                return
            loss = torch.stack(list(terms.values())).sum()
            gradients = mean_grad(loss, [weight for weight, _ in moved])
        noise = self._noise([weight for weight, _ in moved]) if self.noise_scale else None
        with torch.no_grad():
            for (weight, fisher), gradient in zip(moved, gradients, strict=True):
                length = gradient.norm()
                scale = weight.norm() / length if self.norm == "per_tensor" else 1.0
                step = gradient * scale
                if noise is not None:
                    step = step + self.noise_scale * next(noise)
                if self.fisher_scale:
                    step = step / (1 + self.fisher_scale * fisher)
                weight.add_(torch.where(length > 0, step, 0.0), alpha=self.delta)

    def _noise(self, weights: Sequence[Tensor]) -> Iterator[Tensor]:
        """Standard normal numbers for each weight, the same on every rank."""
        seed = shared_rng("refresh/noise").initial_seed()
        source = torch.Generator(weights[0].device).manual_seed(seed)
        for weight in weights:
            yield torch.randn(weight.shape, generator=source, device=weight.device).to(weight)

    def _uphill(self, batch: Batch) -> dict[str, Tensor]:
        """What is unlearnt; its draws are drawn again by the base's own step."""
        if self.loss_scope == "full_cl":
            return self.base.loss(batch)
        return {"new": cross_entropy(self.net(self.augment(batch.x)), batch.y)}

    def end(self, exp: Experience) -> bool | None:
        changed = super().end(exp)
        if self.delta and self.fisher_scale:
            index = torch.randperm(len(exp.train), generator=shared_rng("refresh/fisher"))
            found = fisher_diagonal(self.net, exp.train, index[: self.fisher_samples], likely=True)
            for name, fisher in zip(self.names, self.fisher, strict=True):
                fisher.mul_(self.fisher_decay).add_(found.get(name, 0.0))
        return changed

    def forget(self, exp: Experience) -> bool | None:
        for fisher in self.fisher:  # estimated on data that may be withdrawn
            fisher.zero_()
        return super().forget(exp)
