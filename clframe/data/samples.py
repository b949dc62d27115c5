"""From a data set of Avalanche's to tensors: one gather where we made it, else item by item."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clframe.core.experience import Samples
from clframe.errors import PluginError
from clframe.sources.streams import Rows

PROBES = 8  # items read twice, to see whether they are the same twice


def to_samples(dataset: Any, where: str, first_uid: int = 0) -> Samples:
    """The data set's rows, in order, with labels as they are and task 0.

    Rows that nobody named get uids from `first_uid` on. `where` names the data set in messages.
    """
    try:
        size = len(dataset)
    except TypeError:
        raise PluginError(f"{where} has no data set with a length, but {dataset!r}.") from None
    if not size:
        raise PluginError(f"{where} has no samples. Every experience needs some.")
    plain = dataset.eval() if hasattr(dataset, "eval") else dataset  # Avalanche's plain transforms
    return _gather(plain) or _one_by_one(plain, size, where, first_uid)


def _gather(dataset: Any) -> Samples | None:
    """The rows from the tensors at the leaves, found by uid; None when the leaves are not ours."""
    leaves = {id(leaf): leaf for leaf in _leaves(getattr(dataset, "_flat_data", dataset))}
    if not leaves or not all(isinstance(leaf, Rows) for leaf in leaves.values()):
        return None
    pool = Samples.cat([leaf.samples for leaf in leaves.values()])
    uid = torch.tensor(list(getattr(dataset, "uid", ())), dtype=torch.long)
    if len(uid) != len(dataset):
        return None
    if not torch.equal(uid, pool.uid):
        order = pool.uid.argsort()
        rows = order[torch.searchsorted(pool.uid[order], uid).clamp(max=len(order) - 1)]
        if not torch.equal(pool.uid[rows], uid) or len(pool.uid.unique()) < len(order):
            return None
        pool = Samples(*pool.take(rows))
    # Whoever put a transform on top wants its results, which only the items have.
    same = all(_equal(dataset[i][:2], (pool.x[i], pool.y[i])) for i in (0, len(uid) - 1))
    return Samples(pool.x, pool.y, torch.zeros_like(pool.y), pool.uid) if same else None


def _leaves(data: Any) -> Iterator[Any]:
    inner = getattr(data, "_datasets", None)
    if inner is None:
        yield data
    else:
        for part in inner:
            yield from _leaves(part)


def _one_by_one(dataset: Any, size: int, where: str, first_uid: int) -> Samples:
    items = [dataset[i] for i in range(size)]
    for i in range(0, size, max(1, size // PROBES)):
        if not _equal(items[i][:2], dataset[i][:2]):
            raise PluginError(
                f"{where}: item {i} is another one each time it is read. Data is read once and "
                "kept, so leave random transforms out; net.augment=true augments in training."
            )
    inputs = [_tensor(item[0], where) for item in items]
    shapes = sorted({tuple(x.shape) for x in inputs})
    if len(shapes) > 1:
        raise PluginError(
            f"{where} has inputs of several shapes, such as {shapes[0]} and {shapes[-1]}. "
            "Give them one, with a resizing transform."
        )
    uid = getattr(dataset, "uid", None)
    named = range(first_uid, first_uid + size) if uid is None else uid
    y = torch.tensor([int(item[1]) for item in items])
    return Samples(torch.stack(inputs), y, torch.zeros_like(y), torch.tensor(list(named)))


def _tensor(x: Any, where: str) -> Tensor:
    """One input as a tensor: images become uint8 [C, H, W], doubles become floats."""
    if isinstance(x, Tensor):
        out = x
    elif isinstance(x, np.ndarray | Sequence):
        out = torch.as_tensor(np.asarray(x))
    elif hasattr(x, "getbands"):  # a PIL image
        pixels = np.array(x)
        out = torch.from_numpy(np.atleast_3d(pixels).transpose(2, 0, 1).copy())
    else:
        raise PluginError(
            f"{where} has inputs of type {type(x).__name__}; expected tensors, arrays or images."
        )
    return out.float() if out.dtype == torch.float64 else out


def _equal(a: Any, b: Any) -> bool:
    (x, y), (other_x, other_y) = a, b
    return int(y) == int(other_y) and torch.equal(_tensor(x, ""), _tensor(other_x, ""))
