"""Training steps, drift and curves of stage A against slow loops."""

from __future__ import annotations

import csv
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.network_helpers import silent
from helpers.unidiff_helpers import NAMES, SIDE, picture_data, random_denoiser, settings, slow_tile
from torch import Tensor

from mmrs_bench.methods.unidiff.hybrid_diffusion import HybridDiffusion
from mmrs_bench.methods.unidiff.module import (
    CURVE,
    DRIFT_TIMESTEPS,
    DenoiserWithCurves,
    DenoisingModule,
    denoising_loss,
    write_curve,
)
from mmrs_bench.methods.unidiff.pictures import picture_row, scene_pictures
from mmrs_bench.randomness import torch_generator

BATCH, SEED = 6, 3


pytestmark = pytest.mark.usefixtures("small_tiny")


def made(*, seed: int = SEED, **changes: Any) -> DenoisingModule:
    """A module without dropout, whose random numbers do not come from the step."""
    config = settings(**{"adapt_batch": BATCH, **changes})
    pictures = scene_pictures(config, picture_data())
    names = tuple(name for name in pictures.images if config.anchored or name != "rgb")
    network = DenoiserWithCurves(random_denoiser(), names, config.adapt_epochs)
    module = DenoisingModule(network, pictures, config, seed=seed)
    silent(module)
    module.network.denoiser.eval()
    return module


def slowly_augmented(tile: Tensor, share: float, corner: tuple[float, float], flipped: bool) -> Tensor:
    """Pixel by pixel: its position in the tile, and the four neighbours there."""
    side = tile.shape[-1]
    result = torch.zeros_like(tile)
    for row in range(side):
        for column in range(side):
            source = side - 1 - column if flipped else column
            places = [
                min(max(side * (start + share * (at + 0.5) / side) - 0.5, 0), side - 1)
                for start, at in zip(corner, (row, source), strict=True)
            ]
            (y, x), (v, u) = map(math.floor, places), (place - math.floor(place) for place in places)
            below, right = min(y + 1, side - 1), min(x + 1, side - 1)
            upper = (1 - u) * tile[:, y, x] + u * tile[:, y, right]
            lower = (1 - u) * tile[:, below, x] + u * tile[:, below, right]
            result[:, row, column] = (1 - v) * upper + v * lower
    return result


def kept_signal(t: int) -> float:
    """abar_t of the cosine schedule."""
    angles = [math.cos((i + 8) / 1008 * math.pi / 2) ** 2 for i in range(t + 2)]
    return math.prod(1 - min(0.999, 1 - after / before) for before, after in pairwise(angles))


def slow_losses(module: DenoisingModule, zoom: float, *address: int) -> tuple[list[str], list[float]]:
    """Picture and loss of each sample, from random numbers in the documented order."""
    images = scene_pictures(settings(), picture_data()).images
    generator = torch_generator("adapt", *address)
    names = module.network.names
    kinds = [names[k] for k in torch.randint(len(names), (BATCH,), generator=generator).tolist()]
    numbers = torch.randint(16, (BATCH,), generator=generator).tolist()
    enlargements = (1 + (zoom - 1) * torch.rand(BATCH, generator=generator)).tolist()
    free = torch.rand(BATCH, 2, generator=generator).tolist()
    flips = torch.randint(2, (BATCH,), generator=generator).tolist()
    timesteps = torch.randint(1000, (BATCH,), generator=generator).tolist()
    noise = torch.randn(BATCH, 3, SIDE, SIDE, generator=generator)
    losses = []
    for i, kind in enumerate(kinds):
        share = 1 / enlargements[i]
        corner = ((1 - share) * free[i][0], (1 - share) * free[i][1])
        clean = slowly_augmented(slow_tile(images[kind], numbers[i])[0], share, corner, bool(flips[i]))
        t, kept = torch.tensor([timesteps[i]]), kept_signal(timesteps[i])
        noised = math.sqrt(kept) * clean + math.sqrt(1 - kept) * noise[i]
        output = module.network.denoiser(noised[None], t, torch.tensor([picture_row(kind)]))
        losses.append(float(HybridDiffusion()(output, clean[None], noise[i][None], t).total))
    return kinds, losses


@pytest.mark.parametrize("changes", [{}, {"anchor_weight": 2.5, "zoom": 1.6}, {"anchored": False, "zoom": 1.0}])
@torch.no_grad()
def test_the_training_step_equals_a_loop(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DenoisingModule, "current_epoch", 2)
    module, config = made(**changes), settings(**changes)
    logged: dict[str, tuple[float, int]] = {}
    module.log = lambda name, value, **options: logged.update({name: (float(value), options["batch_size"])})  # type: ignore[method-assign,assignment]
    found = module.training_step({}, 5)
    kinds, losses = slow_losses(module, config.zoom, SEED, 2, 5)
    assert ("rgb" in kinds) == config.anchored
    weighted = [config.anchor_weight * x if kind == "rgb" else x for kind, x in zip(kinds, losses, strict=True)]
    assert float(found) == pytest.approx(sum(weighted) / BATCH, rel=1e-4)
    expected = {}
    for kind in set(kinds):
        own = [x for k, x in zip(kinds, losses, strict=True) if k == kind]
        expected[f"loss_{kind}"] = (pytest.approx(sum(own) / len(own), rel=1e-4), len(own))
    assert logged == expected


def test_samples_depend_on_seed_epoch_and_batch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(*, seed: int = 0, epoch: int = 0, index: int = 0) -> float:
        monkeypatch.setattr(DenoisingModule, "current_epoch", epoch)
        module = made(seed=seed)
        torch.rand(3)
        return float(module.training_step({}, index).detach())

    assert loss() == loss()
    assert len({loss(), loss(seed=1), loss(epoch=1), loss(index=1)}) == 4


@torch.no_grad()
def test_losses_of_an_epoch_are_means_over_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DenoisingModule, "current_epoch", 1)
    module = made()
    by_kind: dict[str, list[float]] = {}
    for index in range(2):
        module.training_step({}, index)
        for kind, loss in zip(*slow_losses(module, settings().zoom, SEED, 1, index), strict=True):
            by_kind.setdefault(kind, []).append(loss)
    module.on_train_epoch_end()
    means = [sum(by_kind[name]) / len(by_kind[name]) if name in by_kind else 0.0 for name in NAMES]
    assert module.network.loss[1].tolist() == pytest.approx(means, rel=1e-4)
    assert not module.network.loss[0].any()


@torch.no_grad()
def test_the_denoising_loss_equals_a_loop_and_ignores_dropout() -> None:
    denoiser = random_denoiser().train()
    tiles = torch.rand(18, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = denoising_loss(denoiser, tiles, 1, seed=4)
    assert denoiser.training
    assert denoising_loss(denoiser, tiles, 1, seed=4) == found
    generator, losses, hybrid = torch_generator("drift", 4), [], HybridDiffusion()
    for timestep in DRIFT_TIMESTEPS:
        for tile in tiles:
            noise, t = torch.randn(1, 3, SIDE, SIDE, generator=generator), torch.tensor([timestep])
            output = denoiser.eval()(hybrid.add_noise(tile[None], noise, t), t, torch.tensor([1]))
            losses.append(float(hybrid(output, tile[None], noise, t).simple))
    assert found == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert len({found, denoising_loss(denoiser, tiles, 1, seed=5), denoising_loss(denoiser, tiles, 2, seed=4)}) == 3


def test_curves_are_written_with_empty_fields_for_missing_values(tmp_path: Path) -> None:
    network = DenoiserWithCurves(random_denoiser(), ("rgb", "sar"), 2)
    network.drift[:] = torch.tensor([0.5, 0.25, 0.75])
    network.loss[:] = torch.tensor([[1.0, 0.0], [0.5, 2.0]])
    write_curve(network, tmp_path)
    assert list(csv.reader((tmp_path / f"{CURVE}.csv").read_text().splitlines())) == [
        ["epoch", "drift", "loss_rgb", "loss_sar"],
        ["0", "0.5", "", ""],
        ["1", "0.25", "1.0", ""],
        ["2", "0.75", "0.5", "2.0"],
    ]
    assert (tmp_path / f"{CURVE}.png").read_bytes().startswith(b"\x89PNG")
