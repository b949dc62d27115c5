"""Elastic weight consolidation (Kirkpatrick et al., 2017): hold on to the weights that mattered.

    L = CE(f(x), y) + lambda/2 sum_k sum_i F_k,i (theta_i - theta*_k,i)^2
F_k is the diagonal of the Fisher matrix at theta*_k, the weights at the end of experience k:
F_k,i = mean over x of (d log p(y|x) / d theta_i)^2. The sum over k (`separate`) is kept exactly in
the room of one term: quadratics add up to a quadratic around their weighted mean, and a constant.
`online` (Schwarz et al., 2018) keeps one term: F <- gamma F + F_k, around the latest theta*.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clframe.api import (
    Batch,
    Experience,
    Net,
    Samples,
    Strategy,
    StreamInfo,
    check_choice,
    check_least,
    check_range,
    cross_entropy,
    fisher_diagonal,
    shared_rng,
)


class Ewc(Strategy):
    """Quadratic penalty on leaving the old weights, scaled by the diagonal Fisher matrix.

    lam: weight of the penalty (no unit; no value fits all nets). Steps diverge where
        lr * lam * F exceeds 2, so a large one needs a small learning rate.
    mode: "separate" (a penalty per experience, summed) or "online" (one, with decay).
    gamma: what online mode keeps of the old Fisher matrix (1: everything).
    fisher: labels for log p(y|x): "empirical" (the data's) or "sampled" (the model's own).
    fisher_samples: samples of each experience that estimate F; null takes all of them.
    """

    constant: Tensor

    def __init__(
        self,
        *,
        lam: float = 10.0,
        mode: str = "separate",
        gamma: float = 1.0,
        fisher: str = "empirical",
        fisher_samples: int | None = 500,
    ) -> None:
        super().__init__()
        check_choice(("separate", "online"), mode=mode)
        check_choice(("empirical", "sampled"), fisher=fisher)
        check_least(0, lam=lam)
        check_range(0, 1, gamma=gamma)
        check_least(1, fisher_samples=fisher_samples)
        self.lam, self.mode, self.gamma = lam, mode, gamma
        self.fisher, self.fisher_samples = fisher, fisher_samples

    def attach(self, net: Net, info: StreamInfo) -> None:
        super().attach(net, info)
        self.names = [name for name, p in net.named_parameters() if p.requires_grad]
        self.precision, self.centre = self._zeros(), self._zeros()
        self.register_buffer("constant", torch.zeros(()))

    def _zeros(self) -> nn.ParameterList:
        weights = self._weights().values()
        return nn.ParameterList(nn.Parameter(torch.zeros_like(p), False) for p in weights)

    def _weights(self) -> dict[str, nn.Parameter]:
        return {name: self.net.get_parameter(name) for name in self.names}

    def prepare(self, exp: Experience) -> None:
        super().prepare(exp)
        self.later = exp.index > 0

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        terms = {"new": cross_entropy(self.net(self.augment(batch.x)), batch.y)}
        if self.later:
            terms["penalty"] = self.lam / 2 * self.distance()
        return terms

    def distance(self) -> Tensor:
        """Sum over experiences and weights of F (theta - theta*)^2."""
        parts = zip(self.precision, self.centre, self._weights().values(), strict=True)
        return self.constant + sum(torch.sum(f * (p - c).square()) for f, c, p in parts)

    @torch.no_grad()
    def end(self, exp: Experience) -> None:
        squares = self.estimate(exp.train).values()
        rows = zip(self.precision, self.centre, squares, self._weights().values(), strict=True)
        for fisher, centre, new, weight in rows:
            if self.mode == "online":
                fisher.mul_(self.gamma).add_(new)
                centre.copy_(weight)
                continue
            gap = weight - centre
            pull = torch.where(new > 0, new / (fisher + new), 0.0)
            self.constant += torch.sum(fisher * pull * gap.square())
            centre.addcmul_(pull, gap)
            fisher.add_(new)

    def estimate(self, data: Samples) -> dict[str, Tensor]:
        """The diagonal of the Fisher matrix on `data`, by the names of the net's weights."""
        index = torch.randperm(len(data), generator=shared_rng("fisher"))[: self.fisher_samples]
        if self.fisher == "empirical":
            return fisher_diagonal(self.net, data, index)
        lots = torch.rand(len(index), generator=shared_rng("fisher"), dtype=torch.float64)
        return fisher_diagonal(self.net, data, index, lots=lots)
