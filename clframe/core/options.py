"""What options may be: a ConfigError that names the option, its value and the way out.

Each takes options by name, as in `check_least(1, steps=steps)`; None stands for one left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from clframe.errors import ConfigError, nearest


def check_choice(known: Iterable[str], **given: str) -> None:
    """Raise ConfigError for the first that is none of `known`."""
    known = list(known)
    for name, value in given.items():
        if value not in known:
            choices = f"choose from {', '.join(known)}.{nearest(str(value), known)}"
            raise ConfigError(f"{name}: {value!r} is unknown; {choices}")


def check_least(least: float, **given: float | None) -> None:
    """Raise ConfigError for the first that is below `least`, or no number."""
    check_range(least, math.inf, **given)


def check_range(least: float, most: float, **given: float | None) -> None:
    """Raise ConfigError for the first that is not from `least` to `most`."""
    way = f"{least} or more" if most == math.inf else f"{least} to {most}"
    for name, value in given.items():
        if value is not None and not least <= value <= most:
            raise ConfigError(f"{name}: {value} is out of range; give {way}.")


def check_above(bound: float, **given: float | None) -> None:
    """Raise ConfigError for the first that is not above `bound`."""
    for name, value in given.items():
        if value is not None and not value > bound:
            raise ConfigError(f"{name}: {value} is out of range; give more than {bound}.")
