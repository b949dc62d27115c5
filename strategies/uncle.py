"""UnCLe (arXiv 2509.17530): a hypernetwork learns tasks and forgets them without any data.

A generator H writes all weights theta_t = H(e_t; phi) of the network for task t from a code e_t.
With phi* the generator before the request, S the protected tasks, d the size of theta:
    P(S) = 1/|S| sum_{s in S} |H(e_s; phi) - H(e_s; phi*)|^2,                  P({}) = 0
    learn t:   CE(f(x; theta_t), y) + beta P(S)                  over phi and e_t
    forget f:  P(S without f) + gamma 1/n sum_i |theta_f - z_i|^2     over phi, z_i ~ N(0, 1)
z is drawn anew at each step, so the last term is |theta_f|^2 + d on average: theta_f goes to zero.
That is zero as the network sees it, norm scales too: batch norm undoes any other factor. Every
request has an Adam of its own; chunk codes learn with the first task alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clframe.api import (
    CLOSED,
    Batch,
    ConfigError,
    Experience,
    GeneratedNet,
    Hypernet,
    Net,
    Samples,
    Strategy,
    StreamInfo,
    TaskHypernet,
    check_above,
    check_choice,
    check_least,
    cross_entropy,
    generator,
    preservation,
    shared_rng,
    towards_noise,
)

DECAY, FLOOR = 0.9, 20  # of the burn-in, from one forget request to the next


def burn_in(start: int, u: int, rule: str) -> int:
    """Steps of a forget request after `u` others; "code" rounds down at each, with no floor."""
    if rule == "floor":
        return max(FLOOR, int(start * DECAY**u))
    for _ in range(u):
        start = int(DECAY * start)
    return start


class Uncle(Strategy):
    """Task-incremental learning and data-free forgetting by generated weights.

    code_size: length of the codes of tasks and chunks (32).
    widths: hidden layers of the generator (128, 256, 512).
    chunks: pieces in which it writes the weights (200).
    classes_per_task: outputs of the head that tasks share; null is what the first task needs.
    beta: weight of preservation while learning (0.1).
    gamma: weight of the noise term while forgetting (0.01).
    noise_draws: n, draws of noise per step (10).
    lr: rate of Adam while learning (0.001).
    lr_unlearn: rate of Adam while forgetting (0.001).
    lr_every: epochs after which `lr` is halved, in each request anew (25).
    clip: bound on the norm of the generator's gradient; null is none (1.0).
    burn_in: steps after u forget requests: "floor", max(20, int(100 0.9^u)), or "code", with none.
    burn_in_start: steps of the first one (100).
    protect_forgotten: forgotten tasks are protected as well, so that they stay forgotten (true).
    reg_norm: P's divisor: "protected", or "total_tasks", which while learning is all the stream's.
    relearn_code: a forgotten task that comes again has its old code ("reuse") or not ("redraw").
    bn_eval: batch norm's statistics at test time: the "task"'s, deleted with it, or the "batch"'s.
    unlearn: "noise", or "discard", which only draws another code: the trivial baseline.

    The network gives the architecture; none of its own weights is used. Protected tasks are
    generated together: their weights three times over is the memory that a step takes.
    The defaults are the published settings of permuted MNIST, which are 10 epochs, batches of 512.
    """

    usual_setting = "task"
    forgets_by = ("gamma", "noise_draws", "lr_unlearn", "burn_in", "burn_in_start", "unlearn")

    def __init__(
        self,
        *,
        code_size: int = 32,
        widths: list[int] | tuple[int, ...] = (128, 256, 512),
        chunks: int = 200,
        classes_per_task: int | None = None,
        beta: float = 0.1,
        gamma: float = 0.01,
        noise_draws: int = 10,
        lr: float = 1e-3,
        lr_unlearn: float = 1e-3,
        lr_every: int = 25,
        clip: float | None = 1.0,
        burn_in: str = "floor",
        burn_in_start: int = 100,
        protect_forgotten: bool = True,
        reg_norm: str = "protected",
        relearn_code: str = "reuse",
        bn_eval: str = "task",
        unlearn: str = "noise",
    ) -> None:
        super().__init__()
        self.code_size, self.widths, self.chunks = code_size, tuple(widths), chunks
        self.classes_per_task, self.beta, self.gamma = classes_per_task, beta, gamma
        self.noise_draws, self.lr, self.lr_unlearn = noise_draws, lr, lr_unlearn
        self.lr_every, self.clip, self.burn_in = lr_every, clip, burn_in
        self.burn_in_start, self.protect_forgotten = burn_in_start, protect_forgotten
        self.reg_norm, self.relearn_code = reg_norm, relearn_code
        self.bn_eval, self.unlearn = bn_eval, unlearn
        check_choice(("floor", "code"), burn_in=burn_in)
        check_choice(("protected", "total_tasks"), reg_norm=reg_norm)
        check_choice(("reuse", "redraw"), relearn_code=relearn_code)
        check_choice(("task", "batch"), bn_eval=bn_eval)
        check_choice(("noise", "discard"), unlearn=unlearn)
        check_least(0, beta=beta, gamma=gamma)
        check_above(0, lr=lr, lr_unlearn=lr_unlearn, clip=clip)
        check_least(1, code_size=code_size, chunks=chunks, classes_per_task=classes_per_task)
        check_least(1, noise_draws=noise_draws, lr_every=lr_every, burn_in_start=burn_in_start)
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(f"widths: {list(widths)}; give one layer or more, such as [64, 128].")
        self.norms = nn.ParameterDict()  # running statistics, by task
        self.classes: dict[int, tuple[int, ...]] = {}
        self.status: dict[int, str] = {}  # of all tasks that have come: unseen, held, forgotten
        self.learning: int | None = None
        self._task_at: dict[int, int] = {}  # by position in the stream
        self._requests: set[int] = set()

    def attach(self, net: Net, info: StreamInfo) -> None:
        super().attach(net, info)
        if info.setting != "task":
            wanted = "uncle wants task labels; set options.<scenario>.setting=task"
            raise ConfigError(f"scenario: a {info.setting}-incremental stream, and {wanted}.")
        if net.frozen:
            raise ConfigError("net.freeze: true, but uncle generates all weights; leave it out.")
        net.requires_grad_(False)
        self._seed = shared_rng("uncle").initial_seed()  # whatever is learned first

    def prepare(self, exp: Experience) -> None:
        self._note(exp)
        if not self.status:
            self._build(self.classes_per_task or len(exp.classes))
        number, outputs = exp.tasks[0], len(self.target.head.weight)
        if len(exp.classes) > outputs:
            raise ConfigError(
                f"classes_per_task: {outputs}, but task {number} has {len(exp.classes)} classes; "
                "give the largest number that any task has."
            )
        if number not in self.status:
            code = torch.randn(self.code_size, generator=generator(self._seed, "code", number))
            self.weights.codes[str(number)] = nn.Parameter(code.to(self.net.gain))
            self.norms[str(number)] = nn.Parameter(self.target.statistics(), requires_grad=False)
            self.classes[number], self.status[number] = tuple(sorted(exp.classes)), "unseen"
        self.weights.codes[str(number)].requires_grad_()

    def _build(self, outputs: int) -> None:
        """The generator, once it is known how many outputs a task needs."""
        self.target = GeneratedNet(self.net, outputs, batch_statistics=self.bn_eval == "batch")
        shapes, rng = self.target.shapes(), generator(self._seed, "generator")
        made = Hypernet(
            shapes, code_size=self.code_size, widths=self.widths, chunks=self.chunks, rng=rng
        )
        self.weights = TaskHypernet(made.to(self.net.gain))

    def _protected(self, without: Sequence[int]) -> list[int]:
        """S: the tasks whose weights a request must not change."""
        forgotten = self.protect_forgotten and self.unlearn == "noise"
        kinds = ("held", "forgotten") if forgotten else ("held",)
        return [n for n, s in sorted(self.status.items()) if s in kinds and n not in without]

    def optimizer(self, exp: Experience) -> Optimizer:
        learns = exp.kind == "learn"
        codes = [self.weights.codes[str(exp.tasks[0])]] if learns else []
        if learns and set(self.status.values()) == {"unseen"}:
            codes.append(self.weights.net.chunks)
        rate = self.lr if learns else self.lr_unlearn
        self._adam = torch.optim.Adam(self.weights.only(codes), lr=rate, fused=True)
        return self._adam

    def begin(self, exp: Experience) -> None:
        self.learning = exp.tasks[0]
        if self.status[self.learning] == "forgotten" and self.relearn_code == "redraw":
            self._redraw(self.learning)
        self.target.forget()
        self.weights.snapshot()

    @torch.no_grad()
    def _redraw(self, number: int) -> None:
        code = self.weights.codes[str(number)]
        code.copy_(torch.randn(len(code), generator=shared_rng("uncle/code")))

    def begin_epoch(self, exp: Experience, epoch: int) -> None:
        for group in self._adam.param_groups:
            group["base_lr"] = self.lr * 0.5 ** (epoch // self.lr_every)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        assert self.learning is not None
        kept, classes = self._protected([self.learning]), self._labels(self.learning)
        tasks = [self.learning, *kept]
        theta = self.weights(tasks)
        logits = self.target(self.weights.net.unpack(theta[0]), self.augment(batch.x))
        labels = torch.searchsorted(classes, batch.y)
        terms = {"new": cross_entropy(logits[:, : len(classes)], labels)}
        if kept:
            every = len(set(self._task_at.values())) if self.reg_norm == "total_tasks" else None
            change = preservation(theta[1:], self.weights.then(tasks, 1), every)
            terms["preserve"] = self.beta * change
        return terms

    def _labels(self, number: int) -> Tensor:
        return torch.tensor(self.classes[number], device=self.net.gain.device)

    def after_backward(self) -> None:
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.weights.net.weights(), self.clip)

    @torch.no_grad()
    def end(self, exp: Experience) -> None:
        """What the batch norms have seen goes to the task, and to nobody else."""
        self.norms[str(exp.tasks[0])].copy_(self.target.statistics())
        self.target.forget()
        self.status[exp.tasks[0]], self.learning = "held", None

    def data(self, exp: Experience, past: Sequence[Experience]) -> Samples | None:
        return None if exp.kind == "learn" else exp.eval  # which is empty: no data is read

    def budget(self, exp: Experience) -> int | None:
        self._note(exp)
        if exp.kind == "learn" or self.unlearn == "discard":
            return None
        return burn_in(self.burn_in_start, sum(p < exp.index for p in self._requests), self.burn_in)

    def _note(self, exp: Experience) -> None:
        """Remember what is where in the stream. Raises ConfigError for half a task to forget."""
        if exp.kind == "learn":
            self._task_at[exp.index] = exp.tasks[0]
            return
        whole = {self._task_at.get(position) for position in exp.forgets}
        if not set(exp.tasks) <= whole:
            raise ConfigError(
                f"requests[{exp.index}]: withdraws parts of tasks {list(exp.tasks)}, and uncle "
                "forgets whole ones; write {forget: {tasks: [...]}}."
            )
        self._requests.add(exp.index)

    @torch.no_grad()
    def forget(self, exp: Experience) -> bool:
        for number in exp.tasks:
            self.norms[str(number)].copy_(self.target.statistics())  # of nothing
            self.status[number] = "forgotten"
            if self.unlearn == "discard":
                self._redraw(number)
        self.weights.snapshot()
        return self.unlearn == "discard" or self.target.statistics().numel() > 0

    def forget_loss(self, exp: Experience, batch: Batch) -> dict[str, Tensor]:
        gone, kept = exp.tasks, self._protected(exp.tasks)
        tasks = [*gone, *kept]
        theta = self.weights(tasks)
        noise = [towards_noise(row, self._noise(row)) for row in theta[: len(gone)]]
        terms = {"noise": self.gamma * torch.stack(noise).sum()}
        if kept:
            then = self.weights.then(tasks, len(gone))
            terms["preserve"] = preservation(theta[len(gone) :], then)
        return terms

    def _noise(self, like: Tensor) -> Tensor:
        """n draws of the size of `like`, the same on every rank and new at every call."""
        rng = torch.Generator(like.device).manual_seed(shared_rng("uncle/noise").initial_seed())
        shape = (self.noise_draws, *like.shape)
        return torch.randn(shape, generator=rng, device=like.device, dtype=like.dtype)

    def predict(self, x: Tensor, task: Tensor | None) -> Tensor:
        if task is None:
            raise ConfigError("task: uncle picks its weights by task; give that of each row, [n].")
        shape, dtype = (len(x), self.info.num_classes), self.net.gain.dtype
        out = torch.full(shape, CLOSED, device=x.device, dtype=dtype)
        known = [n for n in task.unique().tolist() if n in self.status]
        for number, theta in zip(known, self.weights(known) if known else (), strict=True):
            rows, classes = (task == number).nonzero(), self._labels(number)
            norms = None if number == self.learning else self.norms[str(number)]
            logits = self.target(self.weights.net.unpack(theta), x[rows[:, 0]], norms)
            out[rows, classes] = logits[:, : len(classes)].to(out.dtype)
        return out

    def get_extra_state(self) -> dict[str, Any]:
        return {"status": dict(self.status), "learning": self.learning}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.status, self.learning = dict(state["status"]), state["learning"]
