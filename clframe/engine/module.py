"""The one LightningModule: turns Lightning's hooks into the strategy's, and counts updates.

To Lightning a step is a block of updates: its own loop costs as much as a small network's update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor
from torch.optim import Optimizer

from clframe.core import dist
from clframe.core.experience import Batch, Experience
from clframe.core.rng import clock
from clframe.core.strategy import Strategy
from clframe.data.loader import ExperienceLoader, ForgetLoader
from clframe.engine.optim import Schedule
from clframe.errors import TrainingError

STRIDE = 10**10  # more updates than an experience has


class Observer(Protocol):
    """What the module tells of its progress; the run implements it."""

    def start(self, module: ContinualModule, fresh: bool) -> None: ...
    def before_update(self, local: int, last: bool) -> None: ...
    def gradients(self, iteration: int, terms: dict[str, Tensor]) -> None: ...
    def after_update(
        self, iteration: int, local: int, last: bool, terms: dict[str, Tensor]
    ) -> None: ...
    def after_batch(self, module: ContinualModule) -> None: ...
    def finish(self, module: ContinualModule) -> None: ...


@dataclass
class Position:
    """Where a run stands: the only counters there are, all of them in the checkpoint.

    `iteration` counts optimizer updates over the whole stream, `local` those of this experience;
    `start` is the iteration at which this experience began. `requested`: the stream's order is that
    of the run's requests.
    """

    experience: int = 0
    epoch: int = 0
    batch: int = 0
    iteration: int = 0
    local: int = 0
    start: int = 0
    samples: int = 0
    past_samples: int = 0
    requested: bool = False

    def moment(self, exp: Experience, *, begun: bool = True) -> int:
        """What randomness is drawn by: the iteration; not `begun`, that before the experience.

        Of a stream made by requests it is the scenario's experience, learned or forgotten, and the
        update within it, so that without one of them all others see what they would have seen.
        """
        if not self.requested:
            return self.iteration if begun else self.start
        first = (2 * exp.origin + (exp.kind == "forget") + 1) * STRIDE
        return first + self.local if begun else first


class ContinualModule(LightningModule):
    """One strategy in one experience."""

    def __init__(
        self,
        strategy: Strategy,
        exp: Experience,
        loader: ExperienceLoader | ForgetLoader,
        position: Position,
        observer: Observer,
        *,
        epochs: int,
        seed: int,
        make_optimizer: Callable[[ContinualModule], Optimizer | None],
        schedule: Schedule,
        clip: float | None,
        average_norms: bool,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strategy = strategy
        self.exp, self.loader, self.position, self.observer = exp, loader, position, observer
        self.seed, self.clip, self.schedule = seed, clip, schedule
        self.average_norms = average_norms
        self.repeats = strategy.repeats if exp.kind == "learn" else 1
        self.num_updates = epochs * loader.num_batches * self.repeats
        self.inner: Optimizer | None = None
        self.plugin: Precision | None = None
        self._make_optimizer = make_optimizer
        self._resumed = position.local > 0

    def configure_optimizers(self) -> Any:
        self.inner = self._make_optimizer(self)
        if self.inner is not None:
            for group in self.inner.param_groups:  # a resumed group's `lr` has been scheduled
                group.setdefault("base_lr", group["lr"])
        return self.inner

    def forward_context(self) -> AbstractContextManager[Any]:
        """The precision the run computes in."""
        return self.plugin.forward_context() if self.plugin is not None else nullcontext()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, _: int) -> Any:
        """A block stays where it is: each of its batches is moved when it comes to it."""
        return batch

    def on_train_start(self) -> None:
        self.observer.start(self, fresh=not self._resumed)

    def on_train_epoch_start(self) -> None:
        if self.exp.kind == "learn" and self.position.batch == 0:
            clock.set(self.seed, self.position.moment(self.exp), "epoch")
            self.strategy.begin_epoch(self.exp, self.position.epoch)

    def training_step(self, block: Iterable[Batch], _: int) -> None:
        at = self.position
        for rows in block:
            batch, size = self._here(rows), self.loader.rows(at.batch)
            for _ in range(self.repeats):
                self._update(batch, size)
            at.samples += size
            at.batch += 1
            if at.batch == self.loader.num_batches:
                at.epoch, at.batch = at.epoch + 1, 0
            self.observer.after_batch(self)

    def _here(self, batch: Batch) -> Batch:
        """The batch on this device; inputs that are no pixels in the run's own precision."""
        if batch.x.device != self.device:
            batch = Batch(*(t.to(self.device, non_blocking=True) for t in batch))
        wanted = torch.get_default_dtype()
        if batch.x.is_floating_point() and batch.x.dtype != wanted:
            batch = batch._replace(x=batch.x.to(wanted))
        return batch

    def _update(self, batch: Batch, size: int) -> None:
        """One update on this rank's share of a batch of `size` rows."""
        at, strategy, learn = self.position, self.strategy, self.exp.kind == "learn"
        at.iteration += 1
        at.local += 1
        last = at.local == self.num_updates
        clock.set(self.seed, at.moment(self.exp))
        dist.know(size, batch, anew=True)
        self.observer.before_update(at.local, last)
        if learn:
            strategy.before_step(batch)
        terms = strategy.loss(batch) if learn else strategy.forget_loss(self.exp, batch)
        if not isinstance(terms, dict):
            hook = "loss" if learn else "forget_loss"
            raise TrainingError(
                f"{type(strategy).__name__}.{hook} returned a {type(terms).__name__}; return a "
                'dict of named terms, such as {"new": loss}.'
            )
        if at.local == 1:
            self._agree_on(terms)
        stepped = False
        if terms:
            self.observer.gradients(at.iteration, terms)
            stepped = self._step(terms)
        if self.average_norms:
            dist.average_batch_norm(strategy)
        if stepped and learn:
            strategy.after_step(batch)
        if learn and at.local % self.repeats == 0:
            strategy.after_batch(batch)
        self.observer.after_update(at.iteration, at.local, last, terms)

    def _agree_on(self, terms: dict[str, Tensor]) -> None:
        """Raise TrainingError where ranks have other terms: their messages would not fit."""
        for rank, names in enumerate(dist.everyones(list(terms))):
            if names != list(terms):
                raise TrainingError(
                    f"{type(self.strategy).__name__}.loss has the terms {list(terms)} on rank "
                    f"{dist.rank()} and {names} on rank {rank}; ranks must agree on them."
                )

    def _step(self, terms: dict[str, Tensor]) -> bool:
        """One optimizer step, without the hooks around Lightning's, which nobody listens to.

        False where float16 has overflowed, so that no weight has changed.
        """
        optimizer = self.inner
        if optimizer is None:  # nothing to train: the losses are only journalled
            return True
        factor = self.schedule(self.position.local, self.num_updates)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        scaler = getattr(self.plugin, "scaler", None)  # of float16 alone
        loss = reduce(add, terms.values())
        if scaler is not None:
            loss = scaler.scale(loss)
        for group in optimizer.param_groups:  # as zero_grad, without its profiler's record
            for parameter in group["params"]:
                parameter.grad = None
        self.trainer.strategy.pre_backward(loss)  # DDP gets ready to average
        loss.backward()
        if scaler is not None:
            scaler.unscale_(optimizer)
        self.strategy.after_backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.strategy.parameters(), self.clip)
        if scaler is None:
            optimizer.step()
            return True
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        return bool(scaler.get_scale() >= scale)

    def on_train_end(self) -> None:
        self.observer.finish(self)
