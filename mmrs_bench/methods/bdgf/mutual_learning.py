"""What branches that learn together are asked for: to be right, equally sure, and to see alike.

Letters: b batch, k classes; i and j branches, with softmax p_i and features z_i.

Reference: BDGF (Liu et al., arXiv 2509.23310), abstract: mutual learning aligns the probability entropy and the feature
similarity of the branches. Deep mutual learning (Zhang et al. 2018), equations 3 and 4, for the optional divergence.
Deviation: our reading of the abstract; the authors' code could not be obtained. Both alignments have the simplest
symmetric form, weighed by 0.1 each beside a cross-entropy for every branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from mmrs_bench.methods.bdgf.guided_branches import BranchOutput


class MutualLoss(NamedTuple):
    """The loss and its parts, scalars; the parts are not weighed, and are there even where their weight is 0.

    Attributes:
        total: The weighed sum.
        cross_entropy: Sum over branches.
        entropy: Sum over pairs of branches of the squared difference of their entropies (nats squared).
        similarity: Sum over pairs of 1 - cosine of their features.
        divergence: Sum over ordered pairs of KL(p_j || p_i), in nats, that teaches i only.
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
    entropy_weight: float = 0.1,
    similarity_weight: float = 0.1,
    divergence_weight: float = 0.0,
) -> MutualLoss:
    """The loss of branches that learn together; every part is a mean over the rows that it is taken of.

    sum_i CE(p_i, y) + lambda_e sum_(i<j) (H(p_i) - H(p_j))^2 + lambda_f sum_(i<j) (1 - cos(z_i, z_j))
    + lambda_k sum_(i!=j) KL(sg(p_j) || p_i), sg stopping the gradient. Of one branch only the first sum is left.

    Args:
        outputs: What each branch says, at least one; features of one width.
        classes: Class indices from 0 of the first rows. What follows these is unlabelled, and counts in all sums but
            the first.
        entropy_weight: lambda_e.
        similarity_weight: lambda_f.
        divergence_weight: lambda_k; 0 by default, because the abstract names no divergence.

    Returns:
        The loss and its parts in float32, also under autocast.

    Reference: BDGF, abstract; Zhang et al. 2018, equations 3 and 4.
    Deviation: our reading of the abstract; the authors' code could not be obtained. The divergence is summed over the
    other branches, where Zhang et al. take their mean, and all branches learn in one step rather than in turn.
    """
    logs = [output.logits.float().log_softmax(dim=1) for output in outputs]
    features = [output.features.float() for output in outputs]
    entropies = [-(log.exp() * log).sum(dim=1) for log in logs]
    zero = logs[0].new_zeros(())
    cross_entropy = sum((F.nll_loss(log[: len(classes)], classes) for log in logs), zero)
    entropy = sum(((one - other).square().mean() for one, other in combinations(entropies, 2)), zero)
    similarity = sum(
        (1 - F.cosine_similarity(one, other, dim=1).mean() for one, other in combinations(features, 2)), zero
    )
    divergence = sum((_divergence(one, other) + _divergence(other, one) for one, other in combinations(logs, 2)), zero)
    total = cross_entropy + entropy_weight * entropy + similarity_weight * similarity + divergence_weight * divergence
    return MutualLoss(total, cross_entropy, entropy, similarity, divergence)


def _divergence(teacher: Tensor, learner: Tensor) -> Tensor:
    """KL(teacher || learner) of log-probabilities (b, k), whose gradient the learner alone gets."""
    return F.kl_div(learner, teacher.detach(), reduction="batchmean", log_target=True)
