"""A network that writes the weights of another: one small code per task, chunk by chunk."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from clframe.core.net import CosineLinear, Net
from clframe.errors import ConfigError

KINDS = ("weights", "shortcuts", "rest")
SHORTCUTS = ("shortcut", "downsample")  # what residual nets call the layers beside their blocks


class Slot(NamedTuple):
    """One target tensor: its place in the flat vector, its fan-in and what is added to it."""

    start: int
    shape: tuple[int, ...]
    fan: int
    shift: float


class Group(NamedTuple):
    """Target tensors that share a head: their size, their chunks and the length of one."""

    kind: str
    size: int
    chunks: int
    length: int


def apportion(sizes: Sequence[int], chunks: int) -> list[int]:
    """How many of `chunks` each group has: one each, the others by size (largest remainder)."""
    if chunks < len(sizes):
        raise ConfigError(
            f"chunks: {chunks} are too few for {len(sizes)} kinds of parameters; "
            f"give at least {len(sizes)}."
        )
    exact = [(chunks - len(sizes)) * size / sum(sizes) for size in sizes]
    out = [1 + int(share) for share in exact]
    order = sorted(range(len(sizes)), key=lambda i: int(exact[i]) - exact[i])
    for i in order[: chunks - sum(out)]:
        out[i] += 1
    return out


def kind_of(name: str, shape: Sequence[int]) -> str:
    """Which head writes a parameter: tensors of rank 1 are biases, norm scales or shifts."""
    if len(shape) < 2:
        return "rest"
    beside = any(part in SHORTCUTS for part in name.split("."))
    return "shortcuts" if beside else "weights"


class Hypernet(nn.Module):
    """All weights of a target network from a code: theta = H(e), [T, code_size] to [T, N].

    A trunk of ReLU layers sees [e; c_j] for each chunk code c_j; one linear head per kind of
    parameter writes that kind's numbers, chunk after chunk, and the last chunk is cut off where
    they end. Kinds: weights; weights of shortcuts; biases, norm scales and shifts. ResNet-18 with
    200 chunks has 195, 4 and 1 of them.

    What comes out is what the target runs with. One output of a head goes to several tensors, so
    their fan-ins f are factors behind it (Hyperfan-in; Chang et al., 2020): a head's rows have
    variance 1/H, H the width of the trunk, and a weight is its output over sqrt(f), as if its row
    had 1/(H f). The trunk is He-initialised, so that its features have second moment 1. Norm scales
    are 1 + their output: theta = 0 is thus an output of -1 there.

    `T` codes take T N numbers, their graph T (N + the trunk's features of all chunks).
    """

    factor: Tensor
    shift: Tensor

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        *,
        code_size: int = 32,
        widths: Sequence[int] = (128, 256, 512),
        chunks: int = 200,
        rng: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        by_kind = {k: [n for n, s in shapes.items() if kind_of(n, s) == k] for k in KINDS}
        sizes = {k: sum(math.prod(shapes[n]) for n in names) for k, names in by_kind.items()}
        used = [kind for kind in KINDS if sizes[kind]]
        counts = apportion([sizes[k] for k in used], chunks)
        self.groups = [
            Group(k, sizes[k], count, -(-sizes[k] // count))
            for k, count in zip(used, counts, strict=True)
        ]
        self.slots: dict[str, Slot] = {}
        self.size = 0
        for name in (n for kind in used for n in by_kind[kind]):
            shape = tuple(shapes[name])
            scale = len(shape) == 1 and name.split(".")[-1] == "weight"
            fan = max(1, math.prod(shape[1:])) if len(shape) > 1 else 1
            self.slots[name] = Slot(self.size, shape, fan, float(scale))
            self.size += math.prod(shape)
        self.chunks = nn.Parameter(torch.randn(chunks, code_size, generator=rng))
        layers, width = [], 2 * code_size
        for wide in widths:
            layers.append(nn.Linear(width, wide))
            width = wide
        self.trunk = nn.ModuleList(layers)
        self.heads = nn.ModuleList(nn.Linear(width, group.length) for group in self.groups)
        self._start(rng)

    @torch.no_grad()
    def _start(self, rng: torch.Generator | None) -> None:
        for gain, layers in ((2, self.trunk), (1, self.heads)):
            for layer in layers:
                weight, bias = (p for p in layer.parameters())
                weight.uniform_(-1, 1, generator=rng).mul_(math.sqrt(3 * gain / weight.shape[1]))
                bias.zero_()
        factor, shift = torch.empty(self.size), torch.empty(self.size)
        for slot in self.slots.values():
            there = slice(slot.start, slot.start + math.prod(slot.shape))
            factor[there], shift[there] = slot.fan**-0.5, slot.shift
        self.register_buffer("factor", factor, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        """Flat weights of each code, [T, code_size] to [T, size], in the precision of the codes."""
        with torch.autocast(codes.device.type, enabled=False):
            num, chunks = len(codes), len(self.chunks)
            sides = codes[:, None].expand(-1, chunks, -1), self.chunks.expand(num, -1, -1)
            x = torch.cat(sides, 2).flatten(0, 1)  # in 2-D, for bits that do not hang on gradients
            for layer in self.trunk:
                x = F.relu(layer(x))
            parts = []
            pieces = x.view(num, chunks, -1).split([g.chunks for g in self.groups], 1)
            for group, head, piece in zip(self.groups, self.heads, pieces, strict=True):
                out = head(piece.flatten(0, 1)).view(num, -1)
                parts.append(out[:, : group.size])
            return torch.addcmul(self.shift, torch.cat(parts, 1), self.factor)

    def unpack(self, flat: Tensor) -> dict[str, Tensor]:
        """The target's tensors by name, as views of `flat` [..., size]."""
        return {
            name: flat[..., s.start : s.start + math.prod(s.shape)].unflatten(-1, s.shape)
            for name, s in self.slots.items()
        }

    def weights(self) -> Iterator[nn.Parameter]:
        """Its own parameters but for the chunk codes."""
        return (p for p in self.parameters() if p is not self.chunks)


class TaskHypernet(nn.Module):
    """A hypernetwork with a code for each task, and the snapshot that it is to stay close to."""

    def __init__(self, net: Hypernet) -> None:
        super().__init__()
        self.net, self.codes = net, nn.ParameterDict()
        self.anchor = copy.deepcopy(net).requires_grad_(False)
        self._then: Tensor | None = None
        self.register_load_state_dict_post_hook(_without_then)

    def forward(self, tasks: Sequence[int], net: Hypernet | None = None) -> Tensor:
        """Weights of these tasks, [T, N], in one pass."""
        codes = torch.stack([self.codes[str(task)] for task in tasks])
        out: Tensor = (net or self.net)(codes)
        return out

    def only(self, codes: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """What learns when these do: the generator's weights and they, of all codes alone."""
        for code in (self.net.chunks, *self.codes.values()):
            code.requires_grad_(any(code is one for one in codes)).grad = None
        return [*self.net.weights(), *codes]

    def snapshot(self) -> None:
        """From now on stay close to what is generated now."""
        self.anchor.load_state_dict(self.net.state_dict())
        self._then = None

    @torch.no_grad()
    def then(self, tasks: Sequence[int], skip: int) -> Tensor:
        """By the snapshot, the weights of `tasks[skip:]`; kept until another snapshot or state.

        They come from the batch in which they are compared, which rounds them alike.
        """
        if self._then is None:
            self._then = self(tasks, self.anchor)[skip:]
        return self._then


def _without_then(module: nn.Module, _: object) -> None:
    """What was kept belonged to another state."""
    assert isinstance(module, TaskHypernet)
    module._then = None


class GeneratedNet(nn.Module):
    """A net's backbone under a head of `outputs` rows, run with weights that come from elsewhere.

    The parameters of both are templates; running statistics of norms are the backbone's own unless
    others are given. With `batch_statistics` there are none: also in eval mode the batch's count.
    """

    def __init__(self, net: Net, outputs: int, *, batch_statistics: bool = False) -> None:
        super().__init__()
        make = CosineLinear if isinstance(net.head, CosineLinear) else nn.Linear
        self.head = make(net.num_features, outputs).requires_grad_(False).to(net.gain)
        norms = [m for m in net.backbone.modules() if isinstance(m, _NormBase)]
        if batch_statistics:
            for norm in norms:
                norm.running_mean = norm.running_var = norm.num_batches_tracked = None
                norm.track_running_stats = False
        self._norms = [m for m in norms if m.running_mean is not None]
        whole = nn.Sequential()
        whole.backbone, whole.head = net.backbone, self.head
        self._net, self._whole = [net], [whole]  # in lists: registered by whoever has the net

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all weights, by name."""
        return {name: tuple(p.shape) for name, p in self._whole[0].named_parameters()}

    def forward(
        self, weights: Mapping[str, Tensor], x: Tensor, statistics: Tensor | None = None
    ) -> Tensor:
        """Logits [n, outputs] of raw inputs; `statistics` as `self.statistics` gives them."""
        own = dict(weights) if statistics is None else dict(weights) | self._by_name(statistics)
        logits: Tensor = functional_call(self._whole[0], own, (self._net[0].normalise(x),))
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    def statistics(self) -> Tensor:
        """A copy of all running means and variances, flat."""
        found = [b.flatten() for _, b in self._running()]
        return torch.cat([self.head.weight.new_empty(0), *found])

    def forget(self) -> None:
        """Running statistics as if nothing had been seen."""
        for norm in self._norms:
            norm.reset_running_stats()

    def _running(self) -> list[tuple[str, Tensor]]:
        known = {id(b): name for name, b in self._whole[0].named_buffers()}
        pairs = [b for m in self._norms for b in (m.running_mean, m.running_var) if b is not None]
        return [(known[id(b)], b) for b in pairs]

    def _by_name(self, statistics: Tensor) -> dict[str, Tensor]:
        buffers = self._running()
        parts = statistics.clone().split([b.numel() for _, b in buffers])
        return {name: part for (name, _), part in zip(buffers, parts, strict=True)}


def preservation(now: Tensor, then: Tensor, norm: int | None = None) -> Tensor:
    """Squared change of generated weights, summed over numbers, mean over tasks; [S, N] each.

    `norm` in the place of S, if given; 0 for no task at all.
    """
    return (now - then).square().sum() / (norm or max(1, len(now)))


def towards_noise(theta: Tensor, z: Tensor) -> Tensor:
    """Mean of |theta - z_i|^2 over draws; theta [N], z [n, N]. It holds on to one mean draw only.

    As |theta - mean z|^2 + the draws' spread, which no gradient sees.
    """
    centre = z.mean(0)
    return (theta - centre).square().sum() + (z - centre).square().sum(1).mean()
