"""What tells two finished runs apart: bit for bit, or but for rounding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from clframe.tracking.store import RunStore

if TYPE_CHECKING:
    from clframe.core.strategy import Strategy

CLOSE = 1e-9  # of double precision, over a short stream
TABLES = ("trace.parquet", "boundary.parquet")


def difference(one: Path, other: Path, close: float = 0.0) -> str | None:
    """What tells two finished runs apart, in their traces or their weights; None if nothing.

    Weights may differ by `close`, absolute and relative.
    """
    from clframe import load_run as load_strategy

    for name in TABLES:
        if (one / name).read_bytes() != (other / name).read_bytes():
            return f"{name} differs"
    states = [load_strategy(folder).state_dict() for folder in (one, other)]
    for key in states[0].keys() | states[1].keys():
        if not _equal(states[0].get(key), states[1].get(key), close):
            return f"the state {key!r} differs"
    return None


def acts_as_base(wrapped: Path, alone: Path) -> bool:
    """Whether a wrapper's run ends as its base's, memories aside, with nothing of its own."""
    from clframe import load_run as load_strategy

    ours, theirs = (_state(load_strategy(folder)) for folder in (wrapped, alone))
    same = _equal(ours, {f"base.{key}": value for key, value in theirs.items()})
    return same and _answers(wrapped) == _answers(alone)


def _state(strategy: Strategy) -> dict[str, Any]:
    from clframe.core.memory import Memory

    held = tuple(f"{name}." for name, m in strategy.named_modules() if isinstance(m, Memory))
    return {k: v for k, v in strategy.state_dict().items() if not k.startswith(held)}


def _answers(folder: Path) -> list[float]:
    """The accuracies at the boundaries of a run."""
    store = RunStore(folder)
    rows = store.read_boundary(store.read_record().primary).to_pylist()
    return [row["accuracy"] for row in rows]


def distance(one: Path, other: Path, close: float = CLOSE) -> str | None:
    """The same, rounding aside, with every loss on the way."""
    return losses_apart(one, other, close) or difference(one, other, close)


def losses_apart(one: Path, other: Path, close: float, updates: int | None = None) -> str | None:
    """The first loss, of `updates` or of all, that differs by more than `close`; None if none."""
    left, right = (_losses(folder, updates) for folder in (one, other))
    if left.keys() != right.keys():
        return "not the same losses at the same updates"
    for (name, update), value in left.items():
        there = right[name, update]
        if not abs(value - there) <= close * max(1.0, abs(value)):
            return f"{name} at update {update} is {value!r} and {there!r}"
    return None


def _losses(folder: Path, updates: int | None) -> dict[tuple[str, int], float]:
    """The losses in a run's journal, by name and update; of a resumed run the last word counts."""
    from clframe.tracking.journal import frames

    found = {}
    for frame in frames(RunStore(folder).journal_path):
        keys = frame.arrays["keys"].tolist() if frame.kind == "metrics" else []
        columns = [(i, key) for i, key in enumerate(keys) if key.startswith("loss/")]
        for row, update in enumerate(frame.arrays["iteration"].tolist() if columns else []):
            if updates is None or update <= updates:
                for i, key in columns:
                    found[key, update] = float(frame.arrays["values"][row, i])
    return found


def _equal(one: Any, other: Any, close: float = 0.0) -> bool:
    """Equality through and through, of state dicts whose leaves are tensors or plain values.

    Of floating-point tensors but to `close`, absolute and relative.
    """
    import torch

    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        to = close if one.is_floating_point() else 0.0
        return same and torch.allclose(one, other, rtol=to, atol=to, equal_nan=True)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[k], other[k], close) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(
            _equal(a, b, close) for a, b in zip(one, other, strict=True)
        )
    return bool(one == other)
