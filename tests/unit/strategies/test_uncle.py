"""UnCLe: learning and forgetting by generated weights, without data and without a trace."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clframe.core.backbones import cnn, slim_resnet18
from clframe.core.experience import Batch, Experience, Samples, Setting
from clframe.core.net import CLOSED, Net, evaluating
from clframe.core.rng import clock
from clframe.core.strategy import StreamInfo
from clframe.engine.run import run_cell
from clframe.errors import ConfigError
from clframe.strategies import uncle as plugin
from tests.conftest import MakeCell
from tests.contract.harness import Loop, stream_for, with_request
from tests.unit.strategies.methods import make

SMALL: dict[str, Any] = {"widths": (16, 32), "chunks": 8}


class Untouchable:
    """Counts whoever looks at it."""

    looks = 0

    def __getattr__(self, name: str) -> Any:
        type(self).looks += 1
        raise AssertionError(f"data was asked for: {name}")


def clouds(task: int, num: int, seed: int, kind: type = Tensor) -> Samples:
    """Four classes in the corners of a square, which every task turns and numbers in its way."""
    y = torch.arange(4).repeat_interleave(num)
    corner = torch.tensor([[0, 1, 2, 3], [2, 0, 3, 1], [1, 3, 0, 2], [3, 2, 1, 0]])[task][y]
    angle = corner * math.pi / 2 + 0.4 * task
    g = torch.Generator().manual_seed(100 * seed + task)
    x = 3 * torch.stack([angle.cos(), angle.sin()], 1) + 0.3 * torch.randn(len(y), 2, generator=g)
    return Samples(x, y + 4 * task, torch.full_like(y, task), torch.arange(len(y)))


def pictures(task: int, num: int, seed: int) -> Samples:
    """Images whose brightness and stripes say which of three classes they are."""
    y = torch.arange(3).repeat_interleave(num)
    g = torch.Generator().manual_seed(100 * seed + task)
    x = torch.randn(len(y), 3, 8, 8, generator=g) * 0.3 + task
    x[torch.arange(len(y)), y] += 2.0
    return Samples(x, y + 3 * task, torch.full_like(y, task), torch.arange(len(y)))


def mlp_net(num_classes: int) -> Net:
    torch.manual_seed(0)
    return Net(nn.Sequential(nn.Flatten(), nn.Linear(2, 16), nn.ReLU()), 16, num_classes)


def norm_net(num_classes: int) -> Net:
    backbone, width = slim_resnet18((3, 8, 8), width=2)
    return Net(backbone, width, num_classes)


class Story:
    """Requests such as "L0 L1 U0", each of so many steps on all of a task's data."""

    def __init__(
        self,
        requests: str,
        *,
        data: Any = clouds,
        net: Any = mlp_net,
        steps: int = 100,
        num_classes: int = 16,
        seed: int = 0,
        **options: Any,
    ) -> None:
        clock.set(seed, 0, "build")
        self.data, self.steps, self.seed = data, steps, seed
        self.uncle = make("uncle", **SMALL | options)
        shape = tuple(data(0, 1, 1).x.shape[1:])
        self.uncle.attach(net(num_classes), StreamInfo(num_classes, 9, "task", shape))
        self.uncle.double().train()
        self.stream: list[Experience] = []
        for word in requests.split():
            self.stream.append(self.experience(word))
            self.uncle.budget(self.stream[-1])
        self.at = self.local = self.iteration = 0
        self.optimizer: Any = None
        self.terms: list[dict[str, float]] = []

    def experience(self, word: str) -> Experience:
        task, index = int(word[1:]), len(self.stream)
        if word[0] == "L":
            train = self.data(task, 12, 1)
            classes = tuple(train.y.unique().tolist())
            return Experience(index, "learn", (task,), classes, train, train, task)
        (at,) = [e.index for e in self.stream if e.kind == "learn" and e.tasks == (task,)][-1:]
        none: Any = Untouchable()
        return Experience(index, "forget", (task,), (), none, none, task, (at,))

    def run(self, requests: int = 99, stop: int | None = None) -> Story:
        """As far as that many requests, or as `stop` steps in all."""
        while self.at < min(requests, len(self.stream)):
            exp = self.stream[self.at]
            if self.optimizer is None:
                self.enter(exp)
            learns, budget = exp.kind == "learn", self.uncle.budget(exp)
            while self.local < (self.steps if learns else budget or 0):
                if self.iteration == stop:
                    return self
                self.step(exp)
            if learns:
                self.uncle.end(exp)
            self.at, self.local, self.optimizer = self.at + 1, 0, None
        return self

    def enter(self, exp: Experience) -> None:
        if exp.kind == "learn":
            clock.set(self.seed, exp.origin, "prepare")
            self.uncle.prepare(exp)
        self.optimizer = self.uncle.optimizer(exp)
        clock.set(self.seed, self.iteration, "begin")
        (self.uncle.begin if exp.kind == "learn" else self.uncle.forget)(exp)

    def step(self, exp: Experience) -> None:
        self.iteration += 1
        self.local += 1
        clock.set(self.seed, self.iteration)
        learns = exp.kind == "learn"
        if learns:
            batch = exp.train.take(torch.arange(len(exp.train)))
            terms = self.uncle.loss(batch._replace(x=batch.x.double()))
        else:
            nothing: Any = Untouchable()
            terms = self.uncle.forget_loss(exp, nothing)
        self.terms.append({name: term.item() for name, term in terms.items()})
        self.optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        self.uncle.after_backward()
        self.optimizer.step()

    def accuracy(self, *tasks: int) -> list[float]:
        out = []
        for task in tasks:
            test = self.data(task, 50, 9)
            out.append((self.logits(test).argmax(1) == test.y).double().mean().item())
        return out

    def logits(self, test: Samples) -> Tensor:
        with evaluating(self.uncle), torch.no_grad():
            found: Tensor = self.uncle.predict(test.x.double(), test.task)
        return found

    def norm(self, task: int) -> float:
        return float(self.uncle.weights([task])[0].detach().norm())

    def code(self, task: int) -> Tensor:
        found: Tensor = self.uncle.weights.codes[str(task)]
        return found.detach().clone()


def test_burn_in() -> None:
    wanted = [100, 90, 81, 72, 65, 59, 53, 47, 43, 38, 34, 31, 28, 25, 22, 20, 20]
    assert [plugin.burn_in(100, u, "floor") for u in range(17)] == wanted
    wanted = [100, 90, 81, 72, 64, 57, 51, 45, 40, 36, 32, 28, 25, 22, 19, 17]
    assert [plugin.burn_in(100, u, "code") for u in range(16)] == wanted


def test_budgets_are_known_in_advance_and_stay() -> None:
    story = Story("L0 L1 U0 L2 U1 U2", steps=1)
    first = [story.uncle.budget(e) for e in story.stream]
    assert first == [None, None, 100, None, 90, 81]
    story.run()
    assert [story.uncle.budget(e) for e in story.stream] == first
    again = Story("L0 L1 U0 L2 U1 U2", burn_in_start=50, burn_in="code").uncle
    assert again.budget(story.stream[5]) == int(0.9 * int(0.9 * 50))


def test_smoke() -> None:
    """2-16-4 net, four tasks of four clouds; trunk 64-16-32, 8 chunks, beta = gamma = 0.1.

    100 steps of the whole task (48 points), rates 1e-3, float64, seed 0.
    """
    story = Story("L0 L1 L2 U1 L3", gamma=0.1).run(3)
    assert story.accuracy(0, 1, 2) == [1, 1, 1]
    learned = story.norm(1)
    assert learned > 10
    story.run(4)
    collapsed = story.norm(1)
    assert story.accuracy(1)[0] == pytest.approx(0.25, abs=0.03)
    assert min(story.accuracy(0, 2)) >= 0.99 and collapsed < 1.6
    story.run()
    assert min(story.accuracy(0, 2, 3)) >= 0.99 and story.norm(1) < 1.1 * collapsed
    assert story.accuracy(1)[0] == pytest.approx(0.25, abs=0.03)
    bare = Story("L0 L1 L2 U1 L3", gamma=0.1, protect_forgotten=False).run(4)
    assert bare.norm(1) == collapsed
    assert bare.run().norm(1) > 1.3 * collapsed
    gentle = Story("L0 L1 L2 U1", gamma=0.01).run()
    assert 1.2 * collapsed < gentle.norm(1) < learned / 2


def test_forgetting_touches_no_data_and_no_code() -> None:
    story = Story("L0 L1 L2 U1", steps=5).run(3)
    before = {t: story.code(t) for t in range(3)}
    chunks = story.uncle.weights.net.chunks.clone()
    story.run()
    assert Untouchable.looks == 0
    assert all(torch.equal(story.code(t), before[t]) for t in range(3))
    assert torch.equal(story.uncle.weights.net.chunks, chunks)
    assert story.uncle.status == {0: "held", 1: "forgotten", 2: "held"}


def test_a_request_reads_nothing_even_where_it_is_handed_its_data(make_cell: MakeCell) -> None:
    small = "options.uncle={widths: [8, 8], chunks: 4, burn_in_start: 20}"
    store = make_cell("strategy=uncle", small, "requests=L0 L1 U0", "forget_data=true")
    assert run_cell(store.folder) == 0
    record = store.read_record()
    asked = record.spent[2]
    assert (asked["updates"], asked["samples"], asked["past_samples"]) == (20, 0, 0)
    assert record.cost["past_samples"] == 0


def test_chunk_codes_learn_with_the_first_task_alone() -> None:
    story = Story("L0 L1", steps=3)
    clock.set(0, 0, "prepare")
    story.uncle.prepare(story.stream[0])
    drawn = story.uncle.weights.net.chunks.clone()
    story.run(1)
    after = story.uncle.weights.net.chunks.clone()
    code = story.code(0)
    assert not torch.equal(drawn, after)
    story.run()
    assert torch.equal(story.uncle.weights.net.chunks, after) and torch.equal(story.code(0), code)


def test_codes_and_generator_do_not_depend_on_what_came_first() -> None:
    one, two = Story("L0 L1", steps=0).run(), Story("L1 L0", steps=0).run()
    assert torch.equal(one.code(1), two.code(1)) and one.norm(0) == two.norm(0)
    assert not torch.equal(one.code(0), one.code(1))


def test_the_first_step_preserves_for_free() -> None:
    story = Story("L0 L1 U0", steps=2).run(1)
    for _ in range(2):
        story.run(stop=story.iteration + 1)
        assert story.terms[-1]["preserve"] == 0
        story.run(story.at + 1)
        assert story.terms[-1]["preserve"] > 0


def test_forgetting_the_only_task() -> None:
    story = Story("L0 U0", steps=30).run()
    assert all(set(terms) == {"noise"} for terms in story.terms[30:])
    assert story.norm(0) < 2 and story.accuracy(0)[0] <= 0.5


def test_of_ten_classes_a_network_of_zeros_knows_one() -> None:
    """All logits are alike, and the first class of the row's own task wins: 10.00 %."""

    def tens(task: int, num: int, seed: int) -> Samples:
        y, g = torch.arange(10).repeat_interleave(num), torch.Generator().manual_seed(seed)
        x = torch.randn(len(y), 2, generator=g)
        return Samples(x, y + 10 * task, torch.full_like(y, task), torch.arange(len(y)))

    story = Story("L0 L1", data=tens, num_classes=20, steps=1).run()
    with torch.no_grad():
        for p in story.uncle.weights.net.parameters():
            p.zero_()
    assert story.norm(1) == 0 and story.accuracy(0, 1) == [0.1, 0.1]


def test_who_is_protected() -> None:
    story = Story("L0 L1 U0 L2", steps=1).run(2)
    assert story.uncle._protected([1]) == [0]
    story.run()
    assert story.uncle._protected([2]) == [0, 1]
    story.uncle.protect_forgotten = False
    assert story.uncle._protected([2]) == [1]


@pytest.mark.parametrize(("at", "ratio"), [(1, 4), (2, 1)], ids=["learning", "forgetting"])
def test_total_tasks(at: int, ratio: int) -> None:
    """The same change counts 1/4 instead of 1/1 while learning, and as before while forgetting."""
    found = []
    for norm in ("protected", "total_tasks"):
        story = Story("L0 L1 U1 L2 L3", steps=1, reg_norm=norm).run(at)  # alike: it is free
        story.enter(story.stream[at])
        with torch.no_grad():
            for p in story.uncle.weights.net.parameters():
                p.mul_(1.1)
        story.step(story.stream[at])
        found.append(story.terms[-1]["preserve"])
    assert found[0] == pytest.approx(ratio * found[1], rel=1e-12) and found[0] > 0


@pytest.mark.parametrize("rule", ["reuse", "redraw"])
def test_relearning(rule: str) -> None:
    story = Story("L0 L1 U0 L0", relearn_code=rule, gamma=0.1).run(3)
    code = story.code(0)
    assert story.accuracy(0)[0] <= 0.5
    story.enter(story.stream[3])
    assert torch.equal(story.code(0), code) == (rule == "reuse")
    story.run()
    assert min(story.accuracy(0, 1)) >= 0.99 and story.uncle.status[0] == "held"


def test_discarding_the_code() -> None:
    story = Story("L0 L1 U0", unlearn="discard", steps=40).run(2)
    assert story.uncle.budget(story.stream[2]) is None
    state = [p.clone() for p in story.uncle.weights.net.parameters()]
    codes = [story.code(t) for t in (0, 1)]
    story.run()
    assert not torch.equal(story.code(0), codes[0]) and torch.equal(story.code(1), codes[1])
    pairs = zip(state, story.uncle.weights.net.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert story.accuracy(1) == [1] and story.accuracy(0)[0] < 0.9
    assert story.uncle._protected([]) == [1]


@pytest.mark.parametrize("stop", [3, 9, 13, 22, 31, 35, 40])
def test_with_batch_norm_resuming_is_exact_inside_any_request(stop: int) -> None:
    """Two tasks of 6 steps, forgetting one in 20, another task, and the forgotten one again."""
    stream = with_request(stream_for("uncle"))
    again = dataclasses.replace(stream.experiences[0], index=4)
    stream = dataclasses.replace(stream, experiences=(*stream.experiences[:4], again))

    def loop() -> Loop:
        build = {"widths": (16, 16), "chunks": 8, "burn_in_start": 20}
        return Loop(lambda: make("uncle", **build), stream, net="norm")

    whole, first = loop().run(), loop().run(stop)
    assert whole.iteration == 44
    resumed = loop().resume(first.checkpoint()).run()
    assert first.terms + resumed.terms == whole.terms
    mine, theirs = resumed.strategy.state_dict(), whole.strategy.state_dict()
    assert list(mine) == list(theirs)
    for key, value in theirs.items():
        same = torch.equal(mine[key], value) if isinstance(value, Tensor) else mine[key] == value
        assert same, key


def mixed(*parts: Samples) -> Samples:
    every = Samples.cat(parts)
    return Samples(*every.take(torch.randperm(len(every))))


def test_mixed_tasks_are_each_by_itself() -> None:
    story = Story("L0 L1 L2 U1", steps=20).run()
    parts = [clouds(task, 5, 3) for task in (0, 1, 2)]
    alone = torch.cat([story.logits(part) for part in parts])
    order = torch.randperm(len(alone))
    together = story.logits(Samples(*Samples.cat(parts).take(order)))
    torch.testing.assert_close(together, alone[order], rtol=1e-10, atol=1e-10)
    for part, logits in zip(parts, alone.split(20), strict=True):
        own = torch.zeros(16, dtype=torch.bool)
        own[4 * int(part.task[0]) : 4 * int(part.task[0]) + 4] = True
        assert (logits[:, ~own] == CLOSED).all() and (logits[:, own].abs() < 1e3).all()
    assert alone.dtype == torch.float64


def test_a_task_that_has_not_come_is_closed() -> None:
    story = Story("L0 L1", steps=1).run(1)
    logits = story.logits(mixed(clouds(0, 2, 3), clouds(1, 2, 3)))
    assert (logits == CLOSED).all(1).sum() == 8
    assert (story.logits(clouds(1, 2, 3)) == CLOSED).all()


def test_batch_norm_has_statistics_of_its_own_for_each_task() -> None:
    more: dict[str, Any] = {"data": pictures, "net": norm_net, "num_classes": 9}
    story = Story("L0 L1 U0 L0", steps=25, burn_in_start=1, **more).run(1)
    blank = torch.cat([b.double() for b in _blank(story)])
    zero = story.uncle.norms["0"].clone()
    assert not torch.equal(zero, blank)
    story.run(2)
    assert torch.equal(story.uncle.norms["0"], zero) and story.accuracy(1)[0] > 0.9
    assert not torch.equal(story.uncle.norms["1"], zero)
    assert torch.equal(story.uncle.target.statistics(), blank)  # nobody else's
    story.enter(story.stream[2])
    assert torch.equal(story.uncle.norms["0"], blank)
    gone = [zero, story.uncle.norms["1"].clone()]
    story.run(3)
    kept = [v for v in story.uncle.state_dict().values() if isinstance(v, Tensor)]
    assert not any(v.shape == zero.shape and torch.equal(v, gone[0]) for v in kept)
    assert torch.equal(story.uncle.norms["1"], gone[1])
    story.run()
    assert story.accuracy(0)[0] > 0.9 and not torch.equal(story.uncle.norms["0"], blank)


def _blank(story: Story) -> list[Tensor]:
    norms = [m for m in story.uncle.net.modules() if isinstance(m, nn.BatchNorm2d)]
    return [f(m.num_features) for m in norms for f in (torch.zeros, torch.ones)]


def test_statistics_while_a_task_is_learned_are_its_own_so_far() -> None:
    more: dict[str, Any] = {"data": pictures, "net": norm_net, "num_classes": 9}
    story = Story("L0 L1", steps=25, **more).run(stop=24)
    there = story.logits(pictures(0, 20, 9))
    story.step(story.stream[0])
    last = story.logits(pictures(0, 20, 9))
    assert not torch.equal(there, last)
    story.run(1)
    torch.testing.assert_close(story.logits(pictures(0, 20, 9)), last)  # `end` changes nothing


def test_batch_statistics_at_test_time() -> None:
    more: dict[str, Any] = {"data": pictures, "net": norm_net, "num_classes": 9}
    story = Story("L0 L1", steps=25, bn_eval="batch", **more).run()
    assert story.uncle.norms["0"].numel() == 0 and min(story.accuracy(0, 1)) > 0.9
    alone = story.logits(pictures(0, 4, 9))
    together = story.logits(Samples.cat([pictures(0, 4, 9), pictures(1, 4, 9)]))
    torch.testing.assert_close(together[:12], alone)  # a batch is of one task


def test_convolutions_and_tasks_that_share_their_classes() -> None:
    def same_labels(task: int, num: int, seed: int) -> Samples:
        samples = pictures(task, num, seed)
        return Samples(samples.x, samples.y - 3 * task, samples.task, samples.uid)

    def net(num_classes: int) -> Net:
        backbone, width = cnn((3, 8, 8), width=2)
        return Net(backbone, width, num_classes)

    story = Story("L0 L1 U0", data=same_labels, net=net, num_classes=3, steps=40).run(2)
    assert min(story.accuracy(0, 1)) > 0.9
    assert len(story.uncle.target.head.weight) == 3


def test_tasks_of_different_sizes() -> None:
    def uneven(task: int, num: int, seed: int) -> Samples:
        samples = clouds(task, num, seed)
        keep = (samples.y % 4 < 2 + task).nonzero().flatten()
        return Samples(*samples.take(keep))

    with pytest.raises(ConfigError, match="classes_per_task: 2, but task 1 has 3 classes"):
        Story("L0 L1", data=uneven, steps=1).run()
    story = Story("L0 L1", data=uneven, steps=100, classes_per_task=4).run()
    assert story.accuracy(0, 1) == [1, 1]
    assert (story.logits(uneven(0, 2, 3))[:, 2:] == CLOSED).all()


def test_the_clip_is_on_the_generator_alone() -> None:
    story = Story("L0", steps=1).run(stop=0)
    story.enter(story.stream[0])
    for p in story.uncle.weights.net.parameters():
        p.grad = torch.ones_like(p)
    story.uncle.weights.codes["0"].grad = torch.full_like(story.code(0), 7.0)
    story.uncle.after_backward()
    grads = [p.grad for p in story.uncle.weights.net.weights()]
    assert torch.cat([g.flatten() for g in grads]).norm().item() == pytest.approx(1, abs=1e-5)
    assert (story.uncle.weights.net.chunks.grad == 1).all()
    assert (story.uncle.weights.codes["0"].grad == 7).all()


def test_rates() -> None:
    story = Story("L0 U0", lr=0.01, lr_unlearn=0.002, steps=1).run(stop=0)
    story.enter(story.stream[0])
    rates = []
    for epoch in (0, 24, 25, 50):
        story.uncle.begin_epoch(story.stream[0], epoch)
        rates.append(story.optimizer.param_groups[0]["base_lr"])
    assert rates == [0.01, 0.01, 0.005, 0.0025]
    story.run(1)
    story.enter(story.stream[1])
    (group,) = story.optimizer.param_groups
    assert group["lr"] == 0.002
    learns = list(story.uncle.weights.net.weights())
    assert len(group["params"]) == len(learns)
    assert all(a is b for a, b in zip(group["params"], learns, strict=True))


def test_noise_is_new_at_each_step_and_the_same_on_all_ranks() -> None:
    story, like = Story("L0", steps=1), torch.zeros(5, dtype=torch.double)
    drawn = []
    for step in (1, 2, 1):
        clock.set(0, step)
        drawn.append(story.uncle._noise(like))
    assert drawn[0].shape == (10, 5) and drawn[0].dtype == torch.float64
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("setting", ["class", "domain"])
def test_it_wants_tasks(setting: Setting) -> None:
    strategy = make("uncle")
    with pytest.raises(ConfigError, match=r"task labels.*setting=task"):
        strategy.attach(mlp_net(4), StreamInfo(4, 2, setting, (2,)))
    story = Story("L0", steps=1).run()
    with pytest.raises(ConfigError, match="by task"):
        story.uncle.predict(torch.zeros(1, 2), None)


def test_it_wants_whole_tasks() -> None:
    story = Story("L0 L1", steps=1)
    empty = story.stream[0].train
    some = Experience(2, "forget", (0, 1), (1, 5), empty, empty, 0, (0,), (1, 2))
    with pytest.raises(ConfigError, match=r"requests\[2\].*whole ones"):
        story.uncle.budget(some)


def test_it_wants_a_net_to_write() -> None:
    net = mlp_net(4)
    net.freeze()
    with pytest.raises(ConfigError, match=r"net\.freeze"):
        make("uncle").attach(net, StreamInfo(4, 2, "task", (2,)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("burn_in", "none"), ("reg_norm", "x"), ("relearn_code", ""), ("bn_eval", "net")),
        *(("unlearn", "retrain"), ("chunks", 0), ("noise_draws", 0), ("beta", -1), ("lr", 0)),
        *(("gamma", float("nan")), ("clip", 0), ("classes_per_task", 0), ("widths", [])),
        *(("widths", [8, 0]), ("code_size", 0), ("lr_every", 0), ("burn_in_start", 0)),
    ],
)
def test_options_that_make_no_sense(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: "):
        make("uncle", **{name: value})


def test_a_batch_is_of_one_task() -> None:
    """What a head's outputs stand for is the labels of its task, in order."""
    story = Story("L2", steps=1).run(stop=0)
    story.enter(story.stream[0])
    x = torch.zeros(2, 2, dtype=torch.double)
    rows = Batch(x, torch.tensor([8, 11]), torch.tensor([2, 2]), torch.tensor([0, 1]))
    theta = story.uncle.weights([2])
    logits = story.uncle.target(story.uncle.weights.net.unpack(theta[0]), x)
    wanted = nn.functional.cross_entropy(logits, torch.tensor([0, 3]))
    torch.testing.assert_close(story.uncle.loss(rows)["new"], wanted)
