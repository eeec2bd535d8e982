"""Stage A of UniDiff: trained and saved parameters, drift, resumption, sharing, and missing checkpoints."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.network_helpers import same, weights
from helpers.unidiff_helpers import picture_data, picture_scene, refused, settings, small_checkpoint
from torch import Tensor

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import DataError, TrainingError
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.unidiff import adaptation as unidiff_adaptation
from mmrs_bench.methods.unidiff.adaptation import CURVE, SOURCE_SETTINGS, adapted_denoiser, write_curve
from mmrs_bench.methods.unidiff.adm_adaptation import AdaptedDenoiser
from mmrs_bench.methods.unidiff.config import AdaptationConfig
from mmrs_bench.methods.unidiff.datamodule import drift_tiles
from mmrs_bench.methods.unidiff.hybrid_diffusion import denoising_losses
from mmrs_bench.methods.unidiff.module import DenoisingModule
from mmrs_bench.methods.unidiff.pictures import scene_pictures
from mmrs_bench.randomness import SampleRandom
from mmrs_bench.scenes.datamodule import SceneDataModule

pytestmark = pytest.mark.usefixtures("small_tiny")


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unidiff_adaptation, "write_curve", lambda *args: None)  # drawing takes longer than training


def run(
    folder: Path, data: SceneDataModule | None = None, *, draw: int = 0, seed: int = 0, **changes: Any
) -> DenoisingModule:
    context = RunContext(seed=seed, draw=draw, work_dir=folder / "cell")
    return adapted_denoiser(settings(**changes), data or picture_data(), context)[0]


def cached(folder: Path, pattern: str) -> list[Path]:
    return list((folder / "cache-root" / "pretraining").glob(pattern))


# Trained parameters


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """By stage: parameters before and after, trainable ones, and the rows of every training step."""
    seen: dict[str, Any] = {}
    train, forward = unidiff_adaptation._train, AdaptedDenoiser.forward

    def watch(module: DenoisingModule, *args: Any, **options: Any) -> None:
        rows: list[list[int]] = []

        def recorded(self: AdaptedDenoiser, noised: Tensor, timesteps: Tensor, modality: Tensor) -> Tensor:
            if self.training:
                rows.append(modality.tolist())
            return forward(self, noised, timesteps, modality)

        monkeypatch.setattr(AdaptedDenoiser, "forward", recorded)
        before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        train(module, *args, **options)
        after = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        trainable = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        seen[module.stage] = {"before": before, "after": after, "trainable": trainable, "rows": rows}

    monkeypatch.setattr(unidiff_adaptation, "_train", watch)
    return seen


def test_anchoring_adds_the_pseudo_rgb_to_the_training(tmp_path: Path, watched: dict[str, Any]) -> None:
    for anchored in (True, False):
        run(tmp_path, anchored=anchored, adapt_batch=32)
        rows = watched["adapt"]["rows"]
        assert {row for step in rows for row in step} == ({1, 2, 3, 4, 5} if anchored else {2, 3, 4, 5})
        assert [len(step) for step in rows] == [32] * 4
    assert watched["source"]["rows"] == [[1] * 4] * 2


def test_without_adaptation_the_denoiser_is_the_backbone(tmp_path: Path, watched: dict[str, Any]) -> None:
    found = run(tmp_path, adaptation="none", adapt_epochs=3)
    assert list(watched) == ["source"]
    source = {name.removeprefix("denoiser."): values for name, values in watched["source"]["after"].items()}
    assert same(weights(found.denoiser), source)
    assert not any(curve.any() for curve in found.curves.buffers())
    assert not found.denoiser.training


@pytest.mark.parametrize(("stage", "value"), [("adapt", float("nan")), ("source", float("inf"))])
def test_a_loss_that_is_not_finite_is_an_error_with_stage_picture_and_step(
    stage: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = AdaptedDenoiser.forward

    def broken(self: AdaptedDenoiser, *args: Tensor) -> Tensor:
        at_fault = self.training and (self.adaptation == "full") == (stage == "source")
        return real(self, *args) + (value if at_fault else 0.0)

    monkeypatch.setattr(AdaptedDenoiser, "forward", broken)
    with refused(TrainingError, rf"^{stage}: loss_\w+ is (nan|inf) at step 0; lower the learning rate"):
        run(tmp_path)


# Drift


@pytest.mark.parametrize("anchored", [True, False])
def test_drift_is_measured_before_and_after_every_epoch_and_saved(
    anchored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unidiff_adaptation, "write_curve", write_curve)
    data = picture_data()
    found = run(tmp_path, data, anchored=anchored, adapt_epochs=3)
    drift = found.curves["drift"][:, 0].tolist()
    (batch,) = drift_tiles(scene_pictures(settings(), data))
    for denoiser, expected in ((run(tmp_path, data, adaptation="none").denoiser, drift[0]), (found.denoiser, drift[3])):
        losses = denoising_losses(denoiser, batch["tiles"], batch["row"], SampleRandom("drift", 0))
        assert float(losses.mean()) == pytest.approx(expected, rel=1e-5)
    assert len(set(drift)) == 4
    assert {path.suffix for path in cached(tmp_path, f"*/logs/{CURVE}.*")} == {".csv", ".png"}


# Resumption


def recorded_step(seen: list[int], before: Callable[[int], None]) -> Callable[..., Tensor]:
    """A training step of stage A that records its number and calls ``before`` with it."""
    real = DenoisingModule.training_step

    def training_step(self: DenoisingModule, batch: Any, batch_idx: int) -> Tensor:
        if self.stage == "adapt":
            seen.append(self.global_step)
            before(self.global_step)
        return real(self, batch, batch_idx)

    return training_step


def test_an_interrupted_adaptation_is_resumed_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the third of four epochs of two steps."""

    def interrupt(step: int) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(DenoisingModule, "training_step", recorded_step([], interrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, adapt_epochs=4)
    (checkpoint,) = cached(tmp_path, "*/work/checkpoints/adapt/last.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 4
    seen: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(DenoisingModule, "training_step", recorded_step(seen, lambda step: None))
        resumed = run(tmp_path, adapt_epochs=4)
    assert seen == [4, 5, 6, 7], "not resumed from the checkpoint of the second epoch"
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "undisturbed"))
    undisturbed = run(tmp_path, adapt_epochs=4)
    assert same(weights(resumed), weights(undisturbed)), "parameters or curves"


# Sharing


def test_the_result_depends_on_the_seed_and_not_on_the_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = {"adapt_epochs": 1, "epoch_steps": 1}
    first = run(tmp_path, **short)
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "other"))
    data = SceneDataModule(picture_scene(), DataConfig(shots=5, draw=3))
    assert same(weights(run(tmp_path, data, draw=3, **short).denoiser), weights(first.denoiser))
    assert not same(weights(run(tmp_path, seed=1, **short).denoiser), weights(first.denoiser))


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each training; nothing is trained."""
    seen: list[dict[str, Any]] = []

    def fit(module: DenoisingModule, loaders: training.Loaders, context: Any, **options: Any) -> None:
        (group,) = module.configure_optimizers().param_groups
        sizes = [len(batch["tiles"]) for batch in loaders.train]
        seen.append({"rate": group["lr"], "decay": group["weight_decay"], "batches": sizes} | options)

    monkeypatch.setattr(training, "fit", fit)
    return seen


def test_both_trainings_use_their_settings(fits: list[dict[str, Any]], tmp_path: Path) -> None:
    run(tmp_path, adapt_epochs=41, source_epochs=7, epoch_steps=5, adapt_rate=0.3, source_rate=0.2, source_batch=9)
    source = {"stage": "source", "epochs": 7, "rate": 0.2, "batches": [9] * 5, "validate": False}
    adapt = {"stage": "adapt", "epochs": 41, "rate": 0.3, "batches": [4] * 5, "validate": True}
    assert fits == [{**stage, "decay": 0.0, "resumable": True} for stage in (source, adapt)]


def other_value(name: str, value: Any) -> Any:
    """Another valid value of a setting."""
    texts = {"pictures": ("rgb",), "adaptation": "full", "lora_variant": "dora", "backbone": "imagenet"}
    if name in texts:
        return texts[name]
    return not value if isinstance(value, bool) else value * 2 if isinstance(value, int) else value * 1.5


def test_adaptations_share_the_backbone_and_differ_by_setting_and_scene(
    fits: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_checkpoint(monkeypatch)

    def stages(data: SceneDataModule | None = None, **changes: Any) -> list[str]:
        before = len(fits)
        run(tmp_path, data, **changes)
        return [fit["stage"] for fit in fits[before:]]

    assert stages() == ["source", "adapt"]
    assert stages(draw=2) == []
    assert stages(pictures=("rgb",), adaptation="none") == []
    for name in AdaptationConfig.model_fields:
        expected = ["source", "adapt"] if name in SOURCE_SETTINGS else ["adapt"]
        assert stages(**{name: other_value(name, getattr(settings(), name))}) == expected, name
    for scene in (picture_scene(seed=1), picture_scene(scene_id="other")):
        assert stages(SceneDataModule(scene)) == ["source", "adapt"]


# Checkpoints


def test_a_missing_checkpoint_is_reported_before_the_scene_is_read(tmp_path: Path) -> None:
    data = SceneDataModule(str(tmp_path / "no-scene.yaml"))
    with refused(DataError, r"64x64_diffusion\.pt\. Fetch it with: "):
        run(tmp_path, data, backbone="imagenet")
    assert not list(tmp_path.rglob("pretraining"))
