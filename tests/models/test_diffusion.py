"""Noising, the loss's split, contrast and augmentation against slow loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmrs_bench.methods.clip.alignment import LogitScale, class_aware_loss, cosine_similarity, diagonal_loss
from mmrs_bench.methods.clip.augmentation import center_resize_crop, random_choice
from mmrs_bench.models.diffusion import add_noise, linear_schedule, split_error


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


# Noising


def test_noising_is_the_equation() -> None:
    clean, timesteps = normal(4, 3, 2), torch.tensor([0, 1, 500, 999])
    found = add_noise(linear_schedule(), clean, timesteps, generator(7))
    noise = torch.randn(clean.shape, generator=generator(7))
    for b, t in enumerate(timesteps.tolist()):
        kept = 1.0
        for step in range(t + 1):
            kept *= 1 - (1e-4 + (0.02 - 1e-4) * step / 999)
        expected = math.sqrt(kept) * clean[b] + math.sqrt(1 - kept) * noise[b]
        torch.testing.assert_close(found[b], expected, atol=1e-5, rtol=1e-4)


def test_the_last_step_leaves_next_to_nothing() -> None:
    kept = linear_schedule().alphas_cumprod
    assert float(kept[0]) == pytest.approx(1 - 1e-4)
    assert float(kept[-1]) == pytest.approx(4.04e-5, rel=0.01)


# The loss of stage 1


def test_the_split_of_the_error() -> None:
    clean, predicted = normal(3, 5, 2), normal(3, 5, 2, seed=1)
    visible = torch.tensor([[0, 2], [4, 1], [3, 0]])
    seen, masked = [], []
    for b in range(3):
        for token in range(5):
            error = sum((float(clean[b, token, c]) - float(predicted[b, token, c])) ** 2 for c in range(2)) / 2
            (seen if token in visible[b].tolist() else masked).append(error)
    errors = split_error(clean, predicted, visible)
    assert float(errors.visible) == pytest.approx(sum(seen) / len(seen), rel=1e-5)
    assert float(errors.masked) == pytest.approx(sum(masked) / len(masked), rel=1e-5)


# Contrast


def softmax(values: list[float], at: int) -> float:
    return math.exp(values[at]) / sum(math.exp(value) for value in values)


TARGET = [0, 2, 0, 3, 2, 0]


def test_cosines_of_images_and_texts() -> None:
    images, texts = normal(3, 4) * 1e-5, normal(2, 4, seed=1) * 10
    for i, row in enumerate(cosine_similarity(images, texts)):
        for k, cosine in enumerate(row.tolist()):
            a, b = images[i].tolist(), texts[k].tolist()
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            assert cosine == pytest.approx(dot / math.hypot(*a) / math.hypot(*b), abs=1e-5)


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


def test_the_temperature_starts_at_the_released_one() -> None:
    scale = LogitScale(0.7)
    assert float(scale(torch.tensor(1.0)).detach()) == pytest.approx(1 / 0.7)
    scale(torch.tensor(1.0)).backward()
    assert float(scale.log_scale.grad) == pytest.approx(1 / 0.7)  # type: ignore[arg-type]


# Augmentation


def test_an_enlarged_centre_is_bilinear() -> None:
    side, inner = 5, 3
    window = normal(1, 2, side, side)
    enlarged = center_resize_crop({"hsi": window}, {"hsi": torch.tensor([True])})["hsi"][0]
    for row in range(side):
        for column in range(side):
            expected = torch.zeros(2)
            spots = [min(max((at + 0.5) * inner / side - 0.5, 0), inner - 1) for at in (row, column)]
            low = [min(int(spot), inner - 2) for spot in spots]
            for i in (0, 1):
                for j in (0, 1):
                    weight = (1 - abs(spots[0] - low[0] - i)) * (1 - abs(spots[1] - low[1] - j))
                    expected += weight * window[0, :, 1 + low[0] + i, 1 + low[1] + j]
            torch.testing.assert_close(enlarged[:, row, column], expected, atol=1e-5, rtol=1e-5)


def test_only_chosen_windows_are_enlarged_and_inputs_stay() -> None:
    window = normal(4, 2, 5, 5)
    before = window.clone()
    chosen = torch.tensor([True, False, True, False])
    after = center_resize_crop({"hsi": window}, {"hsi": chosen})["hsi"]
    assert torch.equal(window, before)
    changed = (after != before).flatten(1).any(dim=1)
    assert torch.equal(changed, chosen)


def test_a_window_of_one_pixel_stays() -> None:
    window = normal(2, 3, 1, 1)
    assert torch.equal(center_resize_crop({"hsi": window}, {"hsi": torch.tensor([True, True])})["hsi"], window)


def test_crops_are_joint_or_not() -> None:
    joint = random_choice(("hsi", "lidar"), 200, generator(), joint=True)
    apart = random_choice(("hsi", "lidar"), 200, generator(), joint=False)
    assert torch.equal(joint["hsi"], joint["lidar"])
    assert not torch.equal(apart["hsi"], apart["lidar"])
    assert all(60 < int(coins.sum()) < 140 for coins in (*joint.values(), *apart.values()))
