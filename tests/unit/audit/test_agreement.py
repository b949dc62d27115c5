"""The spec's numbers for agreement with a retrained model, and what the distances promise."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from clframe.audit import agreement
from clframe.audit.agreement import FEATURES, Moments, Reading, divergences
from clframe.errors import ClframeError

CHECK = settings(max_examples=60, deadline=None)
SEEDS = st.integers(0, 2**16)
PEAKED = [[0.7, 0.1, 0.1, 0.1]]
UNIFORM = [[0.25] * 4]
ONE_HOT = [[1.0] + [0.0] * 9]
P_U = [[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]
P_R = [[0.5, 0.25, 0.25], [0.3, 0.4, 0.3]]
A = np.array([[1.0, 0], [0, 1], [1, 1], [2, 0]])
B = np.array([[1.0, 1], [0, 1], [2, 1], [2, -1]])


def outputs(seed: int, n: int = 7, k: int = 4) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).dirichlet(np.full(k, 0.5), size=n)


def normal(seed: int, n: int = 30, d: int = 5) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(n, d))


def six(value: float | None) -> str:
    assert value is not None
    return f"{value:.6f}"


def test_example_2_of_the_spec() -> None:
    assert six(agreement.js(PEAKED, UNIFORM)) == "0.105297"
    assert six(agreement.js(PEAKED, UNIFORM, bits=True)) == "0.151911"
    assert six(agreement.uniformity(PEAKED)) == "0.848089"
    assert six(agreement.uniformity(PEAKED, legacy=True)) == "0.886382"
    assert six(agreement.uniformity(ONE_HOT)) == "0.241723"
    assert six(agreement.uniformity(ONE_HOT, legacy=True)) == "-4.691382"
    assert six(agreement.zrf(PEAKED, UNIFORM)) == "0.848089"


def test_example_3_of_the_spec() -> None:
    found = agreement.compare(P_U, P_R)
    assert six(found["kl"]) == "0.141643"
    assert six(found["js"]) == "0.033763"
    assert six(found["total_variation"]) == "0.225000"
    assert six(found["activation_distance"]) == "0.280624"
    assert found["disagreement"] == 0.5
    assert agreement.kl(P_U, P_R) != agreement.kl(P_R, P_U)


def test_example_4_of_the_spec() -> None:
    found = {name: six(f(A, B)) for name, f in FEATURES.items()}
    assert found == {
        "euclidean": "0.750000",
        "manhattan": "0.750000",
        "cosine": "0.112446",
        "cka": "0.238206",
    }
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert agreement.cka_distance(A, A @ turn) == pytest.approx(0, abs=1e-12)
    assert agreement.euclidean(A, A @ turn) > 0.5


def test_accuracy_gain_of_example_1() -> None:
    ours, original = [0.12, 0.89, 0.94], [None, 0.87, 0.93]
    assert agreement.accuracy_gain(ours, original, [1, 2]) == pytest.approx(0.015)
    assert agreement.accuracy_gain(ours, original, [0, 1]) is None


def test_example_5_of_the_spec_equal_models_are_at_distance_0() -> None:
    p, x = outputs(1), normal(1)
    found = agreement.compare(p, p, (x, x), untrained=p)
    for name in (*divergences(), "euclidean", "manhattan", "cosine"):
        assert found[name] == 0, name
    assert found["cka"] == pytest.approx(0, abs=1e-12)
    assert found["zrf"] == 1
    assert found["uniformity"] == found["uniformity_retrained"]


@CHECK
@given(SEEDS, SEEDS)
def test_divergences_keep_their_bounds(one: int, two: int) -> None:
    p, q = outputs(one), outputs(two)
    js = agreement.js(p, q)
    assert js == pytest.approx(agreement.js(q, p))
    assert js == pytest.approx(float(np.mean(jensenshannon(p, q, axis=1) ** 2)), abs=1e-12)
    assert 0 <= js <= math.log(2) + 1e-12
    assert agreement.js(p, q, bits=True) == pytest.approx(js / math.log(2))
    tv = agreement.total_variation(p, q)
    assert 0 <= tv <= 1
    assert agreement.kl(p, q) >= 2 * tv**2 - 1e-12, "Pinsker"
    assert agreement.activation_distance(p, q) <= 2 * tv + 1e-12
    assert 1 - math.log2(4) / 2 < agreement.uniformity(p) <= 1


def test_disjoint_outputs_reach_the_bounds() -> None:
    p, q = [[1.0, 0.0]], [[0.0, 1.0]]
    assert agreement.js(p, q, bits=True) == 1
    assert agreement.total_variation(p, q) == 1
    assert agreement.kl(p, q) == math.inf


def test_a_mask_drops_classes_of_both_models() -> None:
    p, q = outputs(1, k=5), outputs(2, k=5)
    active = np.array([True, False, True, True, False])

    def cut(a: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return a[:, active] / a[:, active].sum(1, keepdims=True)

    assert agreement.compare(p, q, untrained=q, active=active) == pytest.approx(
        agreement.compare(cut(p), cut(q), untrained=cut(q))
    )
    assert agreement.js(p, q, active) != pytest.approx(agreement.js(p, q))


@CHECK
@given(SEEDS, st.lists(st.integers(1, 29), max_size=5))
def test_cka_does_not_depend_on_batches(seed: int, cuts: list[int]) -> None:
    a = normal(seed) + 100  # far from 0, where plain sums of squares would lose digits
    b = a[:, :3] ** 2 + normal(seed + 1, d=3)
    edges = [0, *sorted(set(cuts)), len(a)]
    parts = [Moments.of(a[i:j], b[i:j]) for i, j in itertools.pairwise(edges)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    assert total.num == len(a)
    assert total.cka() == pytest.approx(Moments.of(a, b).cka(), rel=1e-9)


def test_cka_is_what_its_definition_says() -> None:
    a, b = normal(1), normal(2, d=3) + normal(1)[:, :3]
    x, y = a - a.mean(0), b - b.mean(0)
    gram = np.sum((x @ x.T) * (y @ y.T))  # the same by kernels
    whole = gram / (np.linalg.norm(x @ x.T) * np.linalg.norm(y @ y.T))
    assert Moments.of(a, b).cka() == pytest.approx(whole)
    assert agreement.cka_distance(a, b) == pytest.approx(1 - whole)


@CHECK
@given(SEEDS)
def test_only_cka_ignores_rotation_shift_and_scale(seed: int) -> None:
    a = normal(seed)
    turn, _ = np.linalg.qr(normal(seed + 1, n=5))
    moved = 3 * a @ turn + 7
    assert agreement.cka_distance(a, moved) == pytest.approx(0, abs=1e-9)
    assert min(agreement.euclidean(a, moved), agreement.manhattan(a, moved)) > 1
    assert agreement.cosine(a, moved) > 0.01


def test_features_without_direction_or_variation() -> None:
    zero, one = np.zeros((2, 3)), np.ones((2, 3))
    assert agreement.cosine(zero, zero) == 0
    assert agreement.cosine(zero, one) == 1
    assert agreement.cosine(one, -one) == pytest.approx(2)
    assert agreement.cka_distance(np.full((9, 3), 0.1), normal(1, n=9)) is None


def test_the_floor_is_the_distance_between_retrained_models() -> None:
    retrained = [outputs(s) for s in (1, 2, 3)]
    pairs = [(1, 2), (1, 3), (2, 3)]
    floor = np.mean([agreement.js(outputs(a), outputs(b)) for a, b in pairs])
    assert agreement.noise_floor(retrained, agreement.js) == pytest.approx(floor)
    both = [agreement.kl(outputs(a), outputs(b)) for a, b in [*pairs, *(p[::-1] for p in pairs)]]
    found = agreement.noise_floor(retrained, divergences()["kl"])
    assert found == pytest.approx(np.mean(both)), "either may be the reference"
    accuracies = agreement.noise_floor([0.20, 0.22, 0.26], lambda a, b: abs(a - b))
    assert accuracies == pytest.approx((0.02 + 0.06 + 0.04) / 3)
    features = [normal(s) for s in (1, 2)]
    assert all(agreement.noise_floor(features, f) for f in FEATURES.values())


def test_without_two_different_retrained_models_there_is_no_ratio() -> None:
    assert agreement.noise_floor([outputs(1)], agreement.js) is None
    assert agreement.noise_floor([outputs(1)] * 3, agreement.js) == 0
    assert agreement.against(0.3, 0.0).ratio is agreement.against(0.3, None).ratio is None
    assert agreement.against(0.3, 0.2) == Reading(0.3, 0.2, pytest.approx(1.5))
    assert agreement.against(None, 0.2).ratio is None


REFUSED: dict[str, tuple[Any, str]] = {
    "logits": (lambda: agreement.uniformity([[3.0, -1.0]]), "give no logits"),
    "nan": (lambda: agreement.uniformity([[math.nan, 1.0]]), "give no logits"),
    "empty": (lambda: agreement.js(np.zeros((0, 3)), np.zeros((0, 3))), "not empty"),
    "samples": (lambda: agreement.js(P_U, P_R[:1]), r"\(2, 3\) and \(1, 3\)"),
    "mask": (lambda: agreement.js(P_U, P_R, [True]), r"active has shape \(1,\)"),
    "nothing": (lambda: agreement.uniformity([[1.0, 0.0]], [False, True]), "no probability"),
    "features": (lambda: agreement.euclidean(A, B[:2]), r"\(4, 2\) and \(2, 2\)"),
    "infinite": (lambda: agreement.cka_distance(A, B * math.inf), "not finite"),
}


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("call,message", REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ClframeError, match=message):
        call()
