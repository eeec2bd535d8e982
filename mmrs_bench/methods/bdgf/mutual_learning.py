"""The loss of mutual learning: branches predict the labels, with similar entropies and similar features.

Letters: b batch, k classes; i and j branches, with softmax p_i and features z_i.

Reference: BDGF (Liu et al., arXiv 2509.23310), abstract: mutual learning aligns the probability entropy and the feature
similarity of the branches. Deep mutual learning (Zhang et al. 2018), equations 3 and 4, for the optional divergence.
Deviation: our reading of the abstract; the authors' code could not be obtained. Both alignments have the simplest
symmetric form.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from mmrs_bench.methods.bdgf.guided_branches import BranchOutput


class MutualLoss(NamedTuple):
    """The loss and its unweighted parts (scalars).

    Attributes:
        total: The weighted sum.
        cross_entropy: Sum over branches.
        entropy: Sum over pairs of branches of the squared difference of their entropies (nats squared).
        similarity: Sum over pairs of 1 - cosine of their features.
        divergence: Sum over ordered pairs of KL(p_j || p_i), in nats, with a gradient for branch i only.
    """

    total: Tensor
    cross_entropy: Tensor
    entropy: Tensor
    similarity: Tensor
    divergence: Tensor


def mutual_loss(
    outputs: Sequence[BranchOutput],
    classes: Tensor,
    *,
    entropy_weight: float,
    similarity_weight: float,
    divergence_weight: float,
) -> MutualLoss:
    """The loss of branches that learn together; each part is a mean over its samples.

    sum_i CE(p_i, y) + lambda_e sum_(i<j) (H(p_i) - H(p_j))^2 + lambda_f sum_(i<j) (1 - cos(z_i, z_j))
    + lambda_k sum_(i!=j) KL(sg(p_j) || p_i), where sg stops the gradient. A single branch has the first sum only.

    Args:
        outputs: Outputs of the branches.
        classes: Class indices of the first samples; the cross-entropy ignores the others, which are unlabelled.
        entropy_weight: lambda_e.
        similarity_weight: lambda_f.
        divergence_weight: lambda_k; 0 for the abstract, which names no divergence.

    Returns:
        The loss and its parts in float32, also under autocast.

    Deviation: the divergence is summed over the other branches, where Zhang et al. take their mean, and all branches
    learn in one step rather than in turn.
    """
    logs = [output.logits.float().log_softmax(dim=1) for output in outputs]
    features = [output.features.float() for output in outputs]
    entropies = [-(log.exp() * log).sum(dim=1) for log in logs]
    zero = logs[0].new_zeros(())
    cross_entropy = sum((F.nll_loss(log[: len(classes)], classes) for log in logs), zero)
    entropy = sum(((one - other).square().mean() for one, other in combinations(entropies, 2)), zero)
    cosines = (F.cosine_similarity(one, other, dim=1) for one, other in combinations(features, 2))
    similarity = sum((1 - cosine.mean() for cosine in cosines), zero)
    divergence = sum((_divergence(one, other) + _divergence(other, one) for one, other in combinations(logs, 2)), zero)
    total = cross_entropy + entropy_weight * entropy + similarity_weight * similarity + divergence_weight * divergence
    return MutualLoss(total, cross_entropy, entropy, similarity, divergence)


def _divergence(teacher: Tensor, learner: Tensor) -> Tensor:
    """KL(teacher || learner) of log-probabilities (b, k), without a gradient for the teacher."""
    return F.kl_div(learner, teacher.detach(), reduction="batchmean", log_target=True)
