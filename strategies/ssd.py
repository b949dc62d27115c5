"""Selective synaptic dampening (SSD; Foster et al., 2024): shrink what only the forgotten needs.

With I_S,i the importance of weight i for a set S, D all training data and F what is to be forgotten
(a part of D), at a request and without a step:
    theta_i <- min(lam I_D,i / I_F,i, 1) theta_i     wherever     I_F,i > alpha I_D,i
I is the diagonal of the empirical Fisher matrix, the mean of (d CE / d theta_i)^2. As released it
is taken over batches, of the gradient of the batch's mean (`fisher: batch`), and so depends on
their size; `loss: norm` (LFSSD; Foster et al., 2024b) is the mean of |d |f(x)|^2 / d theta_i|,
without labels. By default I_D is the mean over experiences, each measured when it ended, weighted
by its samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from clframe.api import (
    ConfigError,
    Experience,
    Net,
    ReplayBuffer,
    Samples,
    Strategy,
    StreamInfo,
    Wrapper,
    check_choice,
    check_least,
    evaluating,
    fisher_diagonal,
    frozen_state,
    needs_plain_net,
    part,
    total,
)

Weights = dict[str, Tensor]


class Ssd(Wrapper):
    """Any learner; at a forget request, one dampening of the weights that it names.

    alpha: how much more than for all data a weight must matter for the forgotten (10).
    lam: how much of such a weight is left (1): less than lam / alpha of it.
    fisher: "batch" (squares of a batch's mean gradient, as released) or "per_sample".
    loss: "cross_entropy", or "norm" of the logits, which needs no labels (LFSSD).
    batch_size: of both sets (64); importances shrink as it grows.
    source: of the importance for all data: "stale" (of each experience as it ended), "buffer" (the
        base's replay memory, now) or "oracle" (all data, now; read for it: an upper bound).
    floor: share of its tensor's largest I_D that is added to I_D, lest weights that matter for
        nothing else become 0 (0; 1e-12 is enough).

    What is forgotten is measured now where the request hands it over (forget_data=true), else, if
    it is whole experiences, as it was when they ended. Where both are measured alike (`stale`
    without the data; `oracle` sample by sample), I_F <= I_D n_D / n_F: an alpha of that ratio of
    samples or more selects nothing. A part of an experience stays in its importance. Running
    statistics of batch norm stay, too, and with `optim.reset: never` the optimizer's memory, which
    regrows what was dampened.
    """

    only_forgets: ClassVar[bool] = True

    def __init__(
        self,
        base: Strategy,
        *,
        alpha: float = 10.0,
        lam: float = 1.0,
        fisher: str = "batch",
        loss: str = "cross_entropy",
        batch_size: int = 64,
        source: str = "stale",
        floor: float = 0.0,
    ) -> None:
        super().__init__(base)
        check_choice(("batch", "per_sample"), fisher=fisher)
        check_choice(("cross_entropy", "norm"), loss=loss)
        check_choice(("stale", "buffer", "oracle"), source=source)
        check_least(0, alpha=alpha, lam=lam, floor=floor)
        check_least(1, batch_size=batch_size)
        self.alpha, self.lam, self.floor = alpha, lam, floor
        self.fisher, self.kind, self.source = fisher, loss, source
        self.size = 1 if fisher == "per_sample" else batch_size
        self.kept: dict[int, tuple[int, Weights]] = {}  # by position: samples, importances
        self.selected: dict[int, dict[str, float]] = {}  # by request: the share of each tensor
        self._brought: dict[int, Tensor] = {}  # by position: the uids that an experience brings
        self._everything: Samples | None = None

    def attach(self, net: Net, info: StreamInfo) -> None:
        super().attach(net, info)
        if self.source == "buffer" and not self._buffers_of_base():
            raise ConfigError(
                "source: 'buffer' needs a base with a replay memory of raw samples, such as "
                "replay; use source=stale."
            )

    def budget(self, exp: Experience) -> int | None:
        if exp.kind == "learn":
            self._brought[exp.index] = exp.train.uid
            return self.base.budget(exp)
        needs_plain_net(self, exp)
        brought = [self._brought[i] for i in exp.forgets if i in self._brought]
        whole = bool(brought) and bool(torch.isin(torch.tensor(exp.uids), torch.cat(brought)).all())
        if not len(exp.train) and (not whole or self.source == "oracle"):
            raise ConfigError(_missing(exp, self.source))
        # a step without a loss, so that all data is asked for, and recorded
        return 1 if self.source == "oracle" else None

    def data(self, exp: Experience, past: Sequence[Experience]) -> Samples | None:
        own = self.base.data(exp, past)
        if exp.kind == "learn" or self.source != "oracle":
            return own
        self._everything = Samples.cat([*(e.train for e in past), exp.train]).once()
        return self._everything if own is None else own

    def end(self, exp: Experience) -> bool | None:
        changed = super().end(exp)
        if self.source != "oracle":  # which is always handed what is to be forgotten
            found = self.importance(exp.train)
            self.kept[exp.index] = (len(exp.train), {k: v.cpu() for k, v in found.items()})
        return changed

    def importance(self, data: Samples) -> Weights:
        """Of each trainable weight of the net for `data`, at the weights as they are now."""
        if self.fisher == "per_sample" and self.kind == "cross_entropy":
            return fisher_diagonal(self.net, data, torch.arange(len(data)))
        batches = torch.arange(len(data)).split(self.size)
        sums = importance_sums(self.net, data, batches[part(len(batches))], self.kind)
        like = dict(self.net.named_parameters())
        return {k: (total(v) / max(1, len(batches))).to(like[k].dtype) for k, v in sums.items()}

    def forget(self, exp: Experience) -> bool | None:
        forgotten = self._of_forgotten(exp)
        everything = self._of_everything()  # before the base drops rows: they are a part of it
        changed = bool(self.base.forget(exp))
        shares = {}
        for name in [n for n in forgotten if n in everything]:
            weight, now, ever = self.net.get_parameter(name), forgotten[name], everything[name]
            if weight.requires_grad:
                ever = ever + self.floor * ever.max()
                weight.data.copy_(dampen(weight.data, ever, now, self.alpha, self.lam))
                shares[name] = float(chosen(ever, now, self.alpha).double().mean())
        self.selected[exp.index] = shares
        for position in exp.forgets:
            self.kept.pop(position, None)
        self._everything = None
        return changed or any(share > 0 for share in shares.values())

    def _of_forgotten(self, exp: Experience) -> Weights:
        if len(exp.train):
            return self.importance(exp.train)
        gone = [self.kept[i] for i in exp.forgets if i in self.kept]
        if not gone:
            raise ConfigError(_missing(exp, self.source))
        return self._here(mean_importance(gone))

    def _of_everything(self) -> Weights:
        if self.source == "stale":
            return self._here(mean_importance(list(self.kept.values())))
        if self.source == "oracle":
            assert self._everything is not None, "data() comes before forget()"
            return self.importance(self._everything)
        rows = [b for b in self._buffers_of_base() if len(b)]
        if not rows:
            raise ConfigError("source: 'buffer' found the memory empty; use source=stale.")
        columns = ("x", "y", "y", "uid")  # tasks are not looked at
        return self.importance(
            Samples.cat([Samples(*(b.column(c) for c in columns)) for b in rows])
        )

    def _buffers_of_base(self) -> list[ReplayBuffer]:
        return [m for m in self.base.modules() if isinstance(m, ReplayBuffer)]

    def _here(self, weights: Weights) -> Weights:
        return {name: value.to(self.net.gain.device) for name, value in weights.items()}

    def get_extra_state(self) -> dict[str, Any]:
        counts = {at: n for at, (n, _) in self.kept.items()}
        return {"counts": counts, "selected": {at: dict(s) for at, s in self.selected.items()}}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.kept = {at: (n, {}) for at, n in state["counts"].items()}
        self.selected = {at: dict(shares) for at, shares in state["selected"].items()}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for at, (_, values) in self.kept.items():
            destination.update({f"{prefix}kept.{at}.{name}": v for name, v in values.items()})

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        keys = [key for key in state_dict if key.startswith(f"{prefix}kept.")]
        found = {tuple(k.removeprefix(f"{prefix}kept.").split(".", 1)): k for k in keys}
        values = {place: state_dict.pop(key) for place, key in found.items()}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        for (at, name), value in values.items():
            self.kept[int(at)][1][name] = value.cpu()


def chosen(i_all: Tensor, i_forget: Tensor, alpha: float) -> Tensor:
    """Whether each weight matters so much more for the forgotten than for all."""
    return i_forget > alpha * i_all


def dampen(theta: Tensor, i_all: Tensor, i_forget: Tensor, alpha: float, lam: float) -> Tensor:
    """Weights `theta`; those that their importances choose are made smaller, and never larger."""
    tiny = torch.finfo(i_forget.dtype).tiny
    factor = (lam * i_all / i_forget.clamp(min=tiny)).clamp(max=1).to(theta.dtype)
    return torch.where(chosen(i_all, i_forget, alpha), theta * factor, theta)


def mean_importance(entries: Sequence[tuple[int, Mapping[str, Tensor]]]) -> Weights:
    """Of the union of sets, each with its number of samples and its importances."""
    number = max(1, sum(n for n, _ in entries))
    names = set().union(*(values for _, values in entries)) if entries else set()
    return {
        name: sum(n * values[name].double() for n, values in entries if name in values).div(number)
        for name in sorted(names)
    }


def importance_sums(net: Net, data: Samples, batches: Sequence[Tensor], kind: str) -> Weights:
    """Sums over batches ([n] rows of `data` each) of this rank, float64, before any division."""
    weights = {name: p for name, p in net.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in weights.items()}
    device = net.gain.device
    plain = torch.autocast(device.type, enabled=False)
    with frozen_state(net), evaluating(net), plain, torch.enable_grad():
        for index in batches if weights else ():
            batch = data.take(index.to(data.y.device))
            logits = net(batch.x.to(device))
            if kind == "norm":
                loss = net.without_closed(logits).square().sum(1).mean()
            else:
                loss = F.cross_entropy(logits, batch.y.to(device))
            found = torch.autograd.grad(loss, [*weights.values()], allow_unused=True)
            for whole, g in zip(sums.values(), found, strict=True):
                if g is not None:
                    whole += g.double().abs() if kind == "norm" else g.double().square()
    return sums


def _missing(exp: Experience, source: str) -> str:
    what = "always" if source == "oracle" else "unless it is whole experiences"
    return (
        f"requests[{exp.index}]: ssd with source={source} reads what it is to forget, {what}, and "
        "the request does not hand it over; set forget_data=true, or data: true in the request."
    )
