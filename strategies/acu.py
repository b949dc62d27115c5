"""Analytic continual unlearning (ACU, 2025): frozen features, a ridge classifier, exact forgetting.

With rows x of features, perhaps expanded at random to max(0, f(x) B), and one-hot targets y:
    W = argmin sum |x W - y|^2 + gamma |W|^2 = (A + gamma I)^-1 Q,   A = sum x^T x,  Q = sum x^T y
New rows are added to A and Q, withdrawn ones are subtracted: W is then what training on the
retained rows alone would give, from the withdrawn rows and without any other data. What the
backbone has learned before is outside of this guarantee. Derived from the paper's abstract
(arXiv 2505.12239) and, for the learning half, from ACIL (Zhuang et al., 2022): no code is public.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from clframe.api import (
    CLOSED,
    Batch,
    DataError,
    Experience,
    Frozen,
    Net,
    Readout,
    RidgeInverse,
    RidgeMoments,
    Strategy,
    StreamInfo,
    check_above,
    check_choice,
    check_least,
    evaluating,
    gather,
    needs_forget_data,
    part,
    shared_rng,
)

FORMS = {"moments": RidgeMoments, "inverse": RidgeInverse}
CHUNK = 500  # images that go through the backbone at once


class Acu(Strategy):
    """One pass, no gradients: each batch updates a ridge classifier, each request downdates it.

    gamma: what the squared weights cost (0.1); added once, however many experiences come.
    expansion: width of the fixed random features (8192 on CIFAR-100 as published for ACIL); null
        takes the backbone's own. Time per solve grows with its cube, memory with its square.
    form: what is kept: "moments" (A and Q: exact to rounding, solved when it is evaluated) or
        "inverse" (W and (A + gamma I)^-1: no solve, and refuses requests it has no digits for).

    The network's backbone is frozen as it comes: give it one worth having by `net.pretrain`. Every
    image is seen once, unaugmented, whatever the run's epochs are. The ids of the learned samples
    are kept, and a request for others is refused; it must hand its data over (forget_data=true).
    A class without rows is closed. Features are as exact as the run's precision: with
    precision=64 what is subtracted is what was added to 16 digits, else to 7.
    """

    counts: Tensor

    def __init__(
        self, *, gamma: float = 0.1, expansion: int | None = None, form: str = "moments"
    ) -> None:
        super().__init__()
        check_above(0, gamma=gamma)
        check_least(1, expansion=expansion)
        check_choice(FORMS, form=form)
        self.gamma, self.expansion, self.form = gamma, expansion, form
        self.learned: dict[int, int] = {}  # how often each sample was learned, by its uid

    def attach(self, net: Net, info: StreamInfo) -> None:
        super().attach(net, info)
        net.freeze()
        net.requires_grad_(False)  # the head is not used
        width = net.num_features
        basis = torch.rand(width, self.expansion or 0, generator=shared_rng("acu/expansion"))
        self.expand = _Expansion((2 * basis - 1) * width**-0.5)
        self.width = self.expansion or width
        self.ridge = FORMS[self.form](self.width, info.num_classes, gamma=self.gamma)
        self.register_buffer("counts", torch.zeros(info.num_classes, dtype=torch.long))

    def budget(self, exp: Experience) -> int | None:
        """One pass; a request needs no step, but the data."""
        if exp.kind == "learn":
            return 1
        needs_forget_data(self, exp)
        return None

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Nothing is minimised by steps."""
        return {}

    @torch.no_grad()
    def after_batch(self, batch: Batch) -> None:
        x, y, uid = gather(self._rows(batch.x), batch.y), gather(batch.y), gather(batch.uid)
        self.ridge.learn(x, y)
        self.counts += y.bincount(minlength=len(self.counts))
        for u in uid.tolist():
            self.learned[u] = self.learned.get(u, 0) + 1

    @torch.no_grad()
    def forget(self, exp: Experience) -> bool:
        """Subtract the withdrawn rows, each as often as it had come."""
        needs_forget_data(self, exp)
        uids, times = exp.train.uid.tolist(), exp.times or (1,) * len(exp.train)
        for uid, count in zip(uids, times, strict=True):
            if self.learned.get(uid, 0) < count:
                raise DataError(
                    f"requests: sample {uid} was learned {self.learned.get(uid, 0)} times, and "
                    f"cannot be forgotten {count} times; leave it out of the request."
                )
        device = self.counts.device
        repeats = torch.tensor(times, device=device)
        share = part(len(exp.train))
        x = gather(self._rows(exp.train.x[share])).repeat_interleave(repeats, 0)
        y = exp.train.y.to(device).repeat_interleave(repeats)
        self.ridge.forget(x, y)
        for uid, count in zip(uids, times, strict=True):
            self.learned[uid] -= count
            if not self.learned[uid]:
                del self.learned[uid]
        self.counts -= y.bincount(minlength=len(self.counts))
        self.ridge.clear(torch.nonzero(self.counts == 0).flatten().tolist())
        return True

    def _rows(self, x: Tensor) -> Tensor:
        """What the classifier is fitted on, [n, d], of raw inputs."""
        gain = self.net.gain
        found = [gain.new_zeros(0, self.width)]
        with evaluating(self):
            for some in x.split(CHUNK) if len(x) else ():
                found.append(self._encode(some.to(gain.device)))
        return torch.cat(found)

    def _encode(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # learned and forgotten alike
            out: Tensor = self.expand(self.net.features(x))
            return out

    def _classify(self, rows: Tensor) -> Tensor:
        """Logits in double precision; classes without rows are closed."""
        with torch.autocast(rows.device.type, enabled=False):
            return (rows.double() @ self.ridge.weight).masked_fill(self.counts == 0, CLOSED)

    def predict(self, x: Tensor, task: Tensor | None) -> Tensor:
        return self._classify(self._encode(x))

    def frozen_features(self) -> Frozen:
        def classify(rows: Tensor, task: Tensor | None) -> Tensor:
            return self._classify(rows)

        readouts: dict[str, Readout] = {"net": classify}
        return Frozen(self._encode, nn.ModuleList([self.net.backbone, self.expand]), readouts)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        ledger = torch.tensor(sorted(self.learned.items()), dtype=torch.long)
        destination[f"{prefix}learned"] = ledger.view(-1, 2)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        self.learned = dict(state_dict.pop(f"{prefix}learned").tolist())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class _Expansion(nn.Module):
    """Features [n, D] as they are, or behind a fixed random layer of `basis` [D, d]."""

    basis: Tensor

    def __init__(self, basis: Tensor) -> None:
        super().__init__()
        self.register_buffer("basis", basis)

    def forward(self, features: Tensor) -> Tensor:
        return (features @ self.basis).relu() if self.basis.shape[1] else features
