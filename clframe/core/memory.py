"""What is remembered of samples: named columns, counted in the costs and emptied by requests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn

from clframe.core.rng import shared_rng


def encode(values: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Linear 8-bit codes of `values` [n, ...] (half to even), scaled by class: codes, low, high."""
    codes = torch.empty_like(values, dtype=torch.uint8)
    low, high = values.new_zeros(2, len(values))
    for label in y.unique():
        own = y == label
        low[own], high[own] = least, most = values[own].aminmax()
        scale = torch.where(most > least, most - least, torch.ones_like(most))
        codes[own] = ((values[own] - least) / scale * 255).round().to(torch.uint8)
    return {"codes": codes, "low": low, "high": high}


def decode(codes: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The values to within (high - low) / 510; codes [n, ...], low and high [n]."""
    low, high = (t.view(-1, *[1] * (codes.dim() - 1)) for t in (low, high))
    return codes.to(low.dtype) / 255 * (high - low) + low


def quota(size: int, parts: int) -> list[int]:
    """`size` in equal parts, the first ones larger by one where need be."""
    return [size // parts + (i < size % parts) for i in range(parts)]


def first_of_each(y: Tensor, count: int) -> Tensor:
    """The rows of the first `count` samples of each class, class by class."""
    rows = [torch.nonzero(y == label).flatten()[:count] for label in y.unique()]
    return torch.cat([torch.zeros_like(y[:0]), *rows])


class Memory(nn.Module, ABC):
    """Rows under named columns, in the state dict; a column `uid` says which sample each is of."""

    def __init__(self) -> None:
        super().__init__()
        self._columns: list[str] = []

    @abstractmethod
    def __len__(self) -> int:
        """How many samples are remembered."""

    @property
    def split(self) -> bool:
        """Whether a rank has but its share of the rows."""
        return False

    @property
    def num_bytes(self) -> int:
        """Bytes that the columns take in this process."""
        return sum(t.numel() * t.element_size() for t in map(self._store, self._columns))

    def column(self, name: str) -> Tensor:
        """The stored rows of one column, [len(self), ...]."""
        return self._store(name)

    @abstractmethod
    def forget(self, *, uids: Tensor) -> int:
        """Drop every row whose `uid` is among `uids` ([n] int64); returns how many went."""

    def _store(self, name: str) -> Tensor:
        return cast(Tensor, self._buffers[f"column_{name}"])

    def _put(self, name: str, rows: Tensor) -> None:
        """Make `rows` the column `name`, a new one if need be."""
        self.register_buffer(f"column_{name}", rows)
        if name not in self._columns:
            self._columns.append(name)


class Archive(Memory):
    """As many rows as are appended, in that order, equal on every rank; nothing is drawn or moved.

    Columns keep the dtype they come in. A change makes new tensors of all columns.
    """

    def __len__(self) -> int:
        return len(self._store("uid")) if self._columns else 0

    @torch.no_grad()
    def append(self, **columns: Tensor) -> None:
        """Add rows ([n, ...] per column, `uid` among them), which all ranks must have alike."""
        rows = {name: value.detach() for name, value in columns.items()}
        assert "uid" in rows, "rows without a uid could not be withdrawn"
        assert not self._columns or set(rows) == set(self._columns), (
            f"{sorted(rows)} appended, has {self._columns}"
        )
        for name, value in rows.items():
            old = [self._store(name)] if self._columns and name in self._columns else []
            self._put(name, torch.cat([*old, value.to(old[0].device) if old else value]))

    @torch.no_grad()
    def keep(self, rows: Tensor) -> None:
        """Keep the rows where `rows` ([len(self)] bool) is true."""
        for name in self._columns:
            self._put(name, self._store(name)[rows])

    def drop_classes(self, y: Tensor) -> None:
        """Drop every row whose `y` is among these labels."""
        if len(self):
            self.keep(~torch.isin(self.column("y"), y.to(self.column("y").device)))

    def draw_classes(self, size: int) -> Tensor:
        """`size` rows, as many of each class, none of them twice if possible; one draw for all."""
        g, y = shared_rng("memory/sample"), self.column("y").cpu()
        classes, rows = y.unique(), []
        for label, n in zip(classes, quota(size, len(classes)), strict=True):
            own = torch.nonzero(y == label).flatten()
            index = torch.randperm(len(own), generator=g)
            if n > len(own):
                index = torch.randint(len(own), (n,), generator=g)
            rows.append(own[index[:n]])
        return torch.cat(rows).to(self.column("y").device)

    def forget(self, *, uids: Tensor) -> int:
        if not len(self):
            return 0
        uid = self.column("uid")
        gone = torch.isin(uid, uids.to(uid.device))
        self.keep(~gone)
        return int(gone.sum())

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take the columns that the checkpoint has, of whatever length."""
        start = f"{prefix}column_"
        stored = [key.removeprefix(start) for key in state_dict if key.startswith(start)]
        for name in self._columns:
            del self._buffers[f"column_{name}"]
        self._columns = []
        for name in stored:
            self._put(name, torch.empty_like(state_dict[start + name]))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
