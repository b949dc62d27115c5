"""Power-law rehearsal: every numeric example of its specification, and what it must leave alone."""

from __future__ import annotations

import dataclasses
import io
import logging
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from clframe.core.experience import Experience, Samples
from clframe.core.rng import clock
from clframe.errors import ConfigError
from tests.unit.strategies.methods import batch_of, build, experience

TABULATED = [57927, 33969, 20867, 13329, 8802, 5981, 4167, 2968, 2155, 1592]
TOTALS = [57927, 91896, 112763, 126092, 134894, 140875, 145042, 148010, 150165, 151757]
BUDGETED = ["reverse_power", "exponential", "uniform", "power", "shifted_power"]
LAWS = ["unrestricted", *BUDGETED, "all"]


def law(name: str, **constants: float) -> Any:
    """The law of that name, as the wrapper holds it."""
    return build("power_law+fine_tune", 2, law=name, **constants).law


def introduced(phase: int) -> list[int]:
    return list(range(phase, 0, -1))


# -- the schedule -------------------------------------------------------------------------------


def test_property_1_unrestricted_counts_and_phase_totals() -> None:
    found = [*law("unrestricted").counts(57927, introduced(9)), 57927][::-1]
    assert all(abs(n - table) <= 1 for n, table in zip(found, TABULATED, strict=True)), found
    for phase, total in enumerate(TOTALS):
        assert sum(TABULATED[: phase + 1]) == total
        ours = 57927 + sum(law("unrestricted").counts(57927, introduced(phase)))
        assert abs(ours - total) <= phase


def test_a_phase_never_has_more_than_so_many_sizes_of_the_new_one() -> None:
    """What unrestricted tends to, 2.72 N, against the upper bound's (i + 1) N."""
    totals = [1 + sum(law("unrestricted").rates(introduced(phase))) for phase in (9, 100, 1000)]
    assert totals == sorted(totals) and totals[0] == pytest.approx(151757 / 57927, abs=1e-4)
    assert totals[-1] == pytest.approx(2.72, abs=5e-4)
    assert 57927 + sum(law("unrestricted").counts(57927, introduced(1000))) < 2.7205 * 57927
    assert sum(law("all").rates(introduced(1000))) == 1000


def test_property_2_a_power_of_the_lag_and_an_exponential() -> None:
    assert math.log(TABULATED[0] / TABULATED[9]) / math.log(1.9) == pytest.approx(5.599, abs=1e-3)
    rates = [1.0, *law("unrestricted").rates(introduced(9))[::-1]]
    assert math.log(rates[9]) / -math.log(1.9) == pytest.approx(5.6)
    ratios = [b / a for a, b in pairwise(rates)]
    assert ratios == sorted(ratios)
    assert (ratios[0], ratios[8]) == (pytest.approx(0.586409, abs=1e-6), pytest.approx(0.738764))
    falling = law("exponential", amount=1.0).rates(introduced(9))[::-1]
    for a, b in pairwise(falling):
        assert b / a == pytest.approx(0.367879, abs=1e-6)


def test_property_3_budgets_cut_off_as_released() -> None:
    def counts(name: str) -> list[int]:
        found: list[int] = law(name, amount=0.5).counts(57927, introduced(3), "floor")
        return found

    assert math.floor(0.5 * 57927) == 28963
    assert counts("reverse_power") == [6382, 9344, 13235] and sum(counts("reverse_power")) == 28961
    assert counts("exponential") == [2607, 7088, 19267], "oldest first"
    assert counts("uniform") == [9654] * 3


def test_property_4_largest_remainder() -> None:
    def counts(name: str, lags: int) -> list[int]:
        found: list[int] = law(name, amount=1.0).counts(1000, introduced(lags))
        return found[::-1]

    assert counts("power", 3) == [545, 273, 182]
    assert counts("shifted_power", 3) == [498, 306, 196]
    assert counts("exponential", 3) == [665, 245, 90]
    assert counts("power", 5) == [438, 219, 146, 109, 88]


@pytest.mark.parametrize("name", BUDGETED)
@pytest.mark.parametrize("amount", [0.0, 0.1, 0.25, 0.29, 0.5, 0.75, 1.0])
def test_a_budget_is_met_exactly(name: str, amount: float) -> None:
    for size in (1, 7, 100, 600):
        for phase in range(1, 12):
            counts = law(name, amount=amount).counts(size, introduced(phase))
            assert sum(counts) == round(100 * amount) * size // 100 and min(counts) >= 0
            assert counts == sorted(counts), "the more recent, the more"


def test_the_later_of_two_equal_remainders_goes_first() -> None:
    assert law("uniform", amount=1.0).counts(8, introduced(3)) == [2, 3, 3]
    assert law("uniform", amount=1.0).counts(28963, introduced(3)) == [9654, 9654, 9655]


@pytest.mark.parametrize("name", LAWS)
def test_the_direction_of_the_lag(name: str) -> None:
    """The oldest is first and has least."""
    counts = law(name, amount=1.0).counts(600, introduced(6))
    assert len(counts) == 6 and counts == sorted(counts)
    assert (counts[0] == counts[-1]) == (name in ("uniform", "all"))
    if name == "all":
        assert counts == [600] * 6


# -- what is trained on -------------------------------------------------------------------------

SIZE = 40


def learned(number: int, size: int = SIZE) -> list[Experience]:
    """Experiences whose inputs and uids say where they come from: 1000 e + row."""
    made = []
    for e in range(number):
        uid = torch.arange(1000 * e, 1000 * e + size)
        rows = batch_of([[float(u), 0.0] for u in uid], [int(u) % 2 for u in uid], 1000 * e)
        made.append(experience(e, [0, 1], rows))
    return made


def withdrawn(exp: Experience, uids: Sequence[int] | None = None) -> Experience:
    """`exp` as it is after a request to forget it, or some of its samples."""
    gone = torch.tensor(exp.uids if uids is None else uids)
    keep = torch.nonzero(~torch.isin(exp.train.uid, gone)).flatten()
    return dataclasses.replace(exp, train=Samples(*exp.train.take(keep)))


def request(index: int, uids: Sequence[int]) -> Experience:
    none = Samples(*learned(1)[0].train.take(torch.empty(0, dtype=torch.long)))
    return Experience(index, "forget", (0,), (), none, none, 0, (), tuple(uids))


def live(strategy: Any, stream: Sequence[Experience], seed: int = 0) -> list[Samples | None]:
    """The data of each phase, with the hooks around it."""
    found = []
    for i, exp in enumerate(stream):
        clock.set(seed, i, "prepare")
        strategy.prepare(exp)
        found.append(strategy.data(exp, stream[:i]))
        strategy.begin(exp)
        clock.set(seed, 100 * i + 99, "end")
        strategy.end(exp)
    return found


def origins(samples: Samples | None, number: int) -> list[int]:
    """How many samples of each experience there are."""
    assert samples is not None
    assert torch.equal(samples.x[:, 0].long(), samples.uid), "rows belong together"
    return (samples.uid // 1000).bincount(minlength=number).tolist()


@pytest.mark.parametrize("name", LAWS)
def test_property_5_the_count_matrix_is_upper_triangular(name: str) -> None:
    strategy, stream = build("power_law+fine_tune", 2, law=name, amount=0.5), learned(6)
    first, *later = live(strategy, stream)
    assert first is None, "the first phase is the new experience alone"
    matrix = [[SIZE, 0, 0, 0, 0, 0], *(origins(data, 6) for data in later)]
    for i, column in enumerate(matrix):
        assert column[i] == SIZE and not any(column[i + 1 :])
        assert column[: i + 1] == strategy.planned[i]
        if name == "unrestricted":
            assert column[: i + 1] == matrix[5][5 - i :], "of i - j alone"
        elif name in BUDGETED and i:
            assert sum(column) == SIZE + SIZE // 2
    for data in later:
        assert data is not None and len(data.uid.unique()) == len(data), "without replacement"
        assert set(data.uid.tolist()) >= set(stream[data.uid.max() // 1000].uids)


def test_unequal_experiences() -> None:
    """N is the new one's size; all is all there is; what is short is said."""
    stream = [learned(3, size)[i] for i, size in enumerate((5, 30, 40))]
    strategy = build("power_law+fine_tune", 2, law="unrestricted")
    assert origins(live(strategy, stream)[2], 3) == [5, 23, 40]
    assert origins(live(build("power_law+fine_tune", 2, law="all"), stream)[2], 3) == [5, 30, 40]


GOLDEN = {  # uids of the rehearsed samples by phase, at seed 0
    1: [34, 37, 31, 14, 25, 23, 20, 8],
    2: [15, 13, 22, 1018, 1020, 1010, 1019, 1025],
}


def rehearsed(data: Samples | None, phase: int) -> list[int]:
    assert data is not None
    return data.uid[data.uid < 1000 * phase].tolist()


def test_property_6_index_lists_are_those_of_seed_and_phase() -> None:
    options = {"law": "power", "amount": 0.2}
    stream = learned(4)
    first = live(build("power_law+fine_tune", 2, **options), stream)
    again = build("power_law+fine_tune", 2, **options)
    again.planned = [[]] * 2  # nothing of the first two phases but the seed
    clock.set(7, 12345, "data")  # whatever the clock says
    torch.manual_seed(3)
    data = again.data(stream[2], stream[:2])
    assert first[2] is not None and data is not None
    assert torch.equal(first[2].uid, data.uid) and torch.equal(first[2].x, data.x)
    for phase, uids in GOLDEN.items():
        assert rehearsed(first[phase], phase) == uids
    fresh = [set(rehearsed(first[i], i)) for i in (1, 2, 3)]
    mine = [{u for u in uids if u < 1000} for uids in fresh]
    assert mine[1] and mine[2] and not mine[1] <= mine[0] and not mine[2] <= mine[1]


def test_another_seed_draws_others() -> None:
    stream, found = learned(2), []
    for seed in (0, 1, 0):
        strategy = build("power_law+fine_tune", 2, law="power", amount=0.2)
        clock.set(seed, 0, "build")
        strategy.attach(strategy.net, strategy.info)
        found.append(rehearsed(strategy.data(stream[1], stream[:1]), 1))
    assert found[0] == found[2] != found[1]


def test_without_a_budget_it_is_the_base() -> None:
    assert (
        live(build("power_law+fine_tune", 2, law="uniform", amount=0.0), learned(3)) == [None] * 3
    )


# -- last seen ----------------------------------------------------------------------------------


def test_rehearsal_resets_the_lag_where_it_was_last_seen() -> None:
    """A budget of 1: one experience is met at a time, and the others grow older."""
    options = {"law": "exponential", "amount": 1 / SIZE, "lag": "last_seen"}
    strategy = build("power_law+fine_tune", 2, **options)
    stream = learned(5)
    live(strategy, stream)
    assert [plan[:-1] for plan in strategy.planned] == [
        [],
        [1],
        [0, 1],
        [0, 0, 1],
        [0, 0, 0, 1],
    ]
    assert strategy._lags(5) == [4, 3, 2, 1, 1]
    plain = build("power_law+fine_tune", 2, law="unrestricted", lag="last_seen")
    live(plain, stream)
    assert plain._lags(5) == [1] * 5, "whoever is never left out is never old"
    assert plain.planned[4] == [23, 23, 23, 23, 40]


def test_lags_survive_a_checkpoint() -> None:
    """A budget of 3, of which by their age the second would have none and the latest two."""
    options = {"law": "exponential", "amount": 3 / SIZE, "lag": "last_seen", "stored": 9}
    stream, file = learned(5), io.BytesIO()
    half, again = (build("power_law+fine_tune", 2, **options) for _ in range(2))
    live(half, stream[:4])
    torch.save(half.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again.planned == half.planned == [[40], [3, 40], [1, 2, 40], [1, 1, 1, 40]]
    assert again._lags(4) == [1, 1, 1, 1]
    assert len(again.archive) == 4 * 9
    expected, found = (s.data(stream[4], stream[:4]) for s in (half, again))
    assert origins(found, 5) == [0, 1, 1, 1, 40] and torch.equal(expected.uid, found.uid)


# -- forgetting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAWS)
def test_forgetting_keeps_the_other_counts_and_samples(name: str) -> None:
    stream = learned(4)
    plain, less = (build("power_law+fine_tune", 2, law=name) for _ in range(2))
    whole = plain.data(stream[3], stream[:3])
    data = less.data(stream[3], [stream[0], withdrawn(stream[1]), stream[2]])
    expected = origins(whole, 4)
    assert expected[1] > 0
    assert origins(data, 4) == [expected[0], 0, *expected[2:]]
    assert data.uid.tolist() == [u for u in whole.uid.tolist() if u not in stream[1].uids]
    every = [withdrawn(e) for e in stream[:3]]
    assert less.data(stream[3], every) is None, "nothing is left to rehearse"


def test_a_request_asks_the_base_alone() -> None:
    strategy, stream = build("power_law+fine_tune", 2), learned(2)
    live(strategy, stream)
    assert strategy.data(request(2, [0]), stream) is None
    given = stream[0].train
    strategy.base.data = lambda exp, past: given
    assert strategy.data(request(2, [0]), stream) is given


# -- a bounded store ----------------------------------------------------------------------------


def test_the_archive_bounds_what_is_rehearsed(caplog: pytest.LogCaptureFixture) -> None:
    strategy, stream = build("power_law+fine_tune", 2, stored=8), learned(4)
    with caplog.at_level(logging.WARNING):
        data = live(strategy, stream)
    assert origins(data[3], 4) == [8, 8, 8, 40]
    assert "experience 3 rehearses experience 0 with 8 samples, short of 9" in caplog.text
    assert strategy.planned[3] == [9, 14, 23, 40], "the plan is what the law says"
    assert len(strategy.archive) == 4 * 8
    kept = strategy.archive.column("uid").view(4, 8)
    assert torch.equal(kept // 1000, torch.arange(4)[:, None].expand(4, 8))
    assert set(rehearsed(data[3], 3)) == set(kept[:3].flatten().tolist())


def test_more_than_is_stored_with_replacement(caplog: pytest.LogCaptureFixture) -> None:
    strategy, stream = build("power_law+fine_tune", 2, stored=8, oversample=True), learned(4)
    data = live(strategy, stream)
    assert origins(data[3], 4) == [9, 14, 23, 40] and not caplog.records
    assert set(rehearsed(data[3], 3)) <= set(strategy.archive.column("uid").tolist())
    assert len(set(rehearsed(data[3], 3))) <= 24


def test_all_of_a_store_is_the_store() -> None:
    data = live(build("power_law+fine_tune", 2, law="all", stored=8), learned(3))
    assert origins(data[2], 3) == [8, 8, 40]


def test_the_archive_and_the_base_forget() -> None:
    strategy, stream = build("power_law+replay", 2, stored=8), learned(3)
    for exp in stream[:2]:
        strategy.data(exp, stream[: exp.index])
        strategy.after_batch(exp.train.take(torch.arange(SIZE)))
        strategy.end(exp)
    assert len(strategy.archive) == 16 and len(strategy.base.memory) == 2 * SIZE
    strategy.forget(request(2, stream[0].uids))
    assert len(strategy.archive) == 8 and len(strategy.base.memory) == SIZE
    assert (strategy.archive.column("uid") >= 1000).all()
    data = strategy.data(stream[2], [withdrawn(stream[0]), stream[1]])
    assert origins(data, 3) == [0, 8, 40]
    strategy.forget(request(2, stream[1].uids))
    assert strategy.data(stream[2], [withdrawn(e) for e in stream[:2]]) is None


# -- a weighted memory --------------------------------------------------------------------------


def filled(*stream: Experience, **options: Any) -> Any:
    """A weighted replay memory with every sample of `stream` but the last one's."""
    base = {"capacity": 1000}
    strategy = build("power_law+replay", 2, over="memory", base=base, **options)
    for exp in stream[:-1]:
        strategy.after_batch(exp.train.take(torch.arange(len(exp.train))))
    assert strategy.data(stream[-1], stream[:-1]) is None, "the data is left alone"
    return strategy


def weights(strategy: Any) -> Tensor:
    found: Tensor = strategy.base.memory.weigh(strategy.base.memory)
    return found


def test_rows_of_a_memory_weigh_what_the_law_says() -> None:
    stream = learned(4)
    found = weights(filled(*stream)).view(3, SIZE)
    wanted = torch.tensor([1.3**-5.6, 1.2**-5.6, 1.1**-5.6], dtype=torch.double)
    torch.testing.assert_close(found, wanted[:, None].expand(3, SIZE))
    found = weights(filled(*stream, law="power", amount=0.5)).view(3, SIZE)[:, 0]
    torch.testing.assert_close(found, 0.5 * torch.tensor([2, 3, 6], dtype=torch.double) / 11)
    strategy = filled(*stream)
    strategy.after_batch(stream[3].train.take(torch.arange(3)))
    assert weights(strategy)[-3:].tolist() == [1, 1, 1], "the newest counts 1"


def test_draws_follow_the_weights() -> None:
    strategy, seen = filled(*learned(4), law="exponential"), torch.zeros(3)
    for number in range(400):
        clock.set(0, number)
        seen += (strategy.base.memory.sample(1)["uid"] // 1000).bincount(minlength=3)
    wanted = torch.tensor([-2.0, -1, 0]).softmax(0)
    assert ((seen / 400 - wanted).abs() < 3.5 * (wanted * (1 - wanted) / 400).sqrt()).all(), seen


def test_rows_without_weight_are_drawn_where_there_are_no_others() -> None:
    strategy = filled(*learned(3), law="uniform", amount=0.0)
    assert len(strategy.base.memory.sample(80)["uid"]) == 80


def test_a_sample_of_two_experiences_is_of_the_later() -> None:
    first, _, third = learned(3)
    both = dataclasses.replace(learned(2)[1], train=first.train, uids=first.uids)
    strategy = filled(first, both, third)
    torch.testing.assert_close(weights(strategy), torch.full((80,), 1.1**-5.6).double())


def test_weights_need_no_checkpoint() -> None:
    """They are those of `data`, which is asked on resume too, and end with the experience."""
    stream = learned(4)
    strategy = filled(*stream)
    again = build("power_law+replay", 2, over="memory", base={"capacity": 1000})
    again.load_state_dict(strategy.state_dict())
    again.data(stream[3], stream[:3])
    assert torch.equal(weights(strategy), weights(again))
    strategy.end(stream[3])
    assert (weights(strategy) == 1).all()
    strategy.data(request(4, [0]), [withdrawn(stream[0], [0]), *stream[1:]])  # with a budget
    strategy.forget(request(4, [0]))
    assert weights(strategy)[[0, 40]].tolist() == [
        pytest.approx(1.3**-5.6),
        pytest.approx(1.2**-5.6),
    ]
    strategy.forget(request(5, [1]))  # without one
    assert (weights(strategy) == 1).all()


def test_weights_multiply_with_those_of_the_base() -> None:
    strategy = build("power_law+replay", 2, over="memory")
    memory, stream = strategy.base.memory, learned(2)
    memory.weigh = lambda buffer: torch.arange(1.0, 1 + len(buffer))
    strategy.attach(strategy.net, strategy.info)
    strategy.after_batch(stream[0].train.take(torch.arange(SIZE)))
    strategy.data(stream[1], stream[:1])
    wanted = 1.1**-5.6 * torch.arange(1.0, 41).double()
    torch.testing.assert_close(weights(strategy), wanted)


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "others"),
    [
        ("law", "powerlaw", {}),
        ("rounding", "round", {}),
        ("lag", "seen", {}),
        ("over", "buffer", {}),
        ("amount", 1.5, {}),
        ("amount", float("nan"), {}),
        ("b", -1.0, {}),
        ("d", 101.0, {}),
        ("beta", 0.0, {}),
        ("stored", 0, {}),
        ("stored", 5, {"over": "memory"}),
        ("lag", "last_seen", {"over": "memory"}),
    ],
)
def test_options_are_checked(option: str, value: Any, others: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{option}: .*{value}.*; (choose from|give|leave)") as e:
        build("power_law+replay", 2, **{option: value}, **others)
    if isinstance(value, str) and not others:
        assert len(str(e.value).split("choose from ")[1].split(", ")) >= 2


def test_a_base_without_memory_has_nothing_to_weigh() -> None:
    with pytest.raises(ConfigError, match=r"^over: 'memory' needs a replay memory.*FineTune"):
        build("power_law+fine_tune", 2, over="memory")


def test_a_base_that_chooses_its_data_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = r"^over: 'data' cannot add to what \w+ has chosen to train on; wrap"
    with pytest.raises(ConfigError, match=refusal):
        build("power_law+joint", 2)
    strategy, stream = build("power_law+fine_tune", 2), learned(2)
    monkeypatch.setattr(strategy.base, "data", lambda exp, past: exp.train)
    with pytest.raises(ConfigError, match=refusal):
        strategy.data(stream[1], stream[:1])
