"""JSON that any reader can read, whatever numbers it holds."""

from __future__ import annotations

import json
import math

import numpy as np

from clframe.tracking.files import plain, to_json

AWKWARD = {
    "nan": math.nan,
    "infinite": [math.inf, -math.inf, np.float64("nan"), np.float32("inf")],
    "numpy": {"int": np.int64(3), "float": np.float64(0.1), "bool": np.bool_(True)},
    "array": np.array([[1.0, math.nan], [2.0, 3.5]]),
    "tiny": [1e-5, 5e-324, 1e16, 0.1 + 0.2, -0.0, 1 / 3],
    "text": 'ü "\n\\ \u2028',
    "tuple": (1, (2, None)),
    "large": 2**70,
    "empty": [{}, [], ""],
    0: "a number as key",
}


def test_json_is_that_of_the_plain_value() -> None:
    text = to_json(AWKWARD)
    assert json.loads(text) == plain(AWKWARD)
    assert text.endswith("}\n") and '\n "tiny": [\n' in text and "ü" in text
    assert json.loads(text)["infinite"] == [None] * 4


def test_infinities_may_be_told_from_what_is_undefined() -> None:
    asked, usual = plain(AWKWARD, infinities=True), plain(AWKWARD)
    assert asked.pop("infinite") == ["inf", "-inf", None, "inf"]
    assert usual.pop("infinite") == [None] * 4 and asked == usual
    nested = {"a": (np.array([math.inf, 1.0]), {2: -math.inf})}
    text = json.dumps(plain(nested, infinities=True), allow_nan=False)
    assert json.loads(text) == {"a": [["inf", 1.0], {"2": "-inf"}]}
