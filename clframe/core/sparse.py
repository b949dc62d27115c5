"""Layers whose connections come and go, and whose units are idle, working or frozen by rank."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from clframe.core import dist
from clframe.core.rng import shared_rng
from clframe.errors import ConfigError

log = logging.getLogger(__name__)

ALWAYS = 2**30  # rank of a unit that is never idle and never trained
WEIGHTED = (nn.Conv2d, nn.Linear)


def weighted_layers(backbone: nn.Module) -> list[int]:
    """Where the weighted layers of a plain chain stand.

    Raises ConfigError for anything but an nn.Sequential of ungrouped Conv2d and Linear, each with
    a ReLU right behind it, MaxPool2d and Flatten, that ends in at least one Linear.
    """
    modules = list(backbone.children()) if type(backbone) is nn.Sequential else [backbone]
    found = [i for i, m in enumerate(modules) if isinstance(m, WEIGHTED)]
    relus = [i - 1 for i, m in enumerate(modules) if isinstance(m, nn.ReLU)]
    odd = [m for m in modules if not isinstance(m, (*WEIGHTED, nn.ReLU, nn.MaxPool2d, nn.Flatten))]
    odd += [m for m in modules if getattr(m, "groups", 1) != 1]
    if odd or found != relus or len(found) < 2 or not isinstance(modules[found[-1]], nn.Linear):
        has = (
            f"{type(odd[0]).__name__} in it" if odd else f"{len(found)} layers, {len(relus)} ReLUs"
        )
        raise ConfigError(
            f"net.name: a network with {has} cannot be rewired; it takes a chain of two or more "
            "convolutions and linear layers, each with a ReLU behind it, with max-pooling but no "
            "norm nor dropout, the last one linear: net.name=mlp, cnn, lenet or vgg."
        )
    return found


def rewire(links: Tensor, source: Tensor, target: Tensor, g: torch.Generator) -> tuple[Tensor, int]:
    """Drop idle -> working connections and grow as many into idle units, from anywhere.

    links [targets, sources] bool; source and target: ranks, 0 is idle. Returns the new links, and
    how many found no room.
    """
    wrong = links & (source == 0) & (target > 0)[:, None]
    links = links & ~wrong
    room = (~links & (target == 0)[:, None]).flatten().nonzero().flatten()
    grown = room[torch.randperm(len(room), generator=g)[: int(wrong.sum())].to(room.device)]
    links.view(-1)[grown] = True
    return links, int(wrong.sum()) - len(grown)


class SparseLayer(nn.Module):
    """Connections and ranks of one Conv2d or Linear, frozen from rank `limit` on.

    links: [units, sources] bool, of a convolution whole kernels; rank: [units], 0 is idle.
    """

    links: Tensor
    rank: Tensor

    def __init__(self, module: nn.Module, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self._module = (cast(nn.Linear, module),)  # the net's, not ours
        shape = self._module[0].weight.shape
        self.register_buffer("links", torch.ones(shape[:2], dtype=torch.bool))
        self.register_buffer("rank", torch.zeros(shape[0], dtype=torch.long))

    def _like_weight(self, mask: Tensor) -> Tensor:
        return mask.view(*mask.shape, *[1] * (self._module[0].weight.dim() - mask.dim()))

    @property
    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias, each with a bool mask, fit to be broadcast, of what may not change."""
        (module,), frozen = self._module, self.rank >= self.limit
        biases = [(module.bias, frozen)] if module.bias is not None else []
        return [(module.weight, self._like_weight(~self.links | frozen[:, None])), *biases]

    def connect(self, links: Tensor) -> None:
        """These connections and no others: weights without one are exactly 0."""
        self.links.copy_(links)
        self._module[0].weight.masked_fill_(self._like_weight(~self.links), 0.0)

    def redraw(self, g: torch.Generator, *, first: bool) -> None:
        """Idle units anew: weights Kaiming normal, biases 0.

        By the fan-in at first, by the fan-out of these units later, as in the authors' code.
        """
        (module,), idle = self._module, self.rank == 0
        shape = (int(idle.sum()), *module.weight.shape[1:])
        fan = math.prod(shape[1:]) if first else shape[0] * math.prod(shape[2:])
        spread = math.sqrt(2 / max(1, fan))
        module.weight[idle] = (torch.randn(shape, generator=g) * spread).to(module.weight)
        if module.bias is not None:
            module.bias[idle] = 0.0
        self.connect(self.links)


class SparseChain(nn.Module):
    """The connections and ranks of a backbone that `weighted_layers` can take.

    The first `early` layers (None: all convolutions, or one if there are none) lie before the cut,
    with the pooling and flattening behind them. Ranks at which units freeze: `limits`, early and
    late. A connection is there with probability 1 - `sparsity`, in a first convolution always.
    `kept`: the early layers stay as they are, dense and never trained.

    Raises ConfigError, also for an `early` that leaves no layer behind the cut.
    """

    def __init__(
        self,
        backbone: nn.Module,
        early: int | None,
        limits: tuple[int, int],
        sparsity: float,
        *,
        kept: bool = False,
    ) -> None:
        super().__init__()
        places = weighted_layers(backbone)
        modules = cast(nn.Sequential, backbone)
        self._chain = (modules,)  # the net's, not ours
        self.early = early or max(1, sum(isinstance(m, nn.Conv2d) for m in modules))
        if self.early >= len(places):
            most = len(places) - 1
            raise ConfigError(
                f"cut: {self.early} of {most + 1} layers leave none behind it; give 1 to {most}."
            )
        self.cut = places[self.early]
        self.layers = nn.ModuleList()
        for number, place in enumerate(places):
            layer = SparseLayer(modules[place], limits[number >= self.early])
            self.layers.append(layer)
            if kept and number < self.early:
                modules[place].requires_grad_(False)
                layer.rank.fill_(ALWAYS)
            elif number or isinstance(modules[place], nn.Linear):
                drawn = torch.rand(layer.links.shape, generator=shared_rng("links"))
                layer.links.copy_(drawn >= sparsity)
        self.redraw(first=True)

    def __iter__(self) -> Iterator[SparseLayer]:
        return iter(cast("list[SparseLayer]", self.layers))

    def __getitem__(self, number: int) -> SparseLayer:
        return cast(SparseLayer, self.layers[number])

    def to_cut(self, x: Tensor) -> Tensor:
        """What the early layers make of normalised inputs."""
        return cast(Tensor, self._chain[0][: self.cut](x))

    def without_idle(self, values: Tensor) -> Tensor:
        """What `to_cut` gave, with 0 for units that are idle."""
        idle = self[self.early - 1].rank == 0
        columns = values.flatten(1)
        columns = columns.masked_fill(idle.repeat_interleave(columns.shape[1] // len(idle)), 0.0)
        return columns.view(values.shape)

    def from_cut(self, x: Tensor) -> Tensor:
        """What the late layers make of that, [n, num_features]."""
        return cast(Tensor, self._chain[0][self.cut :](x))

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each weight and bias, with a bool mask, fit to be broadcast, of what may not change."""
        for layer in self:
            yield from layer.parts

    @torch.no_grad()
    def activity(self, x: Tensor) -> list[Tensor]:
        """Of each layer's units, summed over all ranks' normalised inputs and all places."""
        sums = []
        for module in self._chain[0]:
            x = module(x)
            if isinstance(module, nn.ReLU):
                mine = x.transpose(0, 1).flatten(1).sum(1, dtype=torch.float64)
                sums.append(dist.total(mine))
        return sums

    @torch.no_grad()
    def recruit(self, chosen: Sequence[Tensor]) -> None:
        """Of the units of rank 0 and 1, those chosen ([units] bool per layer) have rank 1."""
        for layer, units in zip(self, chosen, strict=True):
            layer.rank.copy_(torch.where(layer.rank < 2, units.to(layer.rank), layer.rank))

    @torch.no_grad()
    def rewire(self) -> None:
        """`rewire` in every layer; behind a Flatten, a channel is as many sources as it has places.

        Inputs are never idle, so nothing changes in the first layer.
        """
        for number, (before, layer) in enumerate(pairwise(self), 1):
            source = before.rank.repeat_interleave(layer.links.shape[1] // len(before.rank))
            links, missing = rewire(layer.links, source, layer.rank, shared_rng("grow"))
            layer.connect(links)
            if missing:
                log.warning("layer %d is sparser: no room for %d connections", number, missing)

    @torch.no_grad()
    def age(self) -> None:
        """One more for every unit that is not idle."""
        for layer in self:
            layer.rank += layer.rank > 0
        log.info("idle units by layer: %s", [int((layer.rank == 0).sum()) for layer in self])

    @torch.no_grad()
    def redraw(self, *, first: bool = False) -> None:
        """Idle units of all layers anew; `first`: as at the start of a run."""
        for layer in self:
            layer.redraw(shared_rng("weights"), first=first)
