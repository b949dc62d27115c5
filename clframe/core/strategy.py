"""What a continual-learning method may decide, hook by hook; the default is plain fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clframe.core.experience import Batch, Experience, Samples, Setting
from clframe.core.losses import cross_entropy
from clframe.core.memory import Memory
from clframe.core.net import Net
from clframe.errors import PluginError

Readout = Callable[[Tensor, "Tensor | None"], Tensor]


@dataclass(frozen=True)
class StreamInfo:
    """What a strategy may know of the stream before it starts."""

    num_classes: int
    num_experiences: int
    setting: Setting
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Frozen:
    """A predictor in two parts, of which no later update changes the first.

    encode: inputs [n, ...] to features [n, ...]; `module` holds all that it depends on, nothing of
    it trainable (else features are not kept). readouts: as `Strategy.readouts`, from features in
    the place of inputs.
    """

    encode: Callable[[Tensor], Tensor]
    module: nn.Module
    readouts: Mapping[str, Readout]


class Strategy(nn.Module):
    """A continual-learning method; the default is plain fine-tuning.

    Options are keyword-only arguments of `__init__`. `self.net` and `self.info` are there from
    `attach` on. Everything the method must remember is a parameter, a buffer or a submodule, so
    that the checkpoint, the device and the ranks take care of themselves.

    Order in a step: before_step, loss, backward, after_backward, optimizer, after_step, `repeats`
    times; then after_batch, then the evaluator.
    """

    repeats: int = 1
    reference: ClassVar[Literal["joint", "independent"] | None] = None
    usual_net: ClassVar[str | None] = None  # net.name, as a literal, where not any net will do
    usual_setting: ClassVar[str | None] = None  # likewise "task", where it wants task labels
    forgets_by: ClassVar[tuple[str, ...]] = ()  # options that forgetting alone uses, as literals
    net: Net
    info: StreamInfo

    def attach(self, net: Net, info: StreamInfo) -> None:
        """Receive the network and the facts of the stream; called once, before everything else."""
        self.net, self.info = net, info

    def augment(self, x: Tensor) -> Tensor:
        """A training view of raw inputs; call it inside `loss`."""
        out: Tensor = self.net.augment(x)
        return out

    def prepare(self, exp: Experience) -> None:
        """Grow or freeze up to `exp`, without touching data; runs again on resume."""
        self.net.grow(exp.classes)

    def data(self, exp: Experience, past: Sequence[Experience]) -> Samples | None:
        """What to train on; None is `exp.train`. Use of past data is recorded.

        `past` has what was learned before, without what a request has withdrawn by then. A forget
        request asks too, where it is given a `budget`.
        """
        return None

    def optimizer(self, exp: Experience) -> Optimizer | None:
        """None is the configured one, over `trainable()`.

        Schedules act on each group's `base_lr`, at first its `lr`; a strategy may change it later.
        """
        return None

    def begin(self, exp: Experience) -> None:
        """Before the first step of `exp`; its data is available."""

    def begin_epoch(self, exp: Experience, epoch: int) -> None:
        """Before each pass over the data of `exp`; epochs count from 0."""

    def before_step(self, batch: Batch) -> None:
        """Before the loss; may change weights, alike on every rank."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Named terms; their sum is minimised, each is journalled. Empty: no update.

        The term `new` is the loss of the incoming batch (plasticity); all others are stability.
        """
        return {"new": cross_entropy(self.net(self.augment(batch.x)), batch.y)}

    def after_backward(self) -> None:
        """May edit gradients, of forget requests too; they are already averaged over ranks."""

    def after_step(self, batch: Batch) -> None:
        """After each optimizer step."""

    def after_batch(self, batch: Batch) -> None:
        """Once per incoming batch, after the last repeat: fill the memory."""

    def end(self, exp: Experience) -> bool | None:
        """After the last step; return True when predictions changed (counts as one update)."""

    def forget(self, exp: Experience) -> bool | None:
        """Closed-form forgetting; the default drops memory rows. True: predictions changed."""
        uids = torch.tensor(exp.uids, dtype=torch.long)
        for memory in self.modules():
            if isinstance(memory, Memory):
                memory.forget(uids=uids)
        return None

    def forget_loss(self, exp: Experience, batch: Batch) -> dict[str, Tensor]:
        """Forgetting by training: named terms of one step of a forget request.

        `batch` is of what `data` gave for it: by default what is to be forgotten, if the request
        hands that over. Without data it is empty.
        """
        return {}

    def budget(self, exp: Experience) -> int | None:
        """Epochs for learning, steps for forgetting; None is the config's epochs, or no steps.

        Also asked before the stream starts, so that the progress bar knows its length.
        """
        return None

    def readouts(self) -> dict[str, Readout]:
        """Logit functions to evaluate, by name; the first is the one tables use."""
        return {"net": self.predict}

    def predict(self, x: Tensor, task: Tensor | None) -> Tensor:
        """Full-width logits [n, num_classes]; `task` [n] is None unless task-incremental."""
        out: Tensor = self.net(x)
        return out

    def predicts_plainly(self) -> bool:
        """Whether `predict` and `readouts` are no more than a forward of the network."""
        own = type(self)
        return own.predict is Strategy.predict and own.readouts is Strategy.readouts

    def frozen_features(self) -> Frozen | None:
        """Features that no later update changes, so that the evaluator may keep them.

        By default those of a frozen backbone (`net.freeze`) behind an unchanged `predict`.
        """
        if not (self.net.frozen and self.predicts_plainly()):
            return None

        def classify(features: Tensor, task: Tensor | None) -> Tensor:
            return self.net.classify(features)

        return Frozen(self.net.features, self.net.backbone, {"net": classify})

    def trainable(self) -> Iterable[nn.Parameter]:
        """What the optimizer sees; may be nothing."""
        return (p for p in self.parameters() if p.requires_grad)


class Wrapper(Strategy):
    """A strategy around `base`; every hook passes through unless overridden.

    only_forgets: it learns exactly as its base does and acts at forget requests alone.

    Raises PluginError where that is said and the class has nothing to answer a request with.
    """

    only_forgets: ClassVar[bool] = False

    def __init__(self, base: Strategy) -> None:
        super().__init__()
        if self.only_forgets:
            must_have(type(self), "forget", "forget_loss")
        self.base = base

    @property
    def net(self) -> Net:  # type: ignore[override]
        return self.base.net

    @property
    def info(self) -> StreamInfo:  # type: ignore[override]
        return self.base.info

    @property
    def repeats(self) -> int:  # type: ignore[override]
        return self.base.repeats

    @property
    def reference(self) -> Literal["joint", "independent"] | None:  # type: ignore[override]
        return self.base.reference

    def attach(self, net: Net, info: StreamInfo) -> None:
        self.base.attach(net, info)

    def augment(self, x: Tensor) -> Tensor:
        return self.base.augment(x)

    def prepare(self, exp: Experience) -> None:
        self.base.prepare(exp)

    def data(self, exp: Experience, past: Sequence[Experience]) -> Samples | None:
        return self.base.data(exp, past)

    def optimizer(self, exp: Experience) -> Optimizer | None:
        return self.base.optimizer(exp)

    def begin(self, exp: Experience) -> None:
        self.base.begin(exp)

    def begin_epoch(self, exp: Experience, epoch: int) -> None:
        self.base.begin_epoch(exp, epoch)

    def before_step(self, batch: Batch) -> None:
        self.base.before_step(batch)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return self.base.loss(batch)

    def after_backward(self) -> None:
        self.base.after_backward()

    def after_step(self, batch: Batch) -> None:
        self.base.after_step(batch)

    def after_batch(self, batch: Batch) -> None:
        self.base.after_batch(batch)

    def end(self, exp: Experience) -> bool | None:
        return self.base.end(exp)

    def forget(self, exp: Experience) -> bool | None:
        return self.base.forget(exp)

    def forget_loss(self, exp: Experience, batch: Batch) -> dict[str, Tensor]:
        return self.base.forget_loss(exp, batch)

    def budget(self, exp: Experience) -> int | None:
        return self.base.budget(exp)

    def readouts(self) -> dict[str, Readout]:
        return self.base.readouts()

    def predict(self, x: Tensor, task: Tensor | None) -> Tensor:
        return self.base.predict(x, task)

    def predicts_plainly(self) -> bool:
        return self._reads_as_base() and self.base.predicts_plainly()

    def frozen_features(self) -> Frozen | None:
        return self.base.frozen_features() if self._reads_as_base() else None

    def _reads_as_base(self) -> bool:
        own = type(self)
        return own.predict is Wrapper.predict and own.readouts is Wrapper.readouts

    def trainable(self) -> Iterable[nn.Parameter]:
        return self.base.trainable()


def must_have(wrapper: type[Wrapper], *hooks: str) -> None:
    """Raise PluginError unless the class has one of `hooks` of its own."""
    if any(getattr(wrapper, hook) is not getattr(Wrapper, hook) for hook in hooks):
        return
    own = [name for name in vars(wrapper) if not hasattr(Wrapper, name)]
    close = [(hook, name) for hook in hooks for name in own if name.endswith(hook)]
    hint = f" Did you mean {close[0][0]!r} by {close[0][1]!r}?" if close else ""
    raise PluginError(
        f"{wrapper.__name__} only forgets, and has no {' or '.join(hooks)} to do it by.{hint}"
    )
