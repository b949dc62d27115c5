"""The loop over the stream: one fit per experience, observed, checkpointed and resumable."""

from __future__ import annotations

import os
import shutil
import time
from typing import Any

import torch
from torch import Tensor

from clframe.config.schema import RunConfig
from clframe.core.experience import Experience
from clframe.core.rng import clock
from clframe.engine import agreement, resume
from clframe.engine.build import assemble, make_stream, resolve_device
from clframe.engine.costs import account, spending
from clframe.engine.feed import Feed
from clframe.engine.module import ContinualModule, Position
from clframe.engine.nets import channels_last, is_convolutional
from clframe.engine.optim import Schedule, build_optimizer
from clframe.engine.pretrain import pretrained
from clframe.engine.trainer import ReusedTrainer
from clframe.evaluation.counter import Plan
from clframe.evaluation.evaluator import ContinualEvaluator
from clframe.tracking.journal import Journal
from clframe.tracking.store import RunStore


class _Mute:
    """Takes frames on the ranks that do not write."""

    offset = 0

    def append(self, kind: str, **arrays: Any) -> None:
        """Drop the frame."""

    def sync(self) -> None:
        """Nothing to make durable."""


class Run:
    """Everything alive in one run; the `Observer` of its modules."""

    def __init__(self, cfg: RunConfig, store: RunStore, main: bool) -> None:
        self.began = time.perf_counter()
        self.cfg, self.store, self.main = cfg, store, main
        torch.set_num_threads(cfg.threads)
        self.device = resolve_device(cfg)
        if self.device.type == "cuda" and cfg.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        self.stream = make_stream(cfg)
        self.pretraining: dict[str, Any] = {}
        if cfg.net.pretrain is not None:
            self.pretraining = pretrained(cfg, self.stream, store.folder.parent, self.device)
        self.strategy = assemble(cfg, self.stream, self.pretraining.get("backbone"))
        self.trainer = ReusedTrainer(cfg)
        self.facts = resume.outline(self.stream)
        self.feed = Feed(cfg, self.stream, self.strategy, self.device)
        self.position = Position(requested=cfg.requests is not None)
        self.prepared = -1
        self.evaluator: ContinualEvaluator | None = None
        self.seconds = {"build": 0.0, "checkpoint": 0.0, "total": 0.0}
        self.optimizers: dict[str, Any] = {}  # the latest state of each kind of experience's
        self.spent: list[dict[str, Any]] = []  # by each experience so far, for the record
        self.restored: dict[str, Any] = {}
        self._restore()
        self.expected = self.position.start + self.feed.updates_from(self.position.experience)
        if main:
            self._describe()
        self.seconds["build"] += time.perf_counter() - self.began

    def _restore(self) -> None:
        if not self.store.checkpoint_path.is_file():
            self.journal: Any = Journal(self.store.journal_path) if self.main else _Mute()
            return
        state = resume.load(self.store.checkpoint_path)
        self.position = Position(**state["position"])
        self.prepared = state["prepared"]
        resume.prepare(self.strategy, self.stream.experiences, self.prepared, self.cfg.seed)
        self.strategy.load_state_dict(state["strategy"])
        self.optimizers, self.spent = state["optimizers"], state["spent"]
        self.seconds = state["seconds"]
        self.restored = state
        self.journal = Journal(self.store.journal_path, state["journal"]) if self.main else _Mute()

    def _describe(self) -> None:
        cfg, reference = self.cfg.eval, self.strategy.reference is not None
        self.store.update_record(
            data=self.stream.describe(),
            reference=self.strategy.reference,
            eval={
                "rho": 0 if reference else cfg.rho,  # a reference is its boundaries
                "dense": 0 if reference else cfg.dense,
                "subset": cfg.subset,
                "budget": cfg.budget,
                "split": cfg.split,
                "fixed": True,
            },
            total_iterations=self.expected,
        )

    # -- the stream --------------------------------------------------------------------------

    def all(self) -> None:
        """Every experience from where the run stands to the end of the stream."""
        for exp in self.stream.experiences[self.position.experience :]:
            self._experience(exp)
        self._expect(self.position.iteration)  # what ends have changed was not foreseen
        if self.main:
            account(self)

    def _experience(self, exp: Experience) -> None:
        at, cfg = self.position, self.cfg
        self.exp = exp
        if cfg.world > 1:  # between fits Lightning moves it to the CPU, where NCCL cannot follow
            self.strategy.to(self.device)
        if self.prepared < exp.index:
            at.start = at.iteration
            if exp.kind == "forget" and cfg.copies and self.main:
                shutil.copy(self.store.checkpoint_path, self.store.before_path(exp.index))
            if exp.kind == "learn":
                clock.set(cfg.seed, exp.origin, "prepare")
                self.strategy.prepare(exp)
            self.prepared = exp.index
        clock.set(cfg.seed, at.moment(exp, begun=False), "data")
        self.read = at.past_samples
        loader, epochs = self.feed.loader(exp, at)
        own = epochs * loader.num_batches * (self.strategy.repeats if exp.kind == "learn" else 1)
        self._expect(at.start + own + self.feed.updates_from(exp.index + 1))
        module = ContinualModule(
            self.strategy,
            exp,
            loader,
            at,
            self,
            epochs=epochs,
            seed=cfg.seed,
            make_optimizer=self._optimizer,
            schedule=Schedule(cfg.optim),
            clip=cfg.clip,
            average_norms=cfg.world > 1 and cfg.net.batch_norm == "local",
        )
        trainer = self.trainer.renewed(max(1, epochs - at.epoch))
        module.plugin = trainer.precision_plugin
        if module.num_updates == 0:
            module.to(self.device)
            self.start(module, fresh=True)
            self.finish(module)
        else:
            if at.local and self.restored.get("precision"):
                module.plugin.load_state_dict(self.restored["precision"])
            trainer.fit(module, train_dataloaders=loader)

    def _expect(self, total: int) -> None:
        """Tell the progress bar how many updates the run will make, where that has changed."""
        if self.main and total != self.expected:
            self.store.update_record(total_iterations=total)
        self.expected = total

    def _optimizer(self, module: ContinualModule) -> torch.optim.Optimizer | None:
        own = self.strategy.optimizer(module.exp)
        made = own or build_optimizer(self.cfg.optim, self.strategy.trainable())
        kind = module.exp.kind
        goes_on = own is None and kind == "learn" and self.cfg.optim.reset == "never"
        if made and (goes_on or self.position.local) and self.optimizers.get(kind):
            made.load_state_dict(self.optimizers[kind])
        return made

    # -- Observer ----------------------------------------------------------------------------

    def start(self, module: ContinualModule, fresh: bool) -> None:
        """The model is on its device: evaluate the untouched one, then begin the experience."""
        at, exp = self.position, self.exp
        if self.evaluator is None:
            agreement.confirm(self.strategy, "at the start")
            self.evaluator = self._make_evaluator(module)
            if self.restored:
                self.evaluator.load_state_dict(self.restored["evaluator"])
        if at.iteration == 0 and fresh:
            self.evaluator.boundary(exp, 0, subset=True)
            if self.main:
                self.store.update_record(counting=self.evaluator.facts())
        self._watch = spending(self)
        if not fresh:
            return
        row = {"index": exp.index, "past_samples": at.past_samples - self.read}
        self.spent.append(row | dict.fromkeys(self._watch, 0))
        clock.set(self.cfg.seed, at.moment(exp), "begin")
        if exp.kind == "learn":
            self.strategy.begin(exp)
        elif self.strategy.forget(exp):
            at.iteration += 1
            if module.num_updates:
                self.evaluator.observe(exp, at.iteration)

    def _make_evaluator(self, module: ContinualModule) -> ContinualEvaluator:
        cfg = self.cfg.eval
        reference = self.strategy.reference is not None
        chunk = 250 if is_convolutional(self.strategy) else 1000
        evaluator = ContinualEvaluator(
            self.stream,
            self.strategy,
            self.journal,
            rho=0 if reference else cfg.rho,
            dense=0 if reference else cfg.dense,
            subset=None if cfg.subset == "all" else int(cfg.subset),
            seed=self.cfg.seed,
            budget=cfg.budget,
            plan=Plan("plain", cfg.chunk or (chunk if self.device.type == "cpu" else 8192)),
            mode=cfg.mode,
            fixed_chunk=cfg.chunk is not None,
            device=self.device,
            precision=module.forward_context,
            channels_last=channels_last(self.strategy),
            diagnostics=tuple(cfg.diagnostics),
        )
        if self.main:
            self.store.update_record(primary=evaluator.primary, readouts=evaluator.readouts)
        return evaluator

    def before_update(self, local: int, last: bool) -> None:
        if self.evaluator:
            self.evaluator.before_update(self.exp, local, last)

    def gradients(self, iteration: int, terms: dict[str, Tensor]) -> None:
        if self.evaluator:
            self.evaluator.gradients(iteration, terms)

    def after_update(
        self, iteration: int, local: int, last: bool, terms: dict[str, Tensor]
    ) -> None:
        assert self.evaluator is not None
        self.evaluator.after_update(self.exp, iteration, local, last, terms)

    def after_batch(self, module: ContinualModule) -> None:
        every, local = self.cfg.checkpoint, self.position.local
        steps = module.repeats
        if every and local // every > (local - steps) // every and local < module.num_updates:
            self._save(module)

    def finish(self, module: ContinualModule) -> None:
        """End the experience: its boundary on the full test sets, and a checkpoint behind it."""
        at, exp = self.position, self.exp
        assert self.evaluator is not None
        changed = False
        if exp.kind == "learn":
            clock.set(self.cfg.seed, at.moment(exp), "end")
            changed = bool(self.strategy.end(exp))
        if changed or at.iteration == at.start:  # either counts as an update of its own
            at.iteration += 1
            changed = True
        agreement.confirm(self.strategy, f"after experience {exp.index}")
        self._charge()
        self.evaluator.boundary(exp, at.iteration, subset=changed or module.num_updates == 0)
        at.experience, at.epoch, at.batch, at.local = exp.index + 1, 0, 0, 0
        at.start = at.iteration
        self._save(module)

    def _charge(self) -> None:
        """Note what was spent on the present experience since it began, or was last noted."""
        before, self._watch = self._watch, spending(self)
        for key, value in self._watch.items():
            self.spent[-1][key] += value - before[key]

    def _save(self, module: ContinualModule) -> None:
        assert self.evaluator is not None
        begun = time.perf_counter()
        if self.position.local:
            self._charge()
        self.evaluator.flush()
        optimizer = module.inner
        self.optimizers[self.exp.kind] = None if optimizer is None else optimizer.state_dict()
        state = self.strategy.state_dict()  # of a sharded memory, all ranks bring their rows
        if not self.main:
            return
        self.journal.sync()  # a checkpoint must not outlive the frames it counts on
        now = self.seconds | {"total": self.seconds["total"] + begun - self.began}
        resume.save(
            self.store.checkpoint_path,
            position=self.position,
            strategy=state,
            optimizers=self.optimizers,
            spent=self.spent,
            precision=module.plugin.state_dict() if module.plugin is not None else {},
            evaluator=self.evaluator.state_dict(),
            journal=self.journal.offset,
            prepared=self.prepared,
            seconds=now,
            stream=self.facts,
        )
        self.journal.append("mark", iteration=[self.position.iteration])
        self.seconds["checkpoint"] += time.perf_counter() - begun
