"""Stage A of UniDiff against slow loops: what is mixed, what learns and is kept, drift, and what is refused."""

from __future__ import annotations

import csv
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.network_helpers import same, silent, weights
from helpers.unidiff_helpers import SMALL, STAGE_A, picture_data, picture_scene, small_checkpoint, small_tiny
from safetensors.torch import load_file
from torch import Tensor

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import ConfigError, DataError, TrainingError
from mmrs_bench.io import file_sha256
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.unidiff import adaptation as unidiff_adaptation
from mmrs_bench.methods.unidiff import pictures as unidiff_pictures
from mmrs_bench.methods.unidiff.adaptation import Adaptation, Backbone, adapted_denoiser, denoiser_on, scene_backbone
from mmrs_bench.methods.unidiff.adm import build_adm
from mmrs_bench.methods.unidiff.adm_adaptation import AdaptedDenoiser
from mmrs_bench.methods.unidiff.config import AdaptationConfig
from mmrs_bench.methods.unidiff.hybrid_diffusion import HybridDiffusion
from mmrs_bench.methods.unidiff.module import (
    CURVE,
    DRIFT_TIMESTEPS,
    DiffusionAdapter,
    StageA,
    denoising_loss,
    write_curve,
)
from mmrs_bench.methods.unidiff.pictures import ScenePictures, anchor_tiles, augmented, picture_row, scene_pictures
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule

BATCH, SEED, SIDE = 6, 3, 16
NAMES = ("rgb", "pca", "sar", "lidar0", "lidar1")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiny(monkeypatch)
    monkeypatch.setattr(unidiff_adaptation, "write_curve", lambda *args: None)  # drawing takes longer than training


def settings(**changes: Any) -> AdaptationConfig:
    return AdaptationConfig.model_validate({**STAGE_A, **changes})


def run(
    folder: Path, data: SceneDataModule | None = None, *, draw: int = 0, seed: int = 0, **changes: Any
) -> Adaptation:
    return adapted_denoiser(
        settings(**changes), data or picture_data(), RunContext(seed=seed, draw=draw, work_dir=folder / "cell")
    )


def random_denoiser(adaptation: str = "film") -> AdaptedDenoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = build_adm(SMALL).state_dict()
    return denoiser_on(Backbone(SMALL, state, "random"), settings(adaptation=adaptation), seed=0)


def adapter(*, seed: int = SEED, **changes: Any) -> DiffusionAdapter:
    """Without dropout, whose numbers are not the step's own."""
    config = settings(**{"adapt_batch": BATCH, **changes})
    pictures = scene_pictures(config, picture_data())
    names = tuple(name for name in pictures.images if config.anchored or name != "rgb")
    made = DiffusionAdapter(StageA(random_denoiser(), names, config.adapt_epochs), pictures, config, seed=seed)
    silent(made)
    made.network.denoiser.eval()
    return made


def one_line(error: pytest.ExceptionInfo[Exception]) -> bool:
    return "\n" not in str(error.value)


# Pictures and their rows


def test_rows_are_the_published_ones() -> None:
    assert [picture_row(name) for name in ("rgb", "pca", "sar", "dsm", "lidar")] == [1, 2, 3, 4, 4]
    assert [picture_row(name) for name in ("lidar0", "lidar1", "dsm2")] == [4, 5, 6]
    for name in ("hsi", "rgb0", "sar1", ""):
        with pytest.raises(ConfigError, match="unknown picture"):
            picture_row(name)


def test_kinds_choose_pictures() -> None:
    data = picture_data()
    for kinds, expected in (
        ((), NAMES),
        (("lidar", "rgb"), ("rgb", "lidar0", "lidar1")),
        (("rgb", "lidar1"), ("rgb", "lidar1")),
    ):
        found = scene_pictures(settings(pictures=kinds), data)
        assert tuple(found.images) == expected
        assert (len(found.grid), found.grid.tile, found.grid.stride) == (16, 16, 8)
    assert scene_pictures(settings(pictures=NAMES), data).sha256 == scene_pictures(settings(), data).sha256
    other = SceneDataModule(picture_scene(seed=1))
    hashes = [scene_pictures(settings(pictures=k), d).sha256 for k in ((), ("rgb",)) for d in (data, other)]
    assert len(set(hashes)) == 4


@pytest.mark.parametrize(
    ("changes", "protocol", "message"),
    [
        ({}, {"normalisation_scope": "support"}, "normalisation_scope support.*whole scene; set pca to none"),
        ({}, {"unlabelled": "train-blocks", "split": "block-v1", "window": 3}, "unlabelled train-blocks.*whole scene"),
        ({}, {"pca": 3}, "^pca 3, .*raw bands"),
        ({"pictures": ("rgb", "dsm")}, {}, "unknown picture of scene tiny 'dsm'.*Known: lidar, .*pca, rgb, sar"),
        ({"pictures": ("sar",)}, {}, "sees sar, but anchoring and the backbone tiny need the pseudo-RGB.*add rgb"),
        ({"anchored": False}, {"modalities": ("sar",)}, "sees sar, but .*hsi to the modalities"),
        ({"backbone": "imagenet"}, {"modalities": ("sar",)}, "sees sar, but .*anchored to false"),
        ({"anchored": False, "pictures": ("rgb",)}, {}, "without anchoring no picture but rgb is seen; add others"),
        ({"tile": 128}, {}, r"raster \(36 x 40 pixels\) is too small for tiles of 128"),
        ({"stride": 17}, {}, "stride 17 leave gaps"),
    ],
)
def test_what_cannot_be_seen_is_refused(changes: dict[str, Any], protocol: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        scene_pictures(settings(**changes), picture_data(**protocol))
    assert one_line(error)


@pytest.mark.parametrize("bands", [{"hsi": 5, "dsm": 1, "lidar": 1}, {"hsi": 5, "lidar": 5}])
def test_rows_that_clash_or_are_too_many_are_refused(bands: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"would be rows .* expected different ones below 8; name fewer") as error:
        scene_pictures(settings(), picture_data(bands=bands))
    assert one_line(error)


def test_the_pseudo_rgb_is_not_asked_for_where_nothing_needs_it() -> None:
    for changes in ({"anchored": False}, {"adaptation": "none"}):
        found = scene_pictures(settings(backbone="imagenet", **changes), picture_data(modalities=("sar",)))
        assert tuple(found.images) == ("sar",)


# The training step


def slowly_augmented(tile: Tensor, share: float, corner: tuple[float, float], flipped: bool) -> Tensor:
    """Pixel after pixel: where it comes from, and the four neighbours of that place."""
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


def slow_losses(made: DiffusionAdapter, config: AdaptationConfig, *at: int) -> tuple[list[str], list[float]]:
    """Picture and loss of each sample, one after the other, in the order in which numbers are drawn."""
    images = scene_pictures(config, picture_data()).images
    generator = torch_generator("adapt", *at)
    names = made.network.names
    kinds = [names[k] for k in torch.randint(len(names), (BATCH,), generator=generator).tolist()]
    numbers = torch.randint(16, (BATCH,), generator=generator).tolist()
    enlargements = (1 + (config.zoom - 1) * torch.rand(BATCH, generator=generator)).tolist()
    free = torch.rand(BATCH, 2, generator=generator).tolist()
    flips = torch.randint(2, (BATCH,), generator=generator).tolist()
    timesteps = torch.randint(1000, (BATCH,), generator=generator).tolist()
    noise = torch.randn(BATCH, 3, SIDE, SIDE, generator=generator)

    def signal_left(t: int) -> float:
        return math.prod(
            1
            - min(
                0.999, 1 - math.cos((i + 1 + 8) / 1008 * math.pi / 2) ** 2 / math.cos((i + 8) / 1008 * math.pi / 2) ** 2
            )
            for i in range(t + 1)
        )

    losses = []
    for i, kind in enumerate(kinds):
        # 36 rows of tiles of 16 with stride 8: the last reach 4 rows over the border.
        padded = np.pad(images[kind].numpy(), ((0, 4), (0, 0), (0, 0)), mode="reflect")
        row, column = 8 * (numbers[i] // 4), 8 * (numbers[i] % 4)
        tile = torch.from_numpy(padded[row : row + SIDE, column : column + SIDE].transpose(2, 0, 1).copy())
        share = 1 / enlargements[i]
        corner = ((1 - share) * free[i][0], (1 - share) * free[i][1])
        clean = slowly_augmented(tile, share, corner, bool(flips[i]))
        t, kept = torch.tensor([timesteps[i]]), signal_left(timesteps[i])
        noised = math.sqrt(kept) * clean + math.sqrt(1 - kept) * noise[i]
        output = made.network.denoiser(noised[None], t, torch.tensor([picture_row(kind)]))
        losses.append(float(HybridDiffusion()(output, clean[None], noise[i][None], t).total))
    return kinds, losses


@pytest.mark.parametrize("changes", [{}, {"anchor_weight": 2.5, "zoom": 1.6}, {"anchored": False, "zoom": 1.0}])
@torch.no_grad()
def test_the_step_is_that_of_a_loop(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiffusionAdapter, "current_epoch", 2)
    made = adapter(**changes)
    logged: dict[str, tuple[float, int]] = {}
    made.log = lambda name, value, **options: logged.update({name: (float(value), options["batch_size"])})  # type: ignore[method-assign,assignment]
    config = settings(**changes)
    found = made.training_step({}, 5)
    kinds, losses = slow_losses(made, config, SEED, 2, 5)
    assert ("rgb" in kinds) == config.anchored, "this step shows nothing of anchoring"
    weighted = [config.anchor_weight * x if kind == "rgb" else x for kind, x in zip(kinds, losses, strict=True)]
    assert float(found) == pytest.approx(sum(weighted) / BATCH, rel=1e-4)
    expected = {}
    for kind in set(kinds):
        own = [x for k, x in zip(kinds, losses, strict=True) if k == kind]
        expected[f"loss_{kind}"] = (pytest.approx(sum(own) / len(own), rel=1e-4), len(own))
    assert logged == expected


def test_a_tile_that_is_not_enlarged_stays_or_is_flipped() -> None:
    tiles = torch.rand(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found = augmented(tiles, 1.0, torch.Generator().manual_seed(1))
    kept = [torch.allclose(one, other, atol=1e-5) for one, other in zip(found, tiles, strict=True)]
    flipped = [torch.allclose(one.flip(2), other, atol=1e-5) for one, other in zip(found, tiles, strict=True)]
    assert any(kept)
    assert any(flipped)
    assert all(a != b for a, b in zip(kept, flipped, strict=True))


def test_steps_hang_on_seed_epoch_and_batch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(*, seed: int = 0, epoch: int = 0, index: int = 0) -> float:
        monkeypatch.setattr(DiffusionAdapter, "current_epoch", epoch)
        made = adapter(seed=seed)
        torch.rand(3)
        return float(made.training_step({}, index).detach())

    assert loss() == loss()
    assert len({loss(), loss(seed=1), loss(epoch=1), loss(index=1)}) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("stage", ["adapt", "source"])
def test_a_loss_that_is_no_number_names_stage_step_and_setting(
    stage: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = AdaptedDenoiser.forward

    def broken(self: AdaptedDenoiser, *args: Tensor) -> Tensor:
        at_fault = self.training and (self.adaptation == "full") == (stage == "source")
        return real(self, *args) + (value if at_fault else 0.0)

    monkeypatch.setattr(AdaptedDenoiser, "forward", broken)
    with pytest.raises(TrainingError, match=rf"^{stage}: the loss is (nan|inf) at step 0; lower {stage}_rate") as error:
        run(tmp_path)
    assert one_line(error)


# What learns and what is kept


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """By stage: parameters before and after, whether they learn, and the rows of every training step."""
    seen: dict[str, Any] = {}
    train, forward = unidiff_adaptation._train, AdaptedDenoiser.forward

    def watch(network: StageA, pictures: ScenePictures, config: AdaptationConfig, stage: str, context: Any) -> None:
        rows: list[list[int]] = []

        def noting(self: AdaptedDenoiser, noised: Tensor, timesteps: Tensor, modality: Tensor) -> Tensor:
            if self.training:
                rows.append(modality.tolist())
            return forward(self, noised, timesteps, modality)

        monkeypatch.setattr(AdaptedDenoiser, "forward", noting)
        before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        train(network, pictures, config, stage, context)
        after = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        learns = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        seen[stage] = {"before": before, "after": after, "learns": learns, "rows": rows}

    monkeypatch.setattr(unidiff_adaptation, "_train", watch)
    return seen


@pytest.mark.parametrize("adaptation", ["film", "lora", "full"])
def test_what_is_frozen_stays_bit_for_bit_and_is_not_kept(
    adaptation: str, tmp_path: Path, watched: dict[str, Any]
) -> None:
    config, data = settings(adaptation=adaptation), picture_data()
    context = RunContext(seed=0, draw=0, work_dir=tmp_path)
    backbone = scene_backbone(config, scene_pictures(config, data), data, context)
    untouched = {name: weight.clone() for name, weight in backbone.weights.items()}
    found = adapted_denoiser(config, data, context)
    seen = watched["adapt"]
    changed = {name for name, values in seen["after"].items() if not torch.equal(values, seen["before"][name])}
    assert changed
    assert changed <= seen["learns"]
    assert same(dict(backbone.weights), untouched)
    if adaptation != "full":
        assert len(seen["learns"]) < len(seen["before"]) / 2, "this test could not fail"
    if adaptation == "film":
        assert changed == seen["learns"]
        rows = (seen["after"]["denoiser.network.class_embedding.weight"] != untouched["class_embedding.weight"]).any(1)
        assert set(rows.nonzero()[:, 0].tolist()) == {row for step in seen["rows"] for row in step}

    after = {name.removeprefix("denoiser."): values for name, values in seen["after"].items()}
    assert same(weights(found.denoiser), after)
    (kept,) = [
        content
        for content in map(load_file, (tmp_path / "cache-root" / "pretraining").glob("*.safetensors"))
        if "drift" in content and content["drift"].any()
    ]
    assert kept.keys() == seen["learns"] | {"drift", "loss"}


def test_the_mixture_has_pseudo_rgb_if_it_is_anchored(tmp_path: Path, watched: dict[str, Any]) -> None:
    for anchored in (True, False):
        run(tmp_path, anchored=anchored, adapt_batch=32)
        rows = watched["adapt"]["rows"]
        assert {row for step in rows for row in step} == ({1, 2, 3, 4, 5} if anchored else {2, 3, 4, 5})
        assert [len(step) for step in rows] == [32] * 4
    assert {row for step in watched["source"]["rows"] for row in step} == {1}
    assert [len(step) for step in watched["source"]["rows"]] == [4] * 2


def test_no_adaptation_is_the_backbone(tmp_path: Path, watched: dict[str, Any]) -> None:
    found = run(tmp_path, adaptation="none", adapt_epochs=3)
    assert list(watched) == ["source"]
    source = {name.removeprefix("denoiser."): values for name, values in watched["source"]["after"].items()}
    assert same(weights(found.denoiser), source)
    assert found.drift.tolist() == [0.0] * 4
    assert not found.denoiser.training


# Drift


@torch.no_grad()
def test_the_denoising_loss_is_that_of_a_loop() -> None:
    denoiser = random_denoiser().train()
    tiles = torch.rand(18, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = denoising_loss(denoiser, tiles, 1, seed=4)
    assert denoiser.training
    assert denoising_loss(denoiser, tiles, 1, seed=4) == found, "dropout has a say"
    generator, losses, hybrid = torch_generator("drift", 4), [], HybridDiffusion()
    for timestep in DRIFT_TIMESTEPS:
        for tile in tiles:
            noise, t = torch.randn(1, 3, SIDE, SIDE, generator=generator), torch.tensor([timestep])
            output = denoiser.eval()(hybrid.add_noise(tile[None], noise, t), t, torch.tensor([1]))
            losses.append(float(hybrid(output, tile[None], noise, t).simple))
    assert found == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert len({found, denoising_loss(denoiser, tiles, 1, seed=5), denoising_loss(denoiser, tiles, 2, seed=4)}) == 3


def test_a_denoising_loss_is_a_number() -> None:
    denoiser = random_denoiser()
    with pytest.raises(ValueError, match="no tiles"):
        denoising_loss(denoiser, torch.zeros(0, 3, SIDE, SIDE), 1, seed=0)
    with pytest.raises(TrainingError, match=r"on 2 tiles is nan, .*lower adapt_rate") as error:
        denoising_loss(denoiser, torch.full((2, 3, SIDE, SIDE), float("nan")), 1, seed=0)
    assert one_line(error)


def test_tiles_of_drift_are_spread_over_the_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = scene_pictures(settings(), picture_data())
    everything = pictures.grid.cut(pictures.images["rgb"], torch.arange(16))
    assert torch.equal(anchor_tiles(pictures), everything)
    monkeypatch.setattr(unidiff_pictures, "DRIFT_TILES", 4)
    assert torch.equal(anchor_tiles(pictures), everything[[0, 5, 10, 15]])


@pytest.mark.parametrize("anchored", [True, False])
def test_drift_is_measured_before_and_after_every_epoch_and_drawn(
    anchored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unidiff_adaptation, "write_curve", write_curve)
    data = picture_data()
    found = run(tmp_path, data, anchored=anchored, adapt_epochs=3)
    unadapted = run(tmp_path, data, adaptation="none").denoiser
    tiles = anchor_tiles(scene_pictures(settings(), data))
    expected = [denoising_loss(d, tiles, 1, seed=0) for d in (unadapted, found.denoiser)]
    assert found.drift[[0, 3]].tolist() == pytest.approx(expected, rel=1e-5)
    assert len(set(found.drift.tolist())) == 4
    (logs,) = (path.parent for path in (tmp_path / "cache-root" / "pretraining").glob(f"*/logs/{CURVE}.csv"))
    table = list(csv.DictReader((logs / f"{CURVE}.csv").read_text().splitlines()))
    assert [float(row["drift"]) for row in table] == pytest.approx(found.drift.tolist())
    losses = [f"loss_{name}" for name in NAMES if anchored or name != "rgb"]
    assert list(table[0]) == ["epoch", "drift", *losses]
    assert [table[0][name] for name in losses] == [""] * len(losses)
    for row in table[1:]:
        assert any(row[name] for name in losses)
        assert all(float(row[name]) > 0 for name in losses if row[name])
    assert (logs / f"{CURVE}.png").read_bytes().startswith(b"\x89PNG")


def test_losses_of_an_epoch_are_means_over_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiffusionAdapter, "current_epoch", 1)
    made = adapter()
    by_kind: dict[str, list[float]] = {}
    with torch.no_grad():
        for index in range(2):
            made.training_step({}, index)
            for kind, loss in zip(*slow_losses(made, settings(), SEED, 1, index), strict=True):
                by_kind.setdefault(kind, []).append(loss)
        made.on_train_epoch_end()
    means = [sum(by_kind[name]) / len(by_kind[name]) if name in by_kind else 0.0 for name in NAMES]
    assert made.network.loss[1].tolist() == pytest.approx(means, rel=1e-4)
    assert not made.network.loss[0].any()


def test_drift_is_zero_where_no_pseudo_rgb_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_checkpoint(monkeypatch)
    data = picture_data(modalities=("sar", "lidar"))
    assert run(tmp_path, data, backbone="imagenet", anchored=False).drift.tolist() == [0.0] * 3


# Interruptions


def stopping(step: int, stop: Callable[[], None], seen: list[int]) -> Callable[..., Tensor]:
    """A training step that notes its number and stops at one of them."""
    real = DiffusionAdapter.training_step

    def training_step(self: DiffusionAdapter, batch: Any, batch_idx: int) -> Tensor:
        if self._stage == "adapt":
            seen.append(self.global_step)
            if self.global_step == step:
                stop()
        return real(self, batch, batch_idx)

    return training_step


def test_an_interrupted_adaptation_goes_on_and_ends_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the third of four epochs of two steps."""
    with monkeypatch.context() as patch:
        patch.setattr(DiffusionAdapter, "training_step", stopping(5, lambda: os.kill(os.getpid(), signal.SIGINT), []))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, adapt_epochs=4)
    (checkpoint,) = (tmp_path / "cache-root" / "pretraining").glob("*/work/checkpoints/adapt/last.ckpt")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    adapted = {f"network.denoiser.network.{name}" for name in random_denoiser().adapted_state()}
    assert state.keys() == adapted | {"network.drift", "network.loss"}
    seen: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(DiffusionAdapter, "training_step", stopping(-1, lambda: None, seen))
        resumed = run(tmp_path, adapt_epochs=4)
    assert seen == [4, 5, 6, 7], "it did not go on from the second epoch's checkpoint"
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "undisturbed"))
    undisturbed = run(tmp_path, adapt_epochs=4)
    assert same(weights(resumed.denoiser), weights(undisturbed.denoiser))
    assert torch.equal(resumed.drift, undisturbed.drift)


# What is shared


def test_the_draw_does_not_matter_and_the_seed_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = {"adapt_epochs": 1, "epoch_steps": 1}
    first = run(tmp_path, **short)
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "other"))
    data = SceneDataModule(picture_scene(), DataConfig(shots=5, draw=3))
    assert same(weights(run(tmp_path, data, draw=3, **short).denoiser), weights(first.denoiser))
    assert not same(weights(run(tmp_path, seed=1, **short).denoiser), weights(first.denoiser))


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each training is given; nothing is trained."""
    seen: list[dict[str, Any]] = []

    def fit(module: DiffusionAdapter, data: Any, context: Any, **options: Any) -> None:
        optimizer: Any = module.configure_optimizers()
        (group,) = optimizer.param_groups
        steps = len(list(data.train_dataloader()))
        seen.append(
            {"rate": group["lr"], "decay": group["weight_decay"], "batch": module._batch, "steps": steps} | options
        )

    monkeypatch.setattr(training, "fit", fit)
    return seen


def test_settings_reach_the_two_trainings(fits: list[dict[str, Any]], tmp_path: Path) -> None:
    run(tmp_path, adapt_epochs=41, source_epochs=7, epoch_steps=5, adapt_rate=0.3, source_rate=0.2, source_batch=9)
    source = {"stage": "source", "epochs": 7, "rate": 0.2, "batch": 9, "checkpoint_every": 1}
    adapt = {"stage": "adapt", "epochs": 41, "rate": 0.3, "batch": 4, "checkpoint_every": 2}
    assert fits == [{**stage, "steps": 5, "decay": 0.0} for stage in (source, adapt)]


def altered(name: str, value: Any) -> Any:
    """Another valid value of a setting,."""
    changed: dict[str, Any] = {
        "pictures": ("rgb",),
        "adaptation": "full",
        "lora_variant": "dora",
        "backbone": "imagenet",
    }
    if name in changed:
        return changed[name]
    return not value if isinstance(value, bool) else value * 2 if isinstance(value, int) else value * 1.5


def test_all_adaptations_share_one_source_and_no_two_settings_an_adaptation(
    fits: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_checkpoint(monkeypatch)
    data = picture_data()
    run(tmp_path, data)
    run(tmp_path, data, draw=2)
    assert [fit["stage"] for fit in fits] == ["source", "adapt"]
    own = set()
    for name in AdaptationConfig.model_fields:
        before = len(fits)
        run(tmp_path, data, **{name: altered(name, getattr(settings(), name))})
        stages = [fit["stage"] for fit in fits[before:]]
        assert stages in (["adapt"], ["source", "adapt"]), name
        own |= {name} if "source" in stages else set()
    assert own == {"tile", "stride", "zoom", "epoch_steps", "source_epochs", "source_batch", "source_rate"}
    before = len(fits)
    run(tmp_path, data, pictures=("rgb",), adaptation="none")
    assert len(fits) == before
    for other in (SceneDataModule(picture_scene(seed=1)), SceneDataModule(picture_scene(scene_id="other"))):
        before = len(fits)
        run(tmp_path, other)
        assert [fit["stage"] for fit in fits[before:]] == ["source", "adapt"]


# Backbones that are missing, and there


def nothing_was_begun(folder: Path) -> bool:
    return not list(folder.rglob("pretraining"))


def test_a_missing_checkpoint_is_told_before_the_scene_is_read(tmp_path: Path) -> None:
    data = SceneDataModule(str(tmp_path / "no-scene.yaml"))
    with pytest.raises(DataError, match=r"64x64_diffusion\.pt\. Fetch it with: ") as error:
        run(tmp_path, data, backbone="imagenet")
    assert one_line(error)
    assert nothing_was_begun(tmp_path)


def test_the_checkpoint_is_adapted_and_told_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_checkpoint(monkeypatch)
    unadapted, found = (run(tmp_path, backbone="imagenet", adaptation=how).denoiser for how in ("none", "film"))
    assert torch.equal(unadapted.unet.conv_in.weight, torch.load(path, weights_only=True)["input_blocks.0.0.weight"])
    assert torch.equal(found.unet.conv_in.weight, unadapted.unet.conv_in.weight)
    assert not torch.equal(found.unet.class_embedding.weight, unadapted.unet.class_embedding.weight)
    assert found.adapters_metadata()["backbone"] == f"adm-imagenet-64 {file_sha256(path)}"


@pytest.mark.parametrize(
    "change",
    [{"tile": 20}, {"tile": 0}, {"zoom": 0.9}, {"anchor_weight": 0.0}, {"adapt_epochs": 0}, {"adaptation": "x"}],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        settings(**change)
