"""Options out of range are named with their value and a way out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from clframe.core.options import check_above, check_choice, check_least, check_range
from clframe.errors import ConfigError


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (lambda: check_choice(("sum", "concat"), variant="concatt"),
         "variant: 'concatt' is unknown; choose from sum, concat. Did you mean 'concat'?"),
        (lambda: check_choice(("sum", "concat"), a="sum", b="x"),
         "b: 'x' is unknown; choose from sum, concat."),
        (lambda: check_least(1, rows=3, steps=0), "steps: 0 is out of range; give 1 or more."),
        (lambda: check_least(0, beta=math.nan), "beta: nan is out of range; give 0 or more."),
        (lambda: check_range(0, 1, rate=1.5), "rate: 1.5 is out of range; give 0 to 1."),
        (lambda: check_range(0, 1, rate=-0.5), "rate: -0.5 is out of range; give 0 to 1."),
        (lambda: check_above(0, lr=0.0), "lr: 0.0 is out of range; give more than 0."),
        (lambda: check_above(0, lr=math.nan), "lr: nan is out of range; give more than 0."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(check: Callable[[], Any], words: str) -> None:
    with pytest.raises(ConfigError) as found:
        check()
    assert str(found.value) == words


def test_bounds_belong_to_a_range_and_what_is_left_out_is_not_looked_at() -> None:
    check_choice(("sum",), variant="sum")
    check_least(1, steps=1, size=None)
    check_range(0, 1, low=0, high=1, none=None)
    check_above(0, lr=1e-12, clip=None)
