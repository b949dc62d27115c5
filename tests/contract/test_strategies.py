"""What holds for every strategy in `strategies/`: it trains, resumes, forgets, and ranks agree."""

from __future__ import annotations

import ast
import copy
import dataclasses
import inspect
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from clframe.core.experience import Samples, Stream
from clframe.core.strategy import Strategy, Wrapper
from tests.contract.harness import (
    CAPACITY,
    FILES,
    STEPPED,
    Loop,
    buffers,
    load,
    make,
    memories,
    nets_of,
    on_ranks,
    stream_for,
    tiny_stream,
    train_on_ranks,
    with_request,
)

CHAINS = [f"refresh+{base}" for base in ("replay", "derpp", "er_ace", "hpcr")]
NAMES = [*FILES, *CHAINS]
ANSWERING = [n for n in FILES if getattr(load(FILES[n]), "only_forgets", False)]
ANSWERING += ["acu", "uncle"]
CLOSED_FORM = {"acu"}  # without a step: what it has learned shows in tests of its own
CASES = [(name, net) for name in NAMES for net in nets_of(name)]


def same(a: Any, b: Any, where: str = "") -> None:
    """Equal to the bit, through dicts and lists."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            same(a[key], b[key], f"{where}.{key}")
    else:
        assert a == b, where


@pytest.mark.parametrize("name", FILES)
def test_file_follows_the_rules(name: str) -> None:
    cls, source = load(FILES[name]), FILES[name].read_text()
    assert cls.__name__.lower() == name.replace("_", "")
    tree = ast.parse(source)
    assert ast.get_docstring(tree) and cls.__doc__ and len(source.splitlines()) < 300
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = (
                [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            )
            for module in modules:
                root = str(module).split(".")[0]
                assert module == "clframe.api" or root == "torch" or root in sys.stdlib_module_names
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    positional = 1 if issubclass(cls, Wrapper) else 0
    if "__init__" in vars(cls):
        assert len(parameters) == len(options) + positional
    for option in options:
        assert option.default is not option.empty and option.annotation is not option.empty
        assert f"{option.name}: " in cls.__doc__, f"{option.name} is not documented"


@pytest.mark.parametrize(("name", "net"), CASES)
def test_trains(name: str, net: str) -> None:
    """Finite terms, a memory that is filled and never too large, and weights that end elsewhere."""

    def watch(strategy: Strategy) -> None:
        for memory in buffers(strategy):
            assert 0 < len(memory) <= memory.capacity == CAPACITY

    stream = stream_for(name)
    loop = Loop(lambda: make(name), stream, net=net, watch=watch)
    before = [(p, p.detach().clone()) for p in loop.strategy.trainable()]
    state = {k: copy.deepcopy(v) for k, v in loop.strategy.state_dict().items()}
    backbone = {k: v.clone() for k, v in loop.strategy.net.backbone.state_dict().items()}
    loop.run()
    assert any(loop.terms) == (name not in CLOSED_FORM)
    for terms in loop.terms:  # a diverging run would still count as finite: hence the bound
        assert all(math.isfinite(v) and abs(v) < 50 for v in terms.values()), terms
    assert all("new" in terms for terms in loop.terms if terms)
    if before and name not in CLOSED_FORM:
        assert any(not torch.equal(p, first) for p, first in before)
    else:  # what it learns with is made when the first data comes, or is no parameter
        assert any(
            torch.is_tensor(v) and (k not in state or not torch.equal(v, state[k]))
            for k, v in loop.strategy.state_dict().items()
        )
    if net == "frozen":
        same(backbone, dict(loop.strategy.net.backbone.state_dict()))
    test = stream.experiences[0].eval
    task = test.task if stream.setting == "task" else None
    logits = loop.strategy.eval().predict(test.x, task)
    assert logits.shape == (4, 6) and logits.isfinite().all()


@pytest.mark.parametrize(("name", "net"), CASES)
def test_resumes_bit_for_bit(name: str, net: str) -> None:
    """From inside the first, second and third experience, through a file read with weights_only."""
    stream = stream_for(name)
    whole = Loop(lambda: make(name), stream, net=net).run()
    longest = whole.iteration // 6
    for stop in (longest // 2, whole.iteration // 2, whole.iteration - 1):
        first = Loop(lambda: make(name), stream, net=net).run(stop)
        saved = first.checkpoint()
        Loop(lambda: make(name), stream, net=net, seed=5).run(3)  # another run in between
        again = Loop(lambda: make(name), stream, net=net).resume(saved).run()
        same(whole.strategy.state_dict(), again.strategy.state_dict())
        assert first.terms + again.terms == whole.terms


@pytest.mark.parametrize("name", NAMES)
def test_forgets(name: str) -> None:
    """After a request no memory holds a withdrawn sample, and the stream goes on to fill it."""
    stream = with_request(stream_for(name))
    gone = stream.experiences[2].uids

    def watch(strategy: Strategy) -> None:
        assert all(len(memory) <= CAPACITY for memory in buffers(strategy))
        for memory in memories(strategy):
            if loop.at > 2 and len(memory):
                assert not torch.isin(memory.column("uid"), torch.tensor(gone)).any()

    loop = Loop(lambda: make(name), stream, net=nets_of(name)[0], watch=watch)
    loop.run()
    assert all(len(memory) == CAPACITY for memory in buffers(loop.strategy))
    assert all(math.isfinite(v) for terms in loop.terms for v in terms.values())


@pytest.mark.parametrize("name", NAMES)
def test_resumes_inside_and_after_a_request(name: str) -> None:
    stream = with_request(stream_for(name))

    def loop() -> Loop:
        return Loop(lambda: make(name), stream, net=nets_of(name)[0])

    whole, stops = loop().run(), {within_request(name, stream)}
    for stop in {*stops, whole.iteration - 2}:
        saved = loop().run(stop).checkpoint()
        again = loop().resume(saved).run()
        same(whole.strategy.state_dict(), again.strategy.state_dict())


@pytest.mark.parametrize("name", ANSWERING)
@pytest.mark.parametrize("ranks", [False, True], ids=["alone", "on ranks"])
def test_what_is_tried_answers_its_request(name: str, ranks: bool) -> None:
    """After it predictions are others: else the tests of requests would try nothing."""
    stream = with_request(stream_for(name))
    net, test = nets_of(name)[0], stream.experiences[0].eval
    found = []
    for upto in (2, 3):
        kind = net.replace("plain", "bare") if ranks else net
        loop = Loop(lambda: make(name), stream, net=kind, double=ranks and name in STEPPED)
        loop.stream = dataclasses.replace(stream, experiences=stream.experiences[:upto])
        task = test.task if stream.setting == "task" else None
        found.append(loop.run().strategy.eval().predict(test.x, task))
    assert not torch.equal(*found)


def within_request(name: str, stream: Stream) -> int:
    """An update in the middle of the request, or where there is none the last before it."""
    first = Loop(lambda: make(name), stream, net=nets_of(name)[0])
    steps = first.strategy.budget(stream.experiences[2]) or 0
    first.stream = dataclasses.replace(stream, experiences=stream.experiences[:2])
    return first.run().iteration + (steps // 2 or -1)


def test_joint_learns_a_sample_that_came_twice_once() -> None:
    stream = tiny_stream()
    first, second, third = stream.experiences
    both = dataclasses.replace(second, train=Samples.cat([first.train, second.train]))
    data = make("joint").data(third, [first, both])
    assert data is not None and data.uid.tolist() == [
        u for e in stream for u in e.train.uid.tolist()
    ]
    assert torch.equal(data.x, torch.cat([e.train.x for e in stream]))


def test_joint_equals_training_on_the_union_from_scratch() -> None:
    stream = tiny_stream()
    loop = Loop(lambda: make("joint"), stream, net="norm").run()
    union = Samples.cat([e.train for e in stream])
    merged = dataclasses.replace(stream.experiences[2], train=union)
    alone = Loop(lambda: make("fine_tune"), stream, net="norm")
    alone.stream = dataclasses.replace(stream, experiences=(*stream.experiences[:2], merged))
    steps = alone.epochs * (-(-18 // 7) + -(-36 // 7))  # what the run did before: the draws' clock
    alone.at, alone.iteration = 2, steps
    alone.run()
    same(loop.strategy.net.state_dict(), alone.strategy.net.state_dict())


def test_independent_equals_training_on_each_alone() -> None:
    stream = tiny_stream()
    loop = Loop(lambda: make("independent"), stream, net="norm").run()
    alone = Loop(lambda: make("fine_tune"), stream, net="norm")
    alone.at, alone.iteration = 2, alone.epochs * 2 * -(-18 // 7)
    alone.run()
    same(loop.strategy.net.state_dict(), alone.strategy.net.state_dict())


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(train_on_ranks, args=(2, str(folder), NAMES), nprocs=2)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_are_one_process(name: str, ranks: Path) -> None:
    """Both ranks end with equal bits; rounding apart these are the numbers of a single process."""
    first, second = (torch.load(ranks / f"{name}-{r}.pt", weights_only=True) for r in (0, 1))
    same(first, second)
    single = on_ranks(name).strategy.state_dict()
    for key, value in single.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(first[key], value, rtol=1e-3, atol=1e-4, msg=key)
        else:
            assert first[key] == value, key
