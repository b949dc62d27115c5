"""The spec's numbers for attacks, models that memorise and models that do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import roc_auc_score

from clframe.audit import attacks
from clframe.audit.attacks import Attack, Outputs, Sets
from clframe.errors import ClframeError

CLASSES = 5


def outputs(seed: int, sure: float, n: int = 300) -> Outputs:
    """Noisy logits, the label's raised by `sure`; two tasks."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, n)
    logits = rng.normal(size=(n, CLASSES))
    logits[np.arange(n), y] += sure
    p = np.exp(logits)
    return Outputs(p / p.sum(1, keepdims=True), y, np.arange(n) % 2)


def sets(forget: float, seed: int = 0, train: float = 6.0) -> Sets:
    """A model surer of what it trained on, and so sure of the data that it should forget."""
    sure = (train, 1.0, forget, 1.0)
    return Sets(*(outputs(4 * seed + i, s) for i, s in enumerate(sure)))


def test_example_6_of_the_spec() -> None:
    assert attacks.balanced(0.62, 0.55).score == pytest.approx(0.585)
    members, others = [1.0, 2.0], [0.0, 3.0, 4.0, 5.0, 1.5]
    assert attacks.auc(members, others) == pytest.approx(0.3)
    assert attacks.folded(attacks.auc(members, others)).score == pytest.approx(0.7)
    assert attacks.folded(attacks.auc(others, members)).score == pytest.approx(0.7)


def test_auc_is_that_of_the_textbook() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 40), rng.integers(2, 12, 70)
    expected = roc_auc_score([1] * 40 + [0] * 70, [*a, *b])
    assert attacks.auc(a, b) == pytest.approx(expected)


def test_every_attack_succeeds_on_a_model_that_memorises() -> None:
    found = attacks.run_attacks(sets(forget=6.0), seed=0)
    assert set(found) == {
        "svc_correctness",
        "svc_confidence",
        "svc_entropy",
        "svc_probabilities",
        "entropy",
        "loss",
    }
    for name, attack in found.items():
        assert attacks.informative(attack), name
        assert attack.score is not None and attack.score > 0.7, name


def test_no_attack_succeeds_where_forgotten_data_looks_unseen() -> None:
    found = attacks.run_attacks(sets(forget=1.0), seed=0)
    for name, attack in found.items():
        assert attack.signal is not None and abs(attack.signal) < 0.08, name
    assert found["entropy"].score == pytest.approx(found["entropy"].detail["test"], abs=0.08)


def test_example_5_of_the_spec_equal_models_have_equal_scores() -> None:
    one, two = (attacks.run_attacks(sets(forget=3.0), seed=7) for _ in range(2))
    assert one == two
    other = attacks.run_attacks(sets(forget=3.0, seed=1), seed=7)
    assert one != other


def test_the_samples_of_an_attack_depend_on_seed_and_task_alone() -> None:
    train, test = np.arange(40) % 4, np.arange(20) % 4
    rows = attacks._draw(train, test, 3, seed=5)
    assert [np.bincount(t[r]).tolist() for t, r in zip((train, test), rows, strict=True)] == [
        [3] * 4
    ] * 2
    fewer = attacks._draw(np.where(train == 0, 9, train), test, 3, seed=5)
    assert fewer[0].tolist() == rows[0][3:].tolist(), "without task 0 the others stay"
    assert attacks._draw(train, test, 3, seed=6)[0].tolist() != rows[0].tolist()
    many = attacks._draw(train, test, 500, seed=5)
    assert len(many[0]) == len(many[1]) == 20, "as many members as others"


def test_the_entropy_attack_does_not_mind_how_many_were_retained() -> None:
    given = sets(forget=1.0, train=1.5)
    many = given._replace(retain_train=outputs(9, 1.5, n=6000))
    shares = [attacks.entropy_attack(s).score for s in (given, many)]
    assert shares == pytest.approx([0.45, 0.45], abs=0.12), "without balance all are members"


def test_collapsed_outputs_tell_nothing() -> None:
    same = np.tile([0.3, 0.3, 0.2, 0.1, 0.1], (40, 1))
    y = np.arange(40) % CLASSES
    found = attacks.run_attacks(Sets(*[Outputs(same, y)] * 4), seed=0)
    for name, attack in found.items():
        assert (attack.score, attack.signal) == pytest.approx((0.5, 0)), name


def test_an_attack_must_succeed_on_the_model_before() -> None:
    def model(score: float, share: float) -> dict[str, Attack]:
        return {
            "loss": attacks.folded(score),
            "entropy": Attack(share, share - 0.6, {}),
            "svc_entropy": attacks.balanced(score, score),
        }

    table = attacks.verdicts({"before": model(0.54, 0.64), "unlearned": model(0.5, 0.1)})
    assert {row["note"] for row in table.values()} == {"attack uninformative"}
    table = attacks.verdicts({"before": model(0.55, 0.65), "unlearned": model(0.5, 0.1)})
    assert {row["note"] for row in table.values()} == {""}
    assert table["entropy"] == {
        "before": 0.65,
        "unlearned": 0.1,
        "signal": pytest.approx(0.05),
        "note": "",
    }
    assert not attacks.informative(attacks.balanced(0.3, 0.3)), "wrong most often is no success"


def shadows(
    shift: float, num: int = 17, n: int = 200, seed: int = 0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    hard = rng.normal(scale=3, size=n)  # examples differ more than models do
    return hard + shift + rng.normal(size=(num, n)), hard + rng.normal(size=(num, n))


def test_lira_tells_what_one_threshold_cannot() -> None:
    unlearned, retrained = shadows(4.0)
    found = attacks.lira(unlearned, retrained)
    assert found.score == pytest.approx(0.977, abs=0.01), "two unit Gaussians, 4 apart"
    assert found.detail["tpr_at_1_percent_fpr"] > 0.9 and found.note == ""
    pooled = attacks.folded(attacks.auc(unlearned.ravel(), retrained.ravel())).score
    assert pooled is not None and found.score is not None and pooled < found.score - 0.1
    audited = attacks.lira(unlearned[2:], retrained[2:], (unlearned[0], retrained[0]))
    assert audited.score is None, "15 pairs"
    audited = attacks.lira(*shadows(4.0), (unlearned[0], retrained[0]))
    assert audited.score == pytest.approx(0.977, abs=0.03)


def test_lira_finds_nothing_where_there_is_nothing() -> None:
    found = attacks.lira(*shadows(0.0))
    assert found.score == pytest.approx(0.5, abs=0.02)
    assert found.detail["tpr_at_1_percent_fpr"] == pytest.approx(0.01, abs=0.01)
    same, _ = shadows(0.0)
    assert attacks.lira(same, same).score == 0.5
    assert attacks.lira(*shadows(4.0), (same[0], same[0])).score == 0.5
    constant = np.zeros((17, 3))
    assert attacks.lira(constant, constant).score == 0.5


def test_lira_sees_that_unlearned_models_agree_more_than_retrained_ones() -> None:
    rng = np.random.default_rng(0)
    narrow, wide = rng.normal(size=(64, 200)), 3 * rng.normal(size=(64, 200))
    found = attacks.lira(narrow, wide)
    assert found.score == pytest.approx(0.742, abs=0.01), "the best there is, at |x| = 1.57"


def test_lira_needs_16_pairs_or_says_so() -> None:
    few = shadows(4.0, num=4)
    assert attacks.lira(*few) == (None, None, {"num_pairs": 4}, "needs 17 shadow pairs")
    assert not attacks.informative(attacks.lira(*few))
    labelled = attacks.lira(*few, allow_fewer=True)
    assert labelled.score is not None and labelled.score > 0.8
    assert labelled.note == "only 4 pairs, needs 17 shadow pairs: not for a headline claim"


def test_tpr_counts_no_more_false_positives_than_1_percent() -> None:
    negative = np.arange(200.0)
    assert attacks._tpr(np.array([197.0, 197.5, 198.5, 500.0]), negative) == 0.75
    assert attacks._tpr(np.array([197.0, 198.5, 199.5]), negative[:199]) == pytest.approx(2 / 3)
    assert attacks._tpr(np.zeros(4), np.zeros(4)) == 0


def test_logit_confidence() -> None:
    found = attacks.logit_confidence([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1]], [0, 1])
    assert found == pytest.approx([np.log(4), np.log(1 / 9)])
    ends = attacks.logit_confidence([[1.0, 0.0]] * 2, [0, 1])
    assert ends[0] == -ends[1] and 27 < ends[0] < 28


ONE = outputs(0, 1.0, n=20)
REFUSED: dict[str, tuple[Any, str]] = {
    "labels": (lambda: attacks.loss_attack(ONE, Outputs(ONE.p, ONE.y + 1)), "from 0 to 4"),
    "length": (lambda: attacks.loss_attack(ONE, Outputs(ONE.p, ONE.y[:3])), r"shape \(3,\)"),
    "logits": (lambda: attacks.loss_attack(ONE, Outputs(ONE.p * 9, ONE.y)), "give no logits"),
    "no task": (
        lambda: attacks.svc_attack(Sets(ONE, ONE._replace(task=ONE.task + 5), ONE, ONE), seed=0),
        "no task has both",
    ),
    "pairs": (lambda: attacks.lira(np.zeros((16, 3)), np.zeros((15, 3))), "come in pairs"),
    "two": (lambda: attacks.lira(*shadows(1, num=2), allow_fewer=True), "2 shadow pairs"),
    "audited": (lambda: attacks.lira(*shadows(1), ([1.0], [1.0])), "200 examples"),
    "infinite": (lambda: attacks.lira([[np.inf]], [[0.0]]), "finite"),
    "before": (lambda: attacks.verdicts({"unlearned": {}}), "'before'.*given: unlearned"),
}


@pytest.mark.parametrize("call,message", REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ClframeError, match=message):
        call()
