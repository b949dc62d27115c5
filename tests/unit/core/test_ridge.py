"""Both forms of ridge regression against its definition, before and after rows are taken out."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from clframe.core.ridge import Ridge, RidgeInverse, RidgeMoments
from clframe.errors import ConfigError, DataError

FORMS = [RidgeMoments, RidgeInverse]
Form = type[RidgeMoments] | type[RidgeInverse]
Rows = tuple[Tensor, Tensor]
forms = pytest.mark.parametrize("form", FORMS)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def table(n: int = 40, d: int = 6, classes: int = 3) -> Rows:
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, d, dtype=torch.float64, generator=g), torch.arange(n) % classes


def solved(x: Tensor, y: Tensor, gamma: float, classes: int = 3) -> Tensor:
    """Ridge regression by its definition, as one least-squares problem without normal equations."""
    root = torch.eye(x.shape[1], dtype=torch.float64) * gamma**0.5
    target = torch.nn.functional.one_hot(y, classes).double()
    target = torch.cat([target, target.new_zeros(len(root), classes)])
    return torch.linalg.lstsq(torch.cat([x, root]), target).solution


def fitted(form: Form, x: Tensor, y: Tensor, *, gamma: float = 0.1, classes: int = 3) -> Ridge:
    ridge = form(x.shape[1], classes, gamma=gamma)
    ridge.learn(x, y)
    return ridge


def inverse(ridge: Ridge) -> Tensor:
    if isinstance(ridge, RidgeInverse):
        return ridge.inverse
    gram = ridge.gram + ridge.gamma * torch.eye(len(ridge.gram), dtype=torch.float64)
    return torch.linalg.inv(gram)


def gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@forms
def test_three_rows_of_one_feature(form: Form) -> None:
    ridge = fitted(form, column(1, 2, 3), column(1, 2, 2), gamma=1, classes=1)
    assert float(inverse(ridge)) == pytest.approx(1 / 15, abs=1e-12)
    assert float(ridge.weight) == pytest.approx(11 / 15, abs=1e-12)
    ridge.forget(column(3), column(2))
    assert float(inverse(ridge)) == pytest.approx(1 / 6, abs=1e-12)
    assert float(ridge.weight) == pytest.approx(5 / 6, abs=1e-12)
    assert int(ridge.num) == 2


@forms
def test_blocks_learn_what_all_rows_give_and_forget_to_what_is_left(form: Form) -> None:
    x, y = table()
    ridge = form(6, 3, gamma=0.1)
    for rows in (slice(0, 15), slice(15, 30), slice(30, 40)):
        ridge.learn(x[rows], y[rows])
    assert gap(ridge.weight, solved(x, y, 0.1)) < 1e-10
    ridge.forget(x[10:20], y[10:20])
    kept = torch.cat([torch.arange(10), torch.arange(20, 40)])
    again = fitted(form, x[kept], y[kept])
    assert gap(ridge.weight, solved(x[kept], y[kept], 0.1)) < 1e-8
    assert gap(inverse(ridge), inverse(again)) < 1e-8


@forms
def test_a_class_without_rows_has_the_only_logit_that_is_not_negative(form: Form) -> None:
    ridge = fitted(form, column(1, 2, -1), torch.tensor([0, 1, 2]), gamma=1)
    wanted = torch.tensor([1, 2, -1], dtype=torch.float64) / 7
    assert gap(ridge.weight[0], wanted) < 1e-12
    ridge.forget(column(-1), torch.tensor([2]))
    wanted = torch.tensor([1 / 6, 1 / 3, 0], dtype=torch.float64)
    assert gap(ridge.weight[0], wanted) < 1e-12
    logits = (column(-1) @ ridge.weight)[0]
    assert int(logits.argmax()) == 2 and int(logits[:2].argmax()) == 0


@pytest.mark.parametrize(("form", "close"), [(RidgeMoments, 1e-10), (RidgeInverse, 1e-8)])
def test_forgetting_everything_gives_the_beginning_back(form: Form, close: float) -> None:
    """On 40 rows of 6 standard normal features, with gamma = 0.1."""
    x, y = table()
    ridge = fitted(form, x, y)
    ridge.forget(x, y)
    assert float(ridge.weight.abs().max()) < close
    assert gap(inverse(ridge), torch.eye(6, dtype=torch.float64) / 0.1) < 1e-6
    ridge.clear([0, 1, 2])
    new = form(6, 3, gamma=0.1)
    assert all(torch.equal(a, b) for a, b in zip(ridge.buffers(), new.buffers(), strict=True))


@forms
def test_the_order_of_requests_does_not_matter(form: Form) -> None:
    x, y = table()
    one, other = slice(3, 9), slice(20, 31)
    found = []
    for parts in ([one, other], [other, one]):
        ridge = fitted(form, x, y)
        for rows in parts:
            ridge.forget(x[rows], y[rows])
        found.append(ridge.weight.clone())
    both = torch.cat([torch.arange(3, 9), torch.arange(20, 31)])
    ridge = fitted(form, x, y)
    ridge.forget(x[both], y[both])
    assert gap(found[0], found[1]) < 1e-8 and gap(found[0], ridge.weight) < 1e-8
    ridge.learn(x[both], y[both])
    assert gap(ridge.weight, solved(x, y, 0.1)) < 1e-8


@forms
def test_rows_that_were_never_put_in_are_refused(form: Form) -> None:
    """1 - 25 / 15 < 0: what is left would be no sum of squares; nothing has changed after it."""
    ridge = fitted(form, column(1, 2, 3), column(1, 2, 2), gamma=1, classes=1)
    before = copy.deepcopy(ridge.state_dict())
    with pytest.raises(DataError, match="never put in"):
        ridge.forget(column(5), column(1))
    with pytest.raises(DataError, match="never put in"):
        ridge.forget(column(0, 0, 0, 0), column(0, 0, 0, 0))
    assert all(torch.equal(v, before[k]) for k, v in ridge.state_dict().items())


def alone(eigenvalue: float) -> float:
    """The one row that has it, 1 - x R x = gamma / (x^2 + gamma), at gamma = 0.1."""
    return (0.1 / eigenvalue - 0.1) ** 0.5


@pytest.mark.parametrize(
    ("rows", "gamma", "gone", "eigenvalue", "said"),
    [
        ((1, 2, 3), 1.0, 3, 0.4, None),
        ((1, 2, 3), 1.0, 5, -2 / 3, "never put in"),
        ((alone(2e-6),), 0.1, alone(2e-6), 2e-6, None),
        ((alone(5e-7),), 0.1, alone(5e-7), 5e-7, "lose too many digits"),
    ],
    ids=["large", "negative", "small", "too small"],
)
def test_an_inverse_answers_where_no_eigenvalue_is_below_a_millionth(
    monkeypatch: pytest.MonkeyPatch,
    rows: tuple[float, ...],
    gamma: float,
    gone: float,
    eigenvalue: float,
    said: str | None,
) -> None:
    ridge = fitted(RidgeInverse, column(*rows), column(*rows), gamma=gamma, classes=1)
    found, plain = [], torch.linalg.eigvalsh

    def spy(core: Tensor) -> Tensor:
        found.append(plain(core))
        return found[-1]

    monkeypatch.setattr(torch.linalg, "eigvalsh", spy)
    with pytest.raises(DataError, match=said) if said else nullcontext():
        ridge.forget(column(gone), column(gone))
    assert [float(e) for e in found] == [pytest.approx(eigenvalue, abs=1e-9)]
    assert int(ridge.num) == len(rows) - (said is None)


def test_moments_of_ranks_add_up_and_a_padded_row_does_not_belong() -> None:
    x, y = table(41)
    halves = [fitted(RidgeMoments, x[r::2], y[r::2]) for r in (0, 1)]
    summed = RidgeMoments(6, 3, gamma=0.1)
    summed.load_state_dict(
        {k: v + halves[1].state_dict()[k] for k, v in halves[0].state_dict().items()}
    )
    assert gap(summed.weight, fitted(RidgeMoments, x, y).weight) < 1e-10
    summed.learn(x[:1], y[:1])
    assert gap(summed.weight, solved(x, y, 0.1)) > 1e-4


def lonely(g: torch.Generator) -> Rows:
    """30 rows of 6 features; the last 5 have all there is of the sixth, and it is large."""
    x = torch.randn(30, 6, dtype=torch.float64, generator=g)
    x[:25, 5], x[25:, 5] = 0.0, 100 * x[25:, 5]
    return x, torch.arange(30) % 3


def test_an_inverse_loses_digits_where_moments_do_not() -> None:
    """Forgotten rows with all of one direction: the smaller gamma, the fewer digits are left."""
    x, y = lonely(torch.Generator().manual_seed(1))
    errors = {}
    for gamma in (1.0, 0.1):
        wanted = solved(x[:25], y[:25], gamma)
        for form in FORMS:
            ridge = fitted(form, x, y, gamma=gamma)
            ridge.forget(x[25:], y[25:])
            errors[form, gamma] = gap(ridge.weight, wanted)
    assert all(errors[RidgeMoments, gamma] < 1e-10 for gamma in (1.0, 0.1))
    assert errors[RidgeInverse, 0.1] > 10 * errors[RidgeInverse, 1.0]
    assert errors[RidgeInverse, 0.1] > 10 * errors[RidgeMoments, 0.1]


def test_an_inverse_refuses_what_it_has_no_digits_for() -> None:
    """Rounding has by then hidden an eigenvalue of 3.5e-11: no fixed bound would show it."""
    x, y = lonely(torch.Generator().manual_seed(1))
    ridge = fitted(RidgeInverse, x, y, gamma=1e-6)
    least = torch.linalg.eigvalsh(torch.eye(5) - x[25:] @ ridge.inverse @ x[25:].T)[0]
    assert abs(least) > 1e-8
    before = ridge.inverse.clone()
    with pytest.raises(DataError, match=r"lose too many digits.*keep moments"):
        ridge.forget(x[25:], y[25:])
    assert torch.equal(ridge.inverse, before) and int(ridge.num) == 30
    moments = fitted(RidgeMoments, x, y, gamma=1e-6)
    moments.forget(x[25:], y[25:])
    assert gap(moments.weight[:5], solved(x[:25, :5], y[:25], 1e-6)) < 1e-8


@forms
def test_many_cycles_drift_little(form: Form) -> None:
    x, y = table()
    ridge = fitted(form, x, y)
    for cycle in range(200):
        rows = torch.arange(10) + 10 * (cycle % 4)
        ridge.forget(x[rows], y[rows])
        ridge.learn(x[rows], y[rows])
    assert gap(ridge.weight, solved(x, y, 0.1)) < 1e-9


def test_more_rows_than_features_are_taken_in_blocks() -> None:
    x, y = table(300, d=4)
    ridge = fitted(RidgeInverse, x, y)
    assert gap(ridge.weight, fitted(RidgeMoments, x, y).weight) < 1e-10
    assert torch.equal(ridge.inverse, ridge.inverse.T)


@forms
def test_nothing_takes_digits_away(form: Form) -> None:
    """Neither another precision of the run nor a checkpoint; what is solved follows the state."""
    x, y = table()
    ridge = fitted(form, x, y)
    weight, state = ridge.weight.clone(), copy.deepcopy(ridge.state_dict())
    for cast in (ridge.float, ridge.half, ridge.double):
        cast()
        assert {b.dtype for b in ridge.buffers()} == {torch.float64, torch.int64}
        assert torch.equal(ridge.weight, weight)
    fresh = form(6, 3, gamma=0.1).float()
    assert not fresh.weight.any()
    fresh.load_state_dict(state)
    assert torch.equal(fresh.weight, weight)
    with torch.inference_mode():
        ridge.weight.sum()
    ridge.learn(x, y)
    assert not ridge.weight.is_inference() and not torch.equal(ridge.weight, weight)


@forms
def test_gamma_is_positive(form: Form) -> None:
    with pytest.raises(ConfigError, match="gamma: 0"):
        form(2, 2, gamma=0)
