"""Squared gradients sample by sample, vectorised: what diagonal Fisher matrices are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from clframe.core import dist
from clframe.core.experience import Samples
from clframe.core.net import Net, evaluating, frozen_state

ROOM = {"cpu": 2**24, "cuda": 2**30}  # floats that the gradients of one chunk may take


def fisher_diagonal(
    net: Net,
    data: Samples,
    index: Tensor,
    *,
    lots: Tensor | None = None,
    likely: bool = False,
) -> dict[str, Tensor]:
    """Mean of (d log p(y|x) / d theta)^2 over samples, for each trainable weight of `net`, by name.

    index [n]: rows of `data`, the same on every rank; each rank works on its part of them. `lots`
    [n] in [0, 1): draw y from the model's own p(.|x) by these; by default it is the data's label.
    `likely`: each sample counts p(y|x) times. In eval mode; leaves no trace in the net.
    """
    weights = {n: p.detach() for n, p in net.named_parameters() if p.requires_grad}
    room = ROOM.get(net.gain.device.type, ROOM["cpu"])
    chunk = max(1, room // max(1, sum(p.numel() for p in weights.values())))
    squares = {name: torch.zeros_like(p) for name, p in weights.items()}
    share = dist.part(len(index))
    with frozen_state(net), evaluating(net), torch.no_grad():
        for first in range(share.start, share.stop, chunk):
            some = slice(first, min(first + chunk, share.stop))
            batch = data.take(index[some].to(data.y.device))
            x, y = batch.x.to(net.gain.device), batch.y.to(net.gain.device)
            if lots is not None:
                y = _drawn(torch.softmax(net(x), 1), lots[some])
            gradients, log_p = _gradients(net, weights, x, y)
            for name, rows in gradients.items():
                found = rows.square()
                squares[name] += torch.tensordot(log_p.exp(), found, 1) if likely else found.sum(0)
    return {name: dist.total(s) / max(1, len(index)) for name, s in squares.items()}


def _drawn(p: Tensor, lots: Tensor) -> Tensor:
    """The class at which the distribution function of each row of `p` passes its lot."""
    below = p.double().cpu().cumsum(1)
    return (below < lots[:, None]).sum(1).clamp(max=p.shape[1] - 1).to(p.device)


def _gradients(
    net: Net, weights: dict[str, Tensor], x: Tensor, y: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Of log p(y|x) with respect to each weight, sample by sample, [n, ...] each; and log p."""

    def log_likelihood(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return -F.cross_entropy(functional_call(net, weights, (x[None],)), y[None])

    each = vmap(grad_and_value(log_likelihood), in_dims=(None, 0, 0))
    gradients, log_p = each(weights, x, y)
    return gradients, log_p
