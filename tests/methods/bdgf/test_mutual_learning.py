"""The mutual loss against a loop over samples and pairs, and which branches get its gradients."""

from __future__ import annotations

import math

import pytest
import torch

from mmrs_bench.methods.bdgf.guided_branches import BranchOutput
from mmrs_bench.methods.bdgf.mutual_learning import MutualLoss, mutual_loss

CLASSES = torch.tensor([0, 2, 1, 2, 0])


def loss_of(outputs: list[BranchOutput], weight: float = 0.1) -> MutualLoss:
    return mutual_loss(outputs, CLASSES, entropy_weight=weight, similarity_weight=weight, divergence_weight=weight)


def outputs(branches: int, *, grad: bool = False) -> list[BranchOutput]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(branches):
        features, logits = torch.randn(5, 4, generator=generator), 2 * torch.randn(5, 3, generator=generator)
        made.append(BranchOutput(features.requires_grad_(grad), logits.requires_grad_(grad)))
    return made


def slow_loss(branches: list[BranchOutput], labelled: int) -> tuple[float, float, float, float]:
    """Cross-entropy of the first samples; entropy, similarity and divergence of all, with Python's floats."""
    count = len(branches)
    totals = [0.0, 0.0, 0.0, 0.0]
    for sample, label in enumerate(CLASSES.tolist()):
        shares, features = [], []
        for branch in branches:
            raised = [math.exp(value) for value in branch.logits[sample].tolist()]
            shares.append([value / sum(raised) for value in raised])
            features.append(branch.features[sample].tolist())
        entropies = [-sum(p * math.log(p) for p in share) for share in shares]
        if sample < labelled:
            totals[0] += sum(-math.log(share[label]) for share in shares) * len(CLASSES) / labelled
        for i in range(count):
            for j in range(count):
                if i < j:
                    totals[1] += (entropies[i] - entropies[j]) ** 2
                    dot = sum(a * b for a, b in zip(features[i], features[j], strict=True))
                    totals[2] += 1 - dot / (math.hypot(*features[i]) * math.hypot(*features[j]))
                if i != j:
                    totals[3] += sum(q * math.log(q / p) for p, q in zip(shares[i], shares[j], strict=True))
    first, second, third, fourth = (total / len(CLASSES) for total in totals)
    return first, second, third, fourth


@pytest.mark.parametrize("branches", [1, 2, 3, 4])
@pytest.mark.parametrize("labelled", [5, 2])
def test_the_loss_equals_a_loop_over_samples_and_pairs(branches: int, labelled: int) -> None:
    made = outputs(branches)
    expected = slow_loss(made, labelled)
    loss = mutual_loss(made, CLASSES[:labelled], entropy_weight=0.3, similarity_weight=0.7, divergence_weight=0.2)
    assert [value.item() for value in loss[1:]] == pytest.approx(list(expected), rel=1e-5)
    weighted = expected[0] + 0.3 * expected[1] + 0.7 * expected[2] + 0.2 * expected[3]
    assert loss.total.item() == pytest.approx(weighted, rel=1e-5)


@pytest.mark.parametrize(("part", "logits", "features"), [("entropy", True, False), ("similarity", False, True)])
def test_entropy_and_similarity_give_both_branches_a_gradient(part: str, logits: bool, features: bool) -> None:
    made = outputs(2, grad=True)
    getattr(loss_of(made), part).backward()
    for branch in made:
        reached = [values.grad is not None and bool(values.grad.any()) for values in (branch.logits, branch.features)]
        assert reached == [logits, features]


def test_the_gradient_of_the_divergence_treats_the_other_branches_as_constants() -> None:
    made = outputs(3, grad=True)
    loss_of(made).divergence.backward()
    for i, learner in enumerate(made):
        others = [branch.logits.detach().softmax(1) for j, branch in enumerate(made) if j != i]
        # KL(q || softmax(x)) has the gradient softmax(x) - q.
        expected = sum(learner.logits.detach().softmax(1) - q for q in others) / len(CLASSES)
        torch.testing.assert_close(learner.logits.grad, expected)


def test_gradients_of_extreme_logits_are_finite() -> None:
    logits = torch.tensor([[300.0, 0.0, -300.0]] * 5, requires_grad=True)
    other = outputs(1)[0]
    loss = loss_of([BranchOutput(other.features, logits), other], 1.0)
    loss.total.backward()
    assert all(value.isfinite() for value in loss)
    assert logits.grad.isfinite().all()


def test_half_precision_is_converted_to_float32() -> None:
    made = [BranchOutput(b.features.bfloat16(), b.logits.bfloat16()) for b in outputs(2)]
    loss = loss_of(made)
    assert loss == loss_of([BranchOutput(b.features.float(), b.logits.float()) for b in made])
    assert {value.dtype for value in loss} == {torch.float32}
