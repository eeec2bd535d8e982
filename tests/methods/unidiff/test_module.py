"""Stage A as a plain LightningModule: training steps, drift and curves against slow loops, and its checkpoints."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.method_helpers import refused
from helpers.module_cases import Losses, saved, spectral_data, trainer
from helpers.network_helpers import bilinear, same, silent, weights
from helpers.unidiff_helpers import (
    NAMES,
    SIDE,
    SMALL,
    STRIDE,
    picture_scene,
    slow_tile,
    small_checkpoint,
    untrained_weights,
)
from torch import Tensor

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.unidiff.adaptation import CURVE, write_curve
from mmrs_bench.methods.unidiff.adm_checkpoint import Backbone
from mmrs_bench.methods.unidiff.datamodule import TileDataModule
from mmrs_bench.methods.unidiff.hybrid_diffusion import (
    DRIFT_TIMESTEPS,
    HybridDiffusion,
    cosine_schedule,
    denoising_losses,
)
from mmrs_bench.methods.unidiff.module import DenoisingModule
from mmrs_bench.methods.unidiff.pictures import picture_row
from mmrs_bench.randomness import SampleRandom, torch_generator

BATCH, SEED = 6, 3
WITHOUT_DROPOUT = replace(SMALL, dropout=0.0)


def tiles(**changes: Any) -> TileDataModule:
    settings = {"tile": SIDE, "stride": STRIDE, "batch_size": BATCH, "epoch_steps": 2, "seed": SEED}
    return TileDataModule(picture_scene(), **{**settings, **changes})


def untrained(pictures: Any = NAMES, **changes: Any) -> DenoisingModule:
    settings = {"backbone": "tiny", "sizes": asdict(WITHOUT_DROPOUT), "adaptation": "full", "seed": SEED}
    return DenoisingModule(pictures, **{**settings, "lora_rank": 2, **changes})


def made(*args: Any, **changes: Any) -> DenoisingModule:
    """Random weights, because the output of an untrained network is zero."""
    module = untrained(*args, **changes)
    module.use_backbone(Backbone(module.sizes, untrained_weights(module.sizes), "random"))
    return module


def slowly_augmented(tile: Tensor, share: float, corner: tuple[float, float], flipped: bool) -> Tensor:
    """Pixel by pixel: its position in the tile, and the four neighbours there."""
    side = tile.shape[-1]
    result = torch.zeros_like(tile)
    for row in range(side):
        for column in range(side):
            spot = (row, side - 1 - column if flipped else column)
            places = (side * (start + share * (at + 0.5) / side) - 0.5 for start, at in zip(corner, spot, strict=True))
            result[:, row, column] = bilinear(tile, *places)
    return result


@torch.no_grad()
def slow_losses(module: DenoisingModule, data: TileDataModule, *address: int) -> tuple[list[str], list[float]]:
    """Picture and loss of each sample, from random numbers in the documented order."""
    generator = torch_generator("adapt", *address)
    names = module.pictures
    kinds = [names[k] for k in torch.randint(len(names), (BATCH,), generator=generator).tolist()]
    numbers = torch.randint(16, (BATCH,), generator=generator).tolist()
    enlargements = (1 + (module.zoom - 1) * torch.rand(BATCH, generator=generator)).tolist()
    free = torch.rand(BATCH, 2, generator=generator).tolist()
    flips = torch.randint(2, (BATCH,), generator=generator).tolist()
    timesteps = torch.randint(1000, (BATCH,), generator=generator).tolist()
    noise = torch.randn(BATCH, 3, SIDE, SIDE, generator=generator)
    losses = []
    for i, kind in enumerate(kinds):
        share = 1 / enlargements[i]
        corner = ((1 - share) * free[i][0], (1 - share) * free[i][1])
        tile = slow_tile(data.pictures.images[kind], numbers[i])[0]
        clean = slowly_augmented(tile, share, corner, bool(flips[i]))
        t, kept = torch.tensor([timesteps[i]]), float(cosine_schedule().alphas_cumprod[timesteps[i]])
        noised = math.sqrt(kept) * clean + math.sqrt(1 - kept) * noise[i]
        output = module.denoiser(noised[None], t, torch.tensor([picture_row(kind)]))
        losses.append(float(HybridDiffusion()(output, clean[None], noise[i][None], t).total))
    return kinds, losses


def slow_drift(module: DenoisingModule, data: TileDataModule) -> float:
    """The mean squared error of the noise on all 16 pseudo-RGB tiles."""
    generator, losses = torch_generator("drift", SEED), []
    for timestep in DRIFT_TIMESTEPS:
        for number in range(16):
            tile, t = slow_tile(data.pictures.images["rgb"], number), torch.tensor([timestep])
            noise = torch.randn(1, 3, SIDE, SIDE, generator=generator)
            with torch.no_grad():
                output = module.denoiser.eval()(HybridDiffusion().add_noise(tile, noise, t), t, torch.tensor([1]))
            losses.append(float(HybridDiffusion()(output, tile, noise, t).simple))
    return sum(losses) / len(losses)


# Training


@pytest.mark.parametrize("changes", [{}, {"anchor_weight": 2.5, "zoom": 1.6}, {"anchored": False, "zoom": 1.0}])
def test_losses_drift_and_curves_equal_loops(changes: dict[str, Any], tmp_path: Path) -> None:
    """At rate 0 all steps have the same weights."""
    data = tiles(anchored=changes.pop("anchored", True))
    module, steps, own = made(data.names, learning_rate=0.0, **changes), Losses(), trainer(tmp_path)
    own.callbacks.append(steps)  # type: ignore[attr-defined]
    own.fit(module, datamodule=data)
    expected = []
    for epoch in range(2):
        by_kind: dict[str, list[float]] = {}
        for index in range(2):
            kinds, losses = slow_losses(module, data, SEED, epoch, index)
            weighted = [module.anchor_weight * x if kind == "rgb" else x for kind, x in zip(kinds, losses, strict=True)]
            expected.append(sum(weighted) / BATCH)
            for kind, loss in zip(kinds, losses, strict=True):
                by_kind.setdefault(kind, []).append(loss)
        assert ("rgb" in by_kind) == data.anchored
        means = {name: sum(values) / len(values) for name, values in by_kind.items()}
        row = [means.get(name, 0.0) for name in module.pictures]
        assert module.curves["loss"][epoch + 1].tolist() == pytest.approx(row, rel=1e-4)
        logged = {name: float(own.callback_metrics[f"loss_{name}"]) for name in means}
        assert epoch == 0 or logged == pytest.approx(means, rel=1e-4)
    assert steps.values == pytest.approx(expected, rel=1e-4)
    assert module.curves["drift"][:, 0].tolist() == pytest.approx([slow_drift(module, data)] * 3, rel=1e-4)
    (scores,) = own.validate(module, datamodule=data, verbose=False)
    assert scores == {"val/loss": pytest.approx(module.curves["drift"][0, 0].item())}


def test_the_denoising_loss_ignores_dropout_and_depends_on_seed_and_row() -> None:
    denoiser = made(sizes=asdict(SMALL)).denoiser.train()
    clean = torch.rand(18, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def loss(row: int, seed: int) -> float:
        return float(denoising_losses(denoiser, clean, torch.full((18,), row), SampleRandom("drift", seed)).mean())

    assert loss(1, 4) == loss(1, 4)
    assert len({loss(1, 4), loss(1, 5), loss(2, 4)}) == 3
    assert denoiser.training


def test_curves_are_written_with_empty_fields_for_missing_values(tmp_path: Path) -> None:
    module = made(["rgb", "sar"])
    for epoch, drift, losses in ((0, 0.5, [0.0, 0.0]), (1, 0.25, [1.0, 0.0]), (2, 0.75, [0.5, 2.0])):
        module.curves.record(epoch, drift=torch.tensor([drift]), loss=torch.tensor(losses))
    write_curve(module, tmp_path)
    assert list(csv.reader((tmp_path / f"{CURVE}.csv").read_text().splitlines())) == [
        ["epoch", "drift", "loss_rgb", "loss_sar"],
        ["0", "0.5", "", ""],
        ["1", "0.25", "1.0", ""],
        ["2", "0.75", "0.5", "2.0"],
    ]
    assert (tmp_path / f"{CURVE}.png").read_bytes().startswith(b"\x89PNG")


# Checkpoints


@pytest.mark.parametrize("adaptation", ["film", "lora"])
def test_an_adapted_tiny_backbone_is_restored_without_the_checkpoint_of_its_source(
    adaptation: str, tmp_path: Path
) -> None:
    if adaptation == "lora":
        pytest.importorskip("peft")
    first = made()
    source = Path(saved(first, tmp_path / "source.ckpt"))
    module = untrained(adaptation=adaptation, backbone_weights=str(source), learning_rate=0.01)
    backbone, before = first.as_backbone(), weights(module)
    assert module.denoiser.backbone == backbone.name
    assert torch.equal(module.denoiser.unet.conv_in.weight, backbone.weights["conv_in.weight"])
    trainer(tmp_path, 1).fit(module, datamodule=tiles())
    assert not same(weights(module), before)
    checkpoint = saved(module, tmp_path / "adapted.ckpt")
    source.unlink()
    restored = DenoisingModule.load_from_checkpoint(checkpoint)
    assert same(weights(restored), weights(module))
    assert restored.denoiser.adapters_metadata() == module.denoiser.adapters_metadata()


def test_a_checkpoint_on_the_public_backbone_holds_the_adapters_and_needs_that_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = small_checkpoint(monkeypatch)
    module = untrained(backbone="imagenet", sizes=asdict(SMALL), adaptation="film")
    checkpoint = saved(module, tmp_path / "adapted.ckpt")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    adapters = {f"denoiser.network.{name}" for name in module.denoiser.adapted_state()}
    assert state.keys() == adapters | {"curves.drift", "curves.loss"}
    assert same(weights(DenoisingModule.load_from_checkpoint(checkpoint).denoiser), weights(module.denoiser))
    other = torch.load(public, weights_only=True)
    other["out.2.bias"] += 1
    torch.save(other, tmp_path / "other.pt")
    message = "was trained on the backbone adm-imagenet-64 .*, but this one is adm-imagenet-64 .*; fetch"
    with refused(DataError, message):
        DenoisingModule.load_from_checkpoint(checkpoint, backbone_weights=str(tmp_path / "other.pt"))
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "empty"))
    with refused(DataError, "Fetch it with"):
        DenoisingModule.load_from_checkpoint(checkpoint)


# Refused input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pictures": "rgb"}, "pictures is 'rgb'; use a list of names"),
        (
            {"pictures": ["rgb", "lidar4"]},
            r"have rows \[1, 8\] of the class embedding, expected different ones below 8",
        ),
        ({"backbone": "small"}, "unknown backbone 'small'"),
        ({"sizes": {"layers": 3}}, "sizes of the backbone: .*'layers'; use the fields of AdmConfig"),
        ({"adaptation": "film"}, "adaptation film of an untrained tiny backbone; train one .* backbone_weights"),
        (
            {"pictures": ["rgb", "pca"]},
            r"built for pictures rgb, pca with rows \[1, 2\], but a batch has row [345]; build",
        ),
    ],
)
def test_impossible_modules_and_batches_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with refused(ConfigError, message):
        trainer(tmp_path, 1).fit(untrained(**changes), datamodule=tiles())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; use at least 1"),
        ({"anchored": False, "pictures": ["rgb"]}, "without anchoring, stage A needs a picture other than rgb"),
        (
            {"pictures": ["sar"]},
            "the pictures are sar, but anchoring needs the pseudo-RGB; add rgb .*anchored to false",
        ),
        ({"tile": 17}, r"tiles are \[6, 3, 17, 17\], expected .* a multiple of 2; set tile"),
    ],
)
def test_impossible_tiles_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    module = made()
    silent(module)
    with refused(ConfigError, message):
        module.training_step(next(iter(tiles(**changes).train_dataloader())), 0)


def test_only_a_trained_tiny_network_is_a_backbone(tmp_path: Path) -> None:
    adapted = saved(made(adaptation="film"), tmp_path / "film.ckpt")
    with refused(ConfigError, "a backbone must be a tiny network trained with adaptation full, not tiny with .* film"):
        untrained(backbone_weights=adapted)
    other = saved(made(sizes=asdict(replace(SMALL, classes=9))), tmp_path / "other.ckpt")
    with refused(DataError, "its network has other sizes"):
        untrained(backbone_weights=other)


def test_test_and_prediction_loaders_have_no_dropped_modality() -> None:
    whole, without = spectral_data(), spectral_data(drop=("hsi",))
    first, blanked = (next(iter(data.test_dataloader())) for data in (whole, without))
    assert torch.equal(first["pixel"], blanked["pixel"])
    assert not torch.equal(first["vectors"], blanked["vectors"])
    assert first["spectra"].abs().max() > 0
    assert blanked["spectra"].abs().max() == 0
    predicted = next(iter(without.predict_dataloader()))
    assert torch.equal(predicted["vectors"], blanked["vectors"])
    trained = [next(iter(data.train_dataloader())) for data in (whole, without)]
    assert torch.equal(trained[0]["vectors"], trained[1]["vectors"]), "training has all modalities"
