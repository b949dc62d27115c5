"""Classification by the nearest of stored features, each group compared on units of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from clframe.core.memory import Archive


class Group(NamedTuple):
    """Stored rows that are compared on the same units.

    rows: features of length 1 (or 0) on these units, [r, u]; y: labels, [r]; units: [d] bool.
    """

    rows: Tensor
    y: Tensor
    units: Tensor

    @classmethod
    def of(cls, features: Tensor, y: Tensor, units: Tensor) -> Group:
        """From features of full width [r, d]."""
        return cls(F.normalize(features[:, units]), y, units)

    def distances(self, features: Tensor) -> Tensor:
        """Euclidean, of features [n, d] on the group's units at length 1; [n, r]."""
        queries = F.normalize(features[:, self.units])
        return torch.cdist(queries, self.rows, compute_mode="use_mm_for_euclid_dist")


def vote(
    features: Tensor, groups: Sequence[Group], k: int, num_classes: int, *, pooled: bool = True
) -> Tensor:
    """Scores [n, num_classes] by the labels of the k nearest rows; ties go to the smaller label.

    A class has its share, below 1, of the votes within its own group; the winner of the vote over
    all groups has 1 more, if `pooled`. So the largest score is the winner's, and where only the
    classes of another group compete, that of the vote which they hold among themselves. Classes
    without rows have -1. No class may be in two groups.
    """
    scores = features.new_full((len(features), num_classes), -1.0)
    nearest, labels = [], []
    for group in groups:
        near = group.distances(features).topk(min(k, len(group.y)), largest=False)
        nearest.append(near.values)
        labels.append(group.y[near.indices])
        scores[:, group.y] = 0.0
    if not groups:
        return scores
    among, of = torch.cat(nearest, 1), torch.cat(labels, 1)
    scores += _count(of, num_classes) / (k + 1)
    if pooled:
        best = among.topk(min(k, among.shape[1]), largest=False).indices
        winner = _count(of.gather(1, best), num_classes).argmax(1)
        scores += F.one_hot(winner, num_classes)
    return scores


def _count(labels: Tensor, num_classes: int) -> Tensor:
    """How often each class is in each row of labels [n, k], int64 [n, num_classes]."""
    counts = labels.new_zeros(len(labels), num_classes)
    return counts.scatter_add(1, labels, torch.ones_like(labels))


class Neighbours(Archive):
    """Features that classify by a vote: columns features [n, d], y, group, uid."""

    def __init__(self) -> None:
        super().__init__()
        self._groups: tuple[Tensor, list[Group]] | None = None

    def vote(
        self,
        features: Tensor,
        k: int,
        num_classes: int,
        units_of: Callable[[int], Tensor],
        *,
        pooled: bool = True,
    ) -> Tensor:
        """`vote` of all rows; units_of(group) -> [d] bool may change only when rows do."""
        stored = self.column("features")
        if self._groups is None or self._groups[0] is not stored:
            y, group = self.column("y"), self.column("group")
            of = {g: group == g for g in group.unique().tolist()}
            self._groups = stored, [Group.of(stored[r], y[r], units_of(g)) for g, r in of.items()]
        return vote(features, self._groups[1], k, num_classes, pooled=pooled)
