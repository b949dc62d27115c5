"""FeTrIL (Petit et al., 2023): a frozen backbone, and old classes faked from new ones' features.

The backbone learns the first experience and is frozen. After every experience, each past class p
gets pseudo-features from features f of a new class c, where mu are the classes' mean features:
    f' = f + mu(p) - mu(c)                                                       (eq. 1)
A linear classifier is then fitted anew on the L2-normalised features of new classes and
pseudo-features of past ones; it sees f(x) / |f(x)| of a test image as well. No image and no
feature outlives its experience. Where paper and code differ: sources are chosen by cosine (paper),
and a past class gets as many pseudo-features as its source has features (code).

As published, the first experience is trained by SGD (batch 128, 160 epochs, lr 0.1, momentum 0.9,
weight decay 1e-4, a tenth of the rate at epochs 50, 100 and 150): see conf/grid/fetril_table.yaml.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clframe.api import (
    CLOSED,
    ConfigError,
    Experience,
    Frozen,
    Net,
    Samples,
    Strategy,
    StreamInfo,
    agreed,
    check_above,
    check_choice,
    check_least,
    evaluating,
    gather,
    linear_svm,
    part,
    shared_rng,
)

CHUNK = 500  # images that go through the backbone at once
BATCH = 128  # of fc


class Fetril(Strategy):
    """Exemplar-free: mean features, translated features, a classifier refit per experience.

    selection: where a past class's pseudo-features come from: "k" (the k-th most similar new
        class), "rand" (drawn from all new classes) or "herd" (chosen from all of them, greedily,
        so that their running mean stays at the past class's).
    k: rank of the new class, from 1; with fewer new classes the last of them.
    metric: similarity of mean features: "cosine" (the paper) or "euclidean" (its code).
    head: "svc" (one-vs-rest linear support vector machines) or "fc" (softmax, by SGD).
    c: what an error weighs against the norm of the weights, of svc.
    neg_ratio: negatives drawn per positive in each one-vs-rest problem of svc; null takes all.
    fc_epochs: passes of fc over the features (50).
    fc_lr: its learning rate, a tenth of it whenever the loss stalls for 10 epochs.
    """

    sums: Tensor
    counts: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        *,
        selection: str = "k",
        k: int = 1,
        metric: str = "cosine",
        head: str = "svc",
        c: float = 1.0,
        neg_ratio: float | None = None,
        fc_epochs: int = 50,
        fc_lr: float = 0.1,
    ) -> None:
        super().__init__()
        check_choice(("k", "rand", "herd"), selection=selection)
        check_choice(("cosine", "euclidean"), metric=metric)
        check_choice(("svc", "fc"), head=head)
        if k < 1:
            raise ConfigError(f"k: {k} is no rank; 1 is the most similar class.")
        check_above(0, c=c, fc_lr=fc_lr, neg_ratio=neg_ratio)
        check_least(1, fc_epochs=fc_epochs)
        if neg_ratio is not None and head == "fc":
            raise ConfigError(f"neg_ratio: {neg_ratio} goes with head=svc; leave it out for fc.")
        self.selection, self.k, self.metric, self.head = selection, k, metric, head
        self.c, self.neg_ratio, self.fc_epochs, self.fc_lr = c, neg_ratio, fc_epochs, fc_lr
        self.fitted = False

    def attach(self, net: Net, info: StreamInfo) -> None:
        super().attach(net, info)
        num, width = info.num_classes, net.num_features
        self.register_buffer("sums", torch.zeros(num, width, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(num, dtype=torch.long))
        self.register_buffer("weight", torch.zeros(num, width))
        self.register_buffer("bias", torch.full((num,), CLOSED))

    @property
    def centroids(self) -> Tensor:
        """Mean feature of each class, [C, D] float64; zero for a class that has not come."""
        return self.sums / self.counts.clamp(min=1)[:, None]

    def budget(self, exp: Experience) -> int | None:
        """The first experience takes the run's epochs; after it there is nothing to train."""
        return None if exp.index == 0 else 0

    @torch.no_grad()
    def end(self, exp: Experience) -> bool:
        self._freeze()
        features, y = self._features(exp.train)
        new = y.unique()
        past = torch.nonzero(self.counts).flatten()
        past = past[~torch.isin(past, new)]
        self._count(features, y, torch.ones_like(y))
        table, labels = [features], [y]
        for p in past.tolist():
            table.append(self._pseudo_features(p, features, y, new))
            labels.append(torch.full((len(table[-1]),), p, device=y.device))
        self._fit(F.normalize(torch.cat(table)), torch.cat(labels))
        return True

    def _freeze(self) -> None:
        self.net.freeze()
        self.net.requires_grad_(False)  # the head has done its work, too
        self.fitted = True

    def _features(self, data: Samples) -> tuple[Tensor, Tensor]:
        """Raw features [n, D] float64 and labels [n] of all rows, on every rank."""
        share, device = part(len(data)), self.net.gain.device
        found = [data.x.new_zeros(0, self.net.num_features, dtype=self.net.gain.dtype).to(device)]
        with evaluating(self.net):
            for x in data.x[share].split(CHUNK):
                found.append(self.net.features(x.to(device)))
        return gather(torch.cat(found)).double(), data.y.to(device)

    def _count(self, features: Tensor, y: Tensor, times: Tensor) -> None:
        """Add each row of features to its class's sum so many times."""
        self.sums.index_add_(0, y, features * times[:, None])
        self.counts.index_add_(0, y, times)

    def _pseudo_features(self, past: int, features: Tensor, y: Tensor, new: Tensor) -> Tensor:
        """Features of the class `past`, which is not there, from those of `new` classes, [s, D]."""
        centroids = self.centroids
        if self.selection == "k":
            source = ranked(centroids[past], centroids[new], self.metric)
            rows = torch.nonzero(y == new[source[min(self.k, len(new)) - 1]]).flatten()
        else:
            size = min(int(self.counts[past]), len(y))
            if self.selection == "rand":
                lots = torch.randperm(len(y), generator=shared_rng("fetril/rand"))
                rows = lots[:size].to(y.device)
            else:
                rows = herd(features - centroids[y], size)
        return translate(features[rows], centroids[y[rows]], centroids[past])

    def _fit(self, x: Tensor, y: Tensor) -> None:
        """Replace the classifier by one of normalised rows `x` [n, D] with labels `y` [n]."""
        classes = y.unique()
        rows = self._softmax(x, y, classes) if self.head == "fc" else self._svc(x, y, classes)
        self.weight.zero_()[classes] = rows[:, :-1].to(self.weight)
        self.bias.fill_(CLOSED)[classes] = rows[:, -1].to(self.bias)

    def _svc(self, x: Tensor, y: Tensor, classes: Tensor) -> Tensor:
        """[len(classes), D + 1]: each rank solves its share of the one-vs-rest problems."""
        problems = [(y == c, self._drawn(y == c)) for c in classes]  # all draws on every rank
        mine = problems[part(len(problems))]
        found = [linear_svm(x[rows], positive[rows], c=self.c) for positive, rows in mine]
        return gather(torch.stack(found) if found else x.new_zeros(0, x.shape[1] + 1))

    def _drawn(self, positive: Tensor) -> Tensor | slice:
        """The rows of one problem: all of them, or the positive ones and some of the others."""
        if self.neg_ratio is None:
            return slice(None)
        negative = torch.nonzero(~positive).flatten()
        lots = torch.randperm(len(negative), generator=shared_rng("fetril/negatives"))
        size = round(self.neg_ratio * int(positive.sum()))
        return torch.cat(
            [torch.nonzero(positive).flatten(), negative[lots[:size].to(positive.device)]]
        )

    def _softmax(self, x: Tensor, y: Tensor, classes: Tensor) -> Tensor:
        """[len(classes), D + 1]: a linear layer by SGD, on every rank alike; rank 0's counts."""
        x, target = x.to(self.weight), torch.searchsorted(classes, y)
        g = shared_rng("fetril/softmax")
        first = torch.rand(len(classes), x.shape[1] + 1, generator=g) * 2 - 1
        rows = nn.Parameter(first.to(x) * x.shape[1] ** -0.5)
        optimizer = torch.optim.SGD([rows], self.fc_lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=10)
        with torch.enable_grad():
            for _ in range(self.fc_epochs):
                total = x.new_zeros(())
                for some in torch.randperm(len(x), generator=g).to(x.device).split(BATCH):
                    logits = F.linear(x[some], rows[:, :-1], rows[:, -1])
                    loss = F.cross_entropy(logits, target[some])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    total += loss.detach() * len(some)
                schedule.step(total)
        return agreed(rows.detach().cpu()).to(x.device)

    @torch.no_grad()
    def forget(self, exp: Experience) -> bool:
        """Drop classes of which nothing is left; of others, take out the features that may be read.

        Where the request withdraws a part of a class without `data: true`, its mean stays.
        """
        if not self.fitted:
            return False
        if len(exp.train):
            features, y = self._features(exp.train)
            self._count(features, y, -torch.tensor(exp.times, device=y.device))
        self.counts[list(exp.emptied)] = 0
        gone = self.counts == 0
        self.sums[gone], self.weight[gone], self.bias[gone] = 0.0, 0.0, CLOSED
        return len(exp.emptied) > 0

    def predict(self, x: Tensor, task: Tensor | None) -> Tensor:
        return self._classify(self.net.features(x)) if self.fitted else self.net(x)

    def _classify(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(F.normalize(features.to(self.weight)), self.weight, self.bias)

    def frozen_features(self) -> Frozen | None:
        if not self.fitted:
            return None

        def classify(features: Tensor, task: Tensor | None) -> Tensor:
            return self._classify(features)

        return Frozen(self.net.features, self.net.backbone, {"net": classify})

    def get_extra_state(self) -> dict[str, Any]:
        return {"fitted": self.fitted}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if state["fitted"]:
            self._freeze()


def translate(features: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Equation 1: rows [n, D], each moved from its class's mean [n, D] to the mean `target` [D]."""
    return features + (target - source)


def ranked(target: Tensor, centroids: Tensor, metric: str) -> Tensor:
    """The rows of `centroids` [n, D] from the most to the least similar to `target` [D]."""
    if metric == "cosine":
        similar = F.cosine_similarity(target[None], centroids, dim=1)
    else:
        similar = -(centroids - target).norm(dim=1)
    return similar.argsort(descending=True, stable=True)


def herd(residuals: Tensor, size: int) -> Tensor:
    """`size` distinct rows [size], each next one keeping the mean of the chosen nearest to zero.

    Rows f + mu(p) - mu(c) lie about mu(p) as f - mu(c) [n, D] do about zero, whatever p is.
    """
    squares, total = residuals.square().sum(1), torch.zeros_like(residuals[0])
    chosen = []
    for _ in range(size):
        best = (squares + 2 * (residuals @ total)).argmin()  # |total + r|^2, but for a constant
        total = total + residuals[best]
        squares[best] = torch.inf
        chosen.append(best)
    return torch.stack(chosen)
