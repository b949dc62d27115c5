"""Loss terms that several strategies share; each is a mean over the global batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clframe.core import dist


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy; logits [n, C], y [n] int64."""
    if dist.world() == 1 and len(y):
        return F.cross_entropy(logits, y)  # four fewer nodes in the graph
    return dist.mean(F.cross_entropy(logits, y, reduction="none"), y)


def mean_squared_error(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over all n x C entries, as in the code of DER (the paper writes a squared norm)."""
    return dist.mean(F.mse_loss(logits, target, reduction="none").mean(1), target)


def distillation(logits: Tensor, target: Tensor, temperature: float = 2.0) -> Tensor:
    """Cross-entropy against the teacher's softened outputs (Hinton et al., 2015), [n, C] each.

    Multiplied by the squared temperature, so that its gradient keeps its scale.
    """
    soft = torch.softmax(target / temperature, 1)
    terms = -(soft * F.log_softmax(logits / temperature, 1)).sum(1)
    return dist.mean(terms) * temperature**2


def keep_classes(logits: Tensor, keep: Tensor, closed: float = -1e9) -> Tensor:
    """Logits with every class outside `keep` ([C] bool) set to a finite, very low value."""
    return logits.masked_fill(~keep, closed)
