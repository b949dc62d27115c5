"""How a data set is dealt out: class order, classes per experience, samples held out or left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from clframe.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from torch import Tensor

SETTINGS = ("class", "task", "domain")


def whole(key: str, value: Any, at_least: int) -> int:
    """`value` as a whole number of at least `at_least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{key}={value!r}: expected a whole number, such as {at_least}.")
    if value < at_least:
        raise ConfigError(f"{key}={value}: expected at least {at_least}. Use {key}={at_least}.")
    return value


def share(key: str, value: Any) -> float:
    """`value` as a share of a whole: in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{key}={value!r}: expected a share in [0, 1), such as 0.1.")
    if not 0 <= value < 1:
        hint = f"{key}={value / 100:g} for {value:g} percent" if 1 <= value < 100 else f"{key}=0"
        raise ConfigError(f"{key}={value}: expected a share in [0, 1). Use {hint}.")
    return float(value)


def one_of(key: str, value: Any, known: Sequence[str]) -> str:
    """`value` when it is among `known`."""
    if value not in known:
        hint = nearest(str(value), known)
        raise ConfigError(f"{key}={value!r}: expected one of {', '.join(known)}.{hint}")
    return str(value)


def class_order(num_classes: int, order: str | Iterable[int] | None, seed: int) -> tuple[int, ...]:
    """The data set's class numbers in the order in which they come.

    None keeps the data set's own order, "shuffled" draws one from `seed`, a list is taken as it is.
    """
    if order is None:
        return tuple(range(num_classes))
    if isinstance(order, str):
        one_of("order", order, ["shuffled"])
        import torch

        from clframe.core.rng import generator

        return tuple(torch.randperm(num_classes, generator=generator(seed, "class order")).tolist())
    given = list(order) if isinstance(order, Iterable) else [order]
    if sorted(map(str, given)) != sorted(map(str, range(num_classes))):
        raise ConfigError(f"order={given}: {_not_a_permutation(given, num_classes)}")
    return tuple(int(c) for c in given)


def _not_a_permutation(given: list[Any], num_classes: int) -> str:
    wanted = range(num_classes)
    lacking = [c for c in wanted if c not in given]
    twice = sorted({str(c) for c in given if given.count(c) > 1})
    foreign = [c for c in given if c not in wanted]
    faults = [
        f"{what} {', '.join(map(str, some[:10]))}{', ...' if len(some) > 10 else ''}"
        for what, some in (("lacks", lacking), ("repeats", twice), ("has no class", foreign))
        if some
    ]
    return (
        f"{'; '.join(faults)}. Expected each of 0 to {num_classes - 1} once, 'shuffled', or "
        "nothing for the data set's own order."
    )


def partition(
    num_classes: int,
    experiences: int = 5,
    *,
    base: int | None = None,
    increment: int | None = None,
    key: str = "experiences",
) -> tuple[int, ...]:
    """The number of classes of each experience; they add up to `num_classes`.

    Without `base` and `increment`: `experiences` equal parts. With `increment`, as many experiences
    as it takes (`experiences` is not asked), the first of `base` classes if that is given. With
    `base` alone, `experiences` - 1 equal parts after it. `key` is the option's name in messages.
    """
    if increment is not None:
        return _by_increment(num_classes, base, whole("increment", increment, 1))
    whole(key, experiences, 1)
    if base is not None:
        return _after_base(num_classes, experiences, _base(num_classes, base))
    if num_classes % experiences:
        too_many = experiences > num_classes
        what = "cannot fill more experiences" if too_many else "do not split into equal parts"
        raise ConfigError(
            f"{key}={experiences}: {num_classes} classes {what}. "
            f"{_choices(key, experiences, divisors(num_classes))}."
        )
    return (num_classes // experiences,) * experiences


def class_groups(
    num_classes: int,
    *,
    experiences: int = 5,
    order: str | Iterable[int] | None = None,
    base: int | None = None,
    increment: int | None = None,
    seed: int = 0,
) -> tuple[tuple[int, ...], ...]:
    """The data set's class numbers that come in each experience."""
    sizes = partition(num_classes, experiences, base=base, increment=increment)
    classes = iter(class_order(num_classes, order, seed))
    return tuple(tuple(islice(classes, size)) for size in sizes)


def _by_increment(num_classes: int, base: int | None, increment: int) -> tuple[int, ...]:
    first = increment if base is None else _base(num_classes, base)
    rest = num_classes - first
    if rest < 0 or rest % increment:
        given = f"increment={increment}" if base is None else f"base={base}, increment={increment}"
        left = num_classes if base is None else rest
        raise ConfigError(
            f"{given}: {left} classes {'' if base is None else 'after the base '}do not split into "
            f"steps of {increment}. {_choices('increment', increment, divisors(left))}."
        )
    return (first, *[increment] * (rest // increment))


def _after_base(num_classes: int, experiences: int, base: int) -> tuple[int, ...]:
    rest = num_classes - base
    if experiences < 2 or rest % (experiences - 1):
        valid = [d + 1 for d in divisors(rest)]
        raise ConfigError(
            f"base={base}, experiences={experiences}: {rest} classes after the base do not split "
            f"into {experiences - 1} equal parts. "
            f"{_choices('experiences', experiences, valid)}, or increment=."
        )
    return (base, *[rest // (experiences - 1)] * (experiences - 1))


def _base(num_classes: int, base: int) -> int:
    if whole("base", base, 1) >= num_classes:
        raise ConfigError(
            f"base={base}: expected fewer than the {num_classes} classes, so that some are left to "
            f"come. Use base={max(1, num_classes // 2)}, or experiences=1 for a single experience."
        )
    return base


def divisors(n: int) -> list[int]:
    """The whole numbers that divide `n`, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]


def _choices(key: str, given: int, valid: list[int]) -> str:
    closest = min(valid, key=lambda d: abs(d - given))
    return f"Use {key}={closest} (what works: {', '.join(map(str, valid))})"


def holdout(y: Tensor, held: float, *, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Indices (kept, held out) of labels `y`, ascending: of each class its rounded share `held`.

    At least one of each class is on either side, unless nothing is held out. Fixed by `seed` and
    `purpose` alone.
    """
    import torch

    from clframe.core.rng import generator

    out = torch.zeros(len(y), dtype=torch.bool)
    for label in torch.unique(y).tolist() if held else ():
        rows = torch.nonzero(y == label).flatten()
        if len(rows) < 2:
            raise DataError(
                f"{purpose}: class {label} has one sample and cannot be on both sides of a split."
            )
        count = min(max(round(held * len(rows)), 1), len(rows) - 1)
        drawn = torch.randperm(len(rows), generator=generator(seed, purpose, label))
        out[rows[drawn[:count]]] = True
    return torch.nonzero(~out).flatten(), torch.nonzero(out).flatten()


def limit_per_class(y: Tensor, limit: int | None, *, seed: int) -> Tensor:
    """Indices into `y`, ascending, of at most `limit` samples of each class, drawn by `seed`."""
    import torch

    if limit is None:
        return torch.arange(len(y))
    return _drawn(y, lambda n: limit, seed, "limit")


def portion_per_class(y: Tensor, portion: float, *, seed: int, purpose: str) -> Tensor:
    """Indices into `y`, ascending, of each class's rounded share `portion`, at least one sample."""
    return _drawn(y, lambda n: max(1, round(portion * n)), seed, purpose)


def _drawn(y: Tensor, count: Callable[[int], int], seed: int, purpose: str) -> Tensor:
    import torch

    from clframe.core.rng import generator

    kept = torch.zeros(len(y), dtype=torch.bool)
    for label in torch.unique(y).tolist():
        rows = torch.nonzero(y == label).flatten()
        drawn = torch.randperm(len(rows), generator=generator(seed, purpose, label))
        kept[rows[drawn[: count(len(rows))]]] = True
    return torch.nonzero(kept).flatten()
