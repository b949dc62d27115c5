"""Correct predictions under three masks, from one forward, however the logits are had."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from clframe.core.strategy import Readout
from clframe.evaluation.bank import View

MASKS = ("seen", "all", "task")

Look = Callable[[Readout, Tensor, "Tensor | None", Tensor], Tensor]


def plain(readout: Readout, x: Tensor, task: Tensor | None, masks: Tensor) -> Tensor:
    """Logits as the run itself computes them, [n, num_classes]."""
    return readout(x, task)


def count(
    view: View,
    readouts: Mapping[str, Readout],
    seen: Tensor,
    own: Tensor,
    *,
    chunk: int,
    look: Look = plain,
) -> Tensor:
    """Correct predictions on each experience of `view`, [len(readouts) * 3, experiences] int64.

    `seen` [num_classes] and `own` [experiences, num_classes] are additive masks: 0 for classes seen
    so far, or of the row's own experience, and -inf elsewhere. Rows of the result are ordered
    readout by readout, within one by `MASKS`. `chunk` bounds one forward.
    """
    upto = len(view.totals)
    with torch.inference_mode():
        hits = [_hits(view, readout, seen, own, chunk, look) for readout in readouts.values()]
        correct = torch.cat(hits)
        if view.even:
            return correct.view(len(correct), upto, -1).sum(2)
        out = torch.zeros((len(correct), upto), dtype=torch.long, device=correct.device)
        return out.index_add_(1, view.owner, correct.long())


def _hits(
    view: View, readout: Readout, seen: Tensor, own: Tensor, chunk: int, look: Look
) -> Tensor:
    """Whether each row is right under each mask, [3, n]."""
    pieces = []
    for start in range(0, len(view.y), chunk):
        rows = slice(start, start + chunk)
        mine = own.index_select(0, view.owner[rows])
        masks = torch.stack((seen.expand_as(mine), torch.zeros_like(mine), mine))
        task = None if view.task is None else view.task[rows]
        logits = look(readout, view.x[rows], task, masks)
        pieces.append((logits + masks).max(2).indices == view.y[rows])
    if not pieces:
        return torch.zeros((len(MASKS), 0), dtype=torch.bool, device=view.y.device)
    return torch.cat(pieces, 1) if len(pieces) > 1 else pieces[0]
