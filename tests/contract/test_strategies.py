"""What holds for every strategy in `strategies/`: it trains, resumes, forgets, and ranks agree."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from clframe.core.experience import Experience, Samples, Stream
from clframe.core.strategy import Strategy, Wrapper
from tests.contract.harness import (
    CAPACITY,
    FILES,
    Loop,
    buffers,
    load,
    make,
    memories,
    nets_of,
    on_ranks,
    tiny_stream,
    train_on_ranks,
)

CHAINS = [f"refresh+{base}" for base in ("replay", "derpp", "er_ace", "hpcr")]
NAMES = [*FILES, *CHAINS]
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

    loop = Loop(lambda: make(name), tiny_stream(), net=net, watch=watch)
    before = [(p, p.detach().clone()) for p in loop.strategy.trainable()]
    backbone = {k: v.clone() for k, v in loop.strategy.net.backbone.state_dict().items()}
    loop.run()
    assert loop.terms
    for terms in loop.terms:  # a diverging run would still count as finite: hence the bound
        assert all(math.isfinite(v) and abs(v) < 50 for v in terms.values()), terms
    assert all("new" in terms for terms in loop.terms if terms)
    assert any(not torch.equal(p, first) for p, first in before)
    if net == "frozen":
        same(backbone, dict(loop.strategy.net.backbone.state_dict()))
    logits = loop.strategy.eval().predict(tiny_stream().experiences[0].eval.x, None)
    assert logits.shape == (4, 6) and logits.isfinite().all()


@pytest.mark.parametrize(("name", "net"), CASES)
def test_resumes_bit_for_bit(name: str, net: str) -> None:
    """From inside the first, second and third experience, through a file read with weights_only."""
    whole = Loop(lambda: make(name), tiny_stream(), net=net).run()
    longest = whole.iteration // 6
    for stop in (longest // 2, whole.iteration // 2, whole.iteration - 1):
        first = Loop(lambda: make(name), tiny_stream(), net=net).run(stop)
        saved = first.checkpoint()
        Loop(lambda: make(name), tiny_stream(), net=net, seed=5).run(3)  # another run in between
        again = Loop(lambda: make(name), tiny_stream(), net=net).resume(saved).run()
        same(whole.strategy.state_dict(), again.strategy.state_dict())
        assert first.terms + again.terms == whole.terms


def with_request(stream: Stream, uids: tuple[int, ...]) -> Stream:
    """`stream` with a request, after its first experience, to forget the samples `uids`."""
    nothing = stream.experiences[0].train.take(torch.empty(0, dtype=torch.long))
    empty = Samples(*nothing)
    request = Experience(1, "forget", (0,), (0,), empty, empty, 1, (0,), uids)
    later = [dataclasses.replace(e, index=e.index + 1) for e in stream.experiences[1:]]
    return dataclasses.replace(stream, experiences=(stream.experiences[0], request, *later))


@pytest.mark.parametrize("name", NAMES)
def test_forgets(name: str) -> None:
    """After a request no memory holds a withdrawn sample, and the stream goes on to fill it."""
    plain = tiny_stream()
    gone = plain.experiences[0].uids[:9]
    stream = with_request(plain, gone)

    def watch(strategy: Strategy) -> None:
        assert all(len(memory) <= CAPACITY for memory in buffers(strategy))
        for memory in memories(strategy):
            if loop.at > 0 and len(memory):
                assert not torch.isin(memory.column("uid"), torch.tensor(gone)).any()

    loop = Loop(lambda: make(name), stream, net=nets_of(name)[0], watch=watch)
    loop.run()
    assert all(len(memory) == CAPACITY for memory in buffers(loop.strategy))


@pytest.mark.parametrize("name", NAMES)
def test_resumes_after_a_request(name: str) -> None:
    plain = tiny_stream()
    stream = with_request(plain, plain.experiences[0].uids[:9])

    def loop() -> Loop:
        return Loop(lambda: make(name), stream, net=nets_of(name)[0])

    whole = loop().run()
    saved = loop().run(whole.iteration - 2).checkpoint()
    again = loop().resume(saved).run()
    same(whole.strategy.state_dict(), again.strategy.state_dict())


def test_joint_leaves_out_what_was_withdrawn() -> None:
    plain = tiny_stream()
    gone = plain.experiences[0].uids[:9]
    stream = with_request(plain, gone)
    loop = Loop(lambda: make("joint"), stream).run()
    past = [e for e in stream.learned if e.index < 3]
    data = loop.strategy.data(stream.experiences[3], past)
    assert data is not None
    kept = [u for e in stream.learned for u in e.uids if u not in gone]
    assert data.uid.tolist() == kept
    relearned = [*past, dataclasses.replace(stream.experiences[0], index=2)]
    again = loop.strategy.data(stream.experiences[3], relearned)
    assert again is not None and set(gone) <= set(again.uid.tolist())


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
