"""Loss terms that several strategies share; each is a mean over the global batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clframe.core import dist
from clframe.core.net import CLOSED, cosines

GUARD = 1e-6  # of the norms between pairs of samples, as in the code of PCR


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy; logits [n, C], y [n] int64."""
    if dist.world() == 1 and len(y):
        return F.cross_entropy(logits, y)  # four fewer nodes in the graph
    return dist.mean(F.cross_entropy(logits, y, reduction="none"), y)


def mean_squared_error(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over all entries, [n, ...], as in the code of DER (the paper has a squared norm)."""
    return dist.mean(F.mse_loss(logits, target, reduction="none").flatten(1).mean(1), target)


def distillation(logits: Tensor, target: Tensor, temperature: float = 2.0) -> Tensor:
    """Cross-entropy against the teacher's softened outputs (Hinton et al., 2015), [n, C] each.

    Multiplied by the squared temperature, so that its gradient keeps its scale.
    """
    soft = torch.softmax(target / temperature, 1)
    terms = -(soft * F.log_softmax(logits / temperature, 1)).sum(1)
    return dist.mean(terms) * temperature**2


def keep_classes(logits: Tensor, keep: Tensor, closed: float = CLOSED) -> Tensor:
    """Logits with every class outside `keep` ([C] bool) set to a finite, very low value."""
    return logits.masked_fill(~keep, closed)


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """How often each class is among `labels` [N]: int64 [C], without waiting for the device."""
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)).sum(0)


def proxy_contrast(logits: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """-s_iy + log sum_c n_c exp(s_ic) for each row i, [n]; c runs over the classes with n_c > 0.

    logits: s [n, C], cosines with each class's proxy over the temperature; y: [n]. counts: n_c, the
    samples of each class in the whole global batch, [C]: a class competes once for each of them
    (PCR; Lin et al., 2023). Absent classes get no gradient at all.
    """
    own = logits.gather(1, y[:, None])
    return torch.logsumexp(logits - own + counts.log(), 1)  # small losses lose no digits this way


def pair_contrast(
    anchors: Tensor, y: Tensor, index: Tensor, candidates: Tensor, labels: Tensor, tau: float
) -> Tensor:
    """Mean over an anchor's positives of -log softmax over all candidates but itself, [n].

    anchors [n, D] with labels y [n] are the candidates numbered `index` [n]; candidates [N, D],
    labels [N]; positives have the anchor's label. A positive must be there for each. Cosines over
    the temperature `tau` (supervised contrastive loss; Khosla et al., 2020).
    """
    similar = cosines(anchors, candidates, GUARD) / tau
    itself = index[:, None] == torch.arange(len(candidates), device=index.device)
    positive = (y[:, None] == labels) & ~itself
    partition = torch.logsumexp(similar.masked_fill(itself, CLOSED), 1)
    return partition - (similar * positive).sum(1) / positive.sum(1)


def proxy_distillation(logits: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Mean of (logits - target)^2 over columns, column c taken n_c times; [n].

    logits and target: [n, C]; counts: n_c [C]. The proxy-level term of HPCR (Lin et al., 2025).
    """
    return (logits - target).square() @ (counts / counts.sum().clamp(min=1)).to(logits)


def relation_distillation(
    features: Tensor, index: Tensor, everyone: Tensor, stored: Tensor, tau: float
) -> Tensor:
    """-sum_k q_ik log p_ik for each row i, k over all rows but i; [n].

    features [n, D] are rows `index` [n] of everyone [N, D]; p is the softmax of their cosines over
    `tau`, q the same of the stored features [N, D]. The sample-level term of HPCR (Lin et al.,
    2025); at least the entropy of q, not 0. Zero for a row that is alone.
    """
    itself = index[:, None] == torch.arange(len(everyone), device=index.device)
    now = (cosines(features, everyone, GUARD) / tau).masked_fill(itself, CLOSED)
    before = (cosines(stored[index], stored, GUARD) / tau).masked_fill(itself, CLOSED)
    terms = torch.softmax(before, 1) * F.log_softmax(now, 1)
    return -terms.masked_fill(itself, 0.0).sum(1)
