"""A small loop that drives a strategy's hooks in the documented order, without Lightning."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
import torch.distributed as td
from torch import Tensor, nn

from clframe.core import dist
from clframe.core.augment import CropFlip
from clframe.core.buffer import ReplayBuffer
from clframe.core.experience import Batch, Experience, Samples, Setting, Stream
from clframe.core.memory import Memory
from clframe.core.net import Net
from clframe.core.rng import clock, generator
from clframe.core.strategy import Strategy, StreamInfo, Wrapper
from clframe.data.loader import ForgetLoader

ROOT = Path(__file__).parents[2]
SHAPE = (3, 8, 8)
CAPACITY = 10
SMALL: dict[str, dict[str, Any]] = {
    "sharp": {"phase_epochs": 1},  # so that phases are met with
    "ssd": {"alpha": 1.0},  # so that weights are dampened
    "uncle": {"widths": [16, 16], "chunks": 4, "burn_in_start": 30},
}


def load(path: Path) -> type[Strategy]:
    """The one strategy class that a plug-in file defines."""
    spec = importlib.util.spec_from_file_location(f"plugin_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = [
        v
        for v in vars(module).values()
        if inspect.isclass(v) and issubclass(v, Strategy) and v.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{path.name} defines {len(found)} strategies"
    return found[0]


FILES = {path.stem: path for path in sorted((ROOT / "strategies").glob("*.py"))}


def make(name: str, **options: Any) -> Strategy:
    """`strategies/<name>.py` with a small memory; a wrapper alone goes around fine-tuning."""
    name, _, base = name.partition("+")
    cls = load(FILES[name])
    if "capacity" in inspect.signature(cls.__init__).parameters:
        options.setdefault("capacity", CAPACITY)
    options = SMALL.get(name, {}) | options
    if issubclass(cls, Wrapper):  # one that forgets, around a memory that has to
        base = base or ("replay" if cls.only_forgets else "fine_tune")
    inner = (make(base),) if issubclass(cls, Wrapper) else ()
    return cls(*inner, **options)


def tiny_stream(
    *, experiences: int = 3, width: int = 2, per_class: int = 9, setting: Setting = "class"
) -> Stream:
    """Class- or task-incremental uint8 images: each class is bright where its number says."""
    g = generator(0, "tiny stream")

    def split(classes: range, n: int, first: int) -> Samples:
        y = torch.tensor([c for c in classes for _ in range(n)])
        x = torch.randint(0, 60, (len(y), *SHAPE), generator=g)
        x.view(len(y), -1)[torch.arange(len(y)), y * 17] += 150
        x[torch.arange(len(y)), y % 3, y % 8] += 40
        uid = torch.arange(first, first + len(y))
        task = classes.start // width if setting == "task" else 0
        return Samples(x.to(torch.uint8), y, torch.full_like(y, task), uid)

    made = []
    for e in range(experiences):
        classes = range(e * width, (e + 1) * width)
        train = split(classes, per_class, 1000 * e)
        test = split(classes, 2, 10**6 + 1000 * e)
        uids = tuple(train.uid.tolist())
        task = tuple(train.task.unique().tolist())
        made.append(Experience(e, "learn", task, tuple(classes), train, test, e, (), uids))
    count = experiences * width
    return Stream("tiny", tuple(made), count, setting, tuple(range(count)))


def stream_for(name: str) -> Stream:
    """The usual stream in a setting that the strategy works in."""
    base = load(FILES[name.rpartition("+")[2]])
    return tiny_stream(setting=cast(Setting, base.usual_setting or "class"))


def with_request(stream: Stream) -> Stream:
    """`stream` with a request, after its second experience, to forget the first one's samples."""
    first, second, *rest = stream.experiences
    uids, train = first.uids, first.train
    nothing = Samples(*train.take(torch.empty(0, dtype=torch.long)))
    request = Experience(
        *(2, "forget", first.tasks, first.classes, train, nothing, 0),
        *((0,), uids, (1,) * len(uids), first.classes),
    )
    later = [dataclasses.replace(e, index=e.index + 1) for e in rest]
    return dataclasses.replace(stream, experiences=(first, second, request, *later))


NETS = ["plain", "norm", "growing", "frozen"]
SPECIAL = {
    "ilora": ["vit", "growing vit"],  # it adapts transformers, and freezes them itself
    "uncle": ["plain", "norm", "growing"],  # it writes all weights itself: none are frozen
    "sharp": ["chain"],  # it rewires a chain of two or more layers, with neither norm nor dropout
}
STEPPED = {"sharp", "uncle"}  # codes turn a rounding into a step, and so does Adam


def nets_of(name: str) -> list[str]:
    """The kinds of network that a strategy is tried on; the first is the usual one."""
    return SPECIAL.get(name, NETS)


def tiny_net(kind: str, num_classes: int) -> Net:
    """bare: no dropout, no batch norm; plain: dropout; norm: both; growing: a head that grows.

    frozen: as norm, and only the head learns; chain: as bare, with a second layer; vit: a
    transformer of one block.
    """
    inputs = SHAPE[0] * SHAPE[1] * SHAPE[2]
    layers: list[nn.Module] = []
    if kind in ("norm", "frozen"):
        layers += [nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(inputs, 12), nn.ReLU()]
    if kind == "chain":
        layers += [nn.Linear(12, 12), nn.ReLU()]
    elif kind != "bare":
        layers.append(nn.Dropout(0.3))
    backbone: nn.Module = nn.Sequential(*layers)
    if "vit" in kind:
        size = {"img_size": SHAPE[1], "patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 2}
        backbone = timm.create_model("vit_tiny_patch16_224", num_classes=0, **size)
    statistics = {"mean": [0.4] * 3, "std": [0.3] * 3}
    augment = CropFlip(1, flip=True)
    kinds = {"growing": "growing" in kind, "frozen": kind == "frozen"}
    return Net(backbone, 12, num_classes, augment=augment, **kinds, **statistics)


class Loop:
    """One run of a strategy over a stream, which may stop between two batches and be resumed."""

    def __init__(
        self,
        build: Callable[[], Strategy],
        stream: Stream,
        *,
        net: str = "plain",
        seed: int = 0,
        epochs: int = 2,
        batch_size: int = 7,
        watch: Callable[[Strategy], None] = lambda _: None,
        double: bool = False,
    ) -> None:
        self.stream, self.seed, self.epochs, self.size = stream, seed, epochs, batch_size
        self.watch = watch
        clock.set(seed, 0, "build")
        self.strategy = build()
        info = StreamInfo(stream.num_classes, len(stream), stream.setting, stream.shape)
        self.strategy.attach(tiny_net(net, stream.num_classes), info)
        for exp in stream:  # as a run does, to know its length
            self.strategy.budget(exp)
        if double:
            self.strategy.double()
        self.at = self.local = self.iteration = 0
        self.optimizer: torch.optim.Optimizer | None = None
        self.terms: list[dict[str, float]] = []

    def run(self, stop: int | None = None) -> Loop:
        """Train to the end of the stream, or until `stop` updates have been made in all."""
        self.strategy.train()
        while self.at < len(self.stream):
            exp = self.stream.experiences[self.at]
            if not (self._forget if exp.kind == "forget" else self._learn)(exp, stop):
                return self
            self.at, self.local, self.optimizer = self.at + 1, 0, None
        return self

    def _forget(self, exp: Experience, stop: int | None) -> bool:
        steps = self.strategy.budget(exp) or 0
        samples = self._data(exp) if steps else exp.train
        if self.optimizer is None:
            self.optimizer = self._optimizer(exp)
            clock.set(self.seed, self.iteration, "begin")
            self.strategy.forget(exp)
        loader = ForgetLoader(
            samples, self.size, steps, seed=self.seed, key=exp.origin, batch=self.local
        )
        for block in loader:
            for batch in block:
                if self.iteration == stop:
                    return False
                self.iteration += 1
                self.local += 1
                clock.set(self.seed, self.iteration)
                self._step(self.strategy.forget_loss(exp, batch), None)
        return True

    def _learn(self, exp: Experience, stop: int | None) -> bool:
        fresh = self.optimizer is None
        if fresh:
            self._prepare(exp)
            clock.set(self.seed, self.iteration, "begin")
            self.optimizer = self._optimizer(exp)
            self.strategy.begin(exp)
        samples = self._data(exp)
        batches = -(-len(samples) // self.size)
        budget = self.strategy.budget(exp)
        epochs = self.epochs if budget is None else budget
        updates = epochs * batches * self.strategy.repeats
        while self.local < updates:
            if self.iteration == stop:
                return False
            epoch, batch = divmod(self.local // self.strategy.repeats, batches)
            if batch == 0:
                clock.set(self.seed, self.iteration, "epoch")
                self.strategy.begin_epoch(exp, epoch)
            order = torch.randperm(
                len(samples), generator=generator(self.seed, "order", exp.index, epoch)
            )
            rows = order[batch * self.size : (batch + 1) * self.size]
            self._batch(samples.take(rows[dist.part(len(rows))]))
        clock.set(self.seed, self.iteration, "end")
        self.strategy.end(exp)
        return True

    def _prepare(self, exp: Experience) -> None:
        clock.set(self.seed, exp.index, "prepare")
        self.strategy.prepare(exp)

    def _data(self, exp: Experience) -> Samples:
        gone = [
            u for e in self.stream if e.kind == "forget" and e.index <= exp.index for u in e.uids
        ]
        past = [without(e, gone) for e in self.stream.learned if e.index < exp.index]
        return self.strategy.data(exp, past) or exp.train

    def _optimizer(self, exp: Experience) -> torch.optim.Optimizer:
        made = self.strategy.optimizer(exp)
        if made is not None:
            return made
        groups = [{"params": [*self.strategy.trainable()]}]  # of which there may be none
        return torch.optim.SGD(groups, lr=0.02, momentum=0.5)

    def _batch(self, batch: Batch) -> None:
        for _ in range(self.strategy.repeats):
            self.iteration += 1
            self.local += 1
            clock.set(self.seed, self.iteration)
            self.strategy.before_step(batch)
            self._step(self.strategy.loss(batch), batch)
        self.strategy.after_batch(batch)
        self.watch(self.strategy)

    def _step(self, terms: dict[str, Tensor], batch: Batch | None) -> None:
        assert self.optimizer is not None
        self.terms.append({k: v.item() for k, v in terms.items()})
        if not terms:  # no update
            return
        self.optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        dist.average_gradients(p.grad for p in self.strategy.parameters() if p.grad is not None)
        self.strategy.after_backward()
        self.optimizer.step()
        if batch is not None:
            self.strategy.after_step(batch)

    def checkpoint(self) -> bytes:
        """What a resume needs, as the bytes of a file."""
        assert self.optimizer is not None, "stop inside an experience"
        file = io.BytesIO()
        position = (self.at, self.local, self.iteration)
        state = {"strategy": self.strategy.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"position": position}, file)
        return file.getvalue()

    def resume(self, checkpoint: bytes) -> Loop:
        """Make this fresh loop the one that wrote `checkpoint`."""
        state = torch.load(io.BytesIO(checkpoint), weights_only=True)
        self.at, self.local, self.iteration = state["position"]
        for exp in self.stream.experiences[: self.at + 1]:
            if exp.kind == "learn":
                self._prepare(exp)
        self.strategy.load_state_dict(state["strategy"])
        self.optimizer = self._optimizer(self.stream.experiences[self.at])
        self.optimizer.load_state_dict(state["optimizer"])
        return self


def without(exp: Experience, gone: Sequence[int]) -> Experience:
    """`exp` as it is once the samples `gone` have been withdrawn."""
    keep = ~torch.isin(exp.train.uid, torch.tensor(gone, dtype=torch.long))
    return dataclasses.replace(exp, train=Samples(*exp.train.take(keep.nonzero().flatten())))


def memories(strategy: Strategy) -> list[Memory]:
    """Whatever a strategy holds samples in."""
    return [m for m in strategy.modules() if isinstance(m, Memory)]


def buffers(strategy: Strategy) -> list[ReplayBuffer]:
    """Every memory of a fixed size."""
    return [m for m in memories(strategy) if isinstance(m, ReplayBuffer)]


def on_ranks(name: str) -> Loop:
    """The run that ranks must agree on; in double precision where a rounding may become a step."""
    net = nets_of(name)[0].replace("plain", "bare")
    stream = with_request(stream_for(name))
    return Loop(lambda: make(name), stream, net=net, double=name in STEPPED).run()


def train_on_ranks(rank: int, world: int, folder: str, names: list[str]) -> None:
    """One of `world` processes: trains each strategy and writes its state to `folder`."""
    torch.set_num_threads(1)
    td.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    for name in names:
        loop = on_ranks(name)
        torch.save(loop.strategy.state_dict(), f"{folder}/{name}-{rank}.pt")
    td.destroy_process_group()
