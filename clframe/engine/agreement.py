"""Whether all ranks hold the same model and memory, as everything here takes for granted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clframe.core import dist
from clframe.core.memory import Memory
from clframe.core.strategy import Strategy
from clframe.errors import TrainingError


def confirm(strategy: Strategy, when: str) -> None:
    """Raise TrainingError, on every rank, that names the first entry in which ranks differ."""
    if dist.world() == 1:
        return
    prints = dist.everyones({key: _print(value) for key, value in _entries(strategy)})
    for key in sorted(set().union(*prints)):
        odd = [r for r, one in enumerate(prints) if one.get(key) != prints[0].get(key)]
        if odd:
            raise TrainingError(
                f"the ranks no longer agree {when}: {key!r} is another on rank {odd[0]} than on "
                f"rank 0. Draw from shared_rng(), and reduce what each rank computes from its own "
                f"rows with total() or gather(); `clframe check` tries a strategy on two ranks."
            )


def _entries(strategy: Strategy) -> Iterator[tuple[str, Any]]:
    """What the checkpoint holds, but for the rows that a rank of a sharded memory has alone."""
    for name, module in strategy.named_modules():
        alone = isinstance(module, Memory) and module.split
        own = [*module.named_parameters(recurse=False)]
        own += [] if alone else module.named_buffers(recurse=False)
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            own.append(("extra state", module.get_extra_state()))
        for key, value in own:
            yield f"{name}.{key}" if name else key, value


def _print(value: Any) -> str:
    """A fingerprint of an entry: its tensors bit by bit."""
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(value):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes | memoryview]:
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().flatten()
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield flat.view(torch.uint8).numpy().data
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield repr(key).encode()
            yield from _parts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _parts(inner)
    else:
        yield repr(value).encode()
