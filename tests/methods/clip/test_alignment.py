"""Contrastive losses against slow loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmrs_bench.methods.clip.alignment import class_aware_loss, cosine_similarity, diagonal_loss


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def softmax(values: list[float], at: int) -> float:
    return math.exp(values[at]) / sum(math.exp(value) for value in values)


TARGET = [0, 2, 0, 3, 2, 0]


def test_cosines_of_images_and_texts() -> None:
    images, texts = normal(3, 4) * 1e-5, normal(2, 4, seed=1) * 10
    expected = torch.tensor([[image @ text / image.norm() / text.norm() for text in texts] for image in images])
    torch.testing.assert_close(cosine_similarity(images, texts), expected, rtol=0, atol=1e-5)


def test_the_class_aware_contrast() -> None:
    logits = normal(6, 5) * 3
    z = logits.tolist()
    to_text = -sum(math.log(softmax(z[i], y)) for i, y in enumerate(TARGET)) / 6
    per_class = []
    for k in sorted(set(TARGET)):
        column = [z[i][k] for i in range(6)]
        members = [i for i in range(6) if TARGET[i] == k]
        per_class.append(-sum(math.log(softmax(column, i)) for i in members) / len(members))
    expected = to_text + sum(per_class) / len(per_class)
    assert float(class_aware_loss(logits, torch.tensor(TARGET))) == pytest.approx(expected, rel=1e-5)


def test_the_released_contrast() -> None:
    logits = normal(6, 5) * 3
    z = logits.tolist()
    pairs = [[z[i][TARGET[j]] for j in range(6)] for i in range(6)]
    rows = -sum(math.log(softmax(pairs[i], i)) for i in range(6)) / 6
    columns = -sum(math.log(softmax([pairs[i][j] for i in range(6)], j)) for j in range(6)) / 6
    assert float(diagonal_loss(logits, torch.tensor(TARGET))) == pytest.approx(rows + columns, rel=1e-5)


def test_images_of_one_class_are_no_negatives_of_each_other() -> None:
    """At a perfect separation the released contrast still cannot tell an image's text from its neighbour's."""
    target = torch.tensor([0, 0, 1, 1])
    perfect = torch.nn.functional.one_hot(target, 2) * 40.0
    # One of two images of a class in the one direction, and nothing in the other; twice one of two as released.
    assert float(class_aware_loss(perfect, target)) == pytest.approx(math.log(2), abs=1e-5)
    assert float(diagonal_loss(perfect, target)) == pytest.approx(2 * math.log(2), abs=1e-5)
