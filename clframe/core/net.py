"""The network of a run: raw inputs -> normalise -> backbone -> head -> full-width logits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clframe.core.rng import clock, generator

CLOSED = -1e9  # logit of a class the head has not grown to yet; finite, so that fp32 losses stay so


class CosineLinear(nn.Module):
    """Bias-free head whose logits are scale * cos(x, w); `guard` is added to both norms."""

    def __init__(
        self, num_features: int, num_classes: int, *, scale: float = 10.0, guard: float = 1e-5
    ) -> None:
        super().__init__()
        self.scale, self.guard = scale, guard
        self.weight = nn.Parameter(torch.empty(num_classes, num_features))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * cosines(x, self.weight, self.guard)


def cosines(rows: Tensor, others: Tensor, guard: float) -> Tensor:
    """[n, D] and [N, D] to [n, N], in single precision at least; `guard` is added to all norms."""
    half = (torch.float16, torch.bfloat16)
    with torch.autocast(rows.device.type, enabled=False):  # over a small temperature, digits count
        one, other = (t.float() if t.dtype in half else t for t in (rows, others))
        one = one / (one.norm(dim=1, keepdim=True) + guard)
        other = other / (other.norm(dim=1, keepdim=True) + guard)
        return F.linear(one, other)


class Net(nn.Module):
    """`net(x)` gives logits of shape [n, num_classes] from raw inputs and never augments.

    uint8 inputs are pixels: scaled to [0, 1] and normalised by `mean` and `std`. Floats are taken
    as they are, so whoever holds normalised data (the evaluator) pays once. With `growing`, classes
    that have not come yet have a closed logit, and their rows are drawn afresh when they come. With
    `frozen`, the backbone is never trained: it stays in eval mode, and only the head has gradients.
    """

    opened: Tensor
    shift: Tensor
    gain: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        num_features: int,
        num_classes: int,
        *,
        head: str = "linear",
        growing: bool = False,
        frozen: bool = False,
        augment: nn.Module | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        make = CosineLinear if head == "cosine" else nn.Linear
        self.augment = augment or nn.Identity()
        self.backbone = backbone
        self.head: nn.Module = make(num_features, num_classes)
        self.num_features, self.num_classes, self.growing = num_features, num_classes, growing
        self.frozen = False
        if frozen:
            self.freeze()
        # pixel * gain + shift == (pixel / 255 - mean) / std
        m = torch.tensor(mean if mean is not None else [0.0])
        s = torch.tensor(std if std is not None else [1.0])
        self.register_buffer("gain", 1 / (255 * s), persistent=False)
        self.register_buffer("shift", -m / s, persistent=False)
        self.register_buffer("opened", torch.full((num_classes,), not growing))

    def freeze(self) -> None:
        """Never train the backbone from now on, nor change its batch norm's statistics."""
        self.backbone.requires_grad_(False).eval()
        self.frozen = True

    def train(self, mode: bool = True) -> Net:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def normalise(self, x: Tensor) -> Tensor:
        """Raw inputs as the backbone wants them; of floats the precision alone changes."""
        if x.dtype != torch.uint8:
            return x.to(self.gain.dtype)
        tail = (1,) * (x.dim() - 2)  # in place: one operation for both is 15 times slower on CPUs
        out = x.to(self.gain.dtype)
        return out.mul_(self.gain.view(-1, *tail)).add_(self.shift.view(-1, *tail))

    def features(self, x: Tensor) -> Tensor:
        """The backbone's output, [n, num_features]."""
        return cast(Tensor, self.backbone(self.normalise(x)))

    def classify(self, features: Tensor, head: nn.Module | None = None) -> Tensor:
        """Logits of features, [n, num_classes], by the net's head or by another of its kind."""
        logits: Tensor = (self.head if head is None else head)(features)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        return logits.masked_fill(~self.opened, CLOSED) if self.growing else logits

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))

    def without_closed(self, logits: Tensor) -> Tensor:
        """The logits, zero where a growing head is still closed: fit to be stored and compared."""
        return logits.masked_fill(~self.opened, 0.0) if self.growing else logits

    @torch.no_grad()
    def grow(self, classes: Iterable[int]) -> None:
        """Open the head for `classes`; no effect on a fixed head or on classes already open."""
        for c in classes:
            if self.growing and not self.opened[c]:
                weight = cast(Tensor, self.head.weight)
                bound = self.num_features**-0.5
                row = torch.rand(self.num_features + 1, generator=generator(clock.seed, "row", c))
                row = (2 * row - 1) * bound
                weight[c] = row[:-1].to(weight)
                if isinstance(self.head, nn.Linear):
                    self.head.bias[c] = row[-1].to(weight)
                self.opened[c] = True


@contextmanager
def frozen_state(module: nn.Module) -> Iterator[None]:
    """Forwards inside leave no trace: batch norm's buffers and all randomness are put back.

    That includes `shared_rng`: what is drawn inside is drawn again after it.
    """
    batch_norm = nn.modules.batchnorm._BatchNorm  # in eval mode it writes nothing
    norms = [m for m in module.modules() if isinstance(m, batch_norm) and m.training]
    kept = [(b, b.clone()) for m in norms for b in m.buffers()]
    try:
        with same_randomness():
            yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


@contextmanager
def same_randomness() -> Iterator[None]:
    """Whatever is drawn inside is drawn again after it."""
    draws, rng = clock.draws(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        clock.rewind(draws)
        torch.set_rng_state(rng)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode for every submodule that was training, and back to exactly how each one was."""
    training = [m for m in module.modules() if m.training]
    put = object.__setattr__  # a Module's own looks for parameters first, at every evaluation
    for m in training:
        put(m, "training", False)
    try:
        yield
    finally:
        for m in training:
            put(m, "training", True)
