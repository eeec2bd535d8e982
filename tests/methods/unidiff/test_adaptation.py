"""Stage A of UniDiff: trained and saved parameters, drift, resumption, sharing, and missing checkpoints."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from helpers.method_helpers import other_value, refused
from helpers.network_helpers import same, weights
from helpers.unidiff_helpers import picture_data, picture_scene, settings, small_checkpoint
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
    """The module after stage A."""
    context = RunContext(seed=seed, draw=draw, work_dir=folder / "cell")
    return adapted_denoiser(settings(**changes), data or picture_data(), context)[0]


def test_without_adaptation_the_denoiser_is_the_backbone(tmp_path: Path) -> None:
    context = RunContext(seed=0, draw=0, work_dir=tmp_path)
    found, backbone = adapted_denoiser(settings(adaptation="none"), picture_data(), context)
    assert same(weights(found.denoiser.network), backbone.weights)
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
    files = (tmp_path / "cache-root" / "pretraining").glob(f"*/logs/{CURVE}.*")
    assert {path.suffix for path in files} == {".csv", ".png"}


# Sharing


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each training; nothing is trained."""
    seen: list[dict[str, Any]] = []

    def fit(module: DenoisingModule, loaders: training.Loaders, context: Any, **options: Any) -> None:
        (group,) = module.configure_optimizers().param_groups
        rows = [batch["row"].tolist() for batch in loaders.train]
        served = {"batches": [*map(len, rows)], "rows": set(chain.from_iterable(rows))}
        seen.append({"rate": group["lr"], "decay": group["weight_decay"], **served, **options})

    monkeypatch.setattr(training, "fit", fit)
    return seen


@pytest.mark.parametrize(("anchored", "rows"), [(True, {1, 2, 3, 4, 5}), (False, {2, 3, 4, 5})])
def test_both_trainings_use_their_settings_and_anchoring_adds_the_pseudo_rgb(
    anchored: bool, rows: set[int], fits: list[dict[str, Any]], tmp_path: Path
) -> None:
    sources = {"source_epochs": 7, "source_rate": 0.2, "source_batch": 9}
    run(tmp_path, anchored=anchored, adapt_epochs=41, adapt_rate=0.3, adapt_batch=32, epoch_steps=5, **sources)
    source = {"stage": "source", "epochs": 7, "rate": 0.2, "batches": [9] * 5, "rows": {1}, "validate": False}
    adapt = {"stage": "adapt", "epochs": 41, "rate": 0.3, "batches": [32] * 5, "rows": rows, "validate": True}
    assert fits == [{**stage, "decay": 0.0, "resumable": True} for stage in (source, adapt)]


def test_adaptations_share_the_backbone_and_differ_by_setting_and_scene(
    fits: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_checkpoint(monkeypatch)
    others = {"pictures": ("rgb",), "adaptation": "full", "lora_variant": "dora", "backbone": "imagenet", "zoom": 2.0}

    def stages(data: SceneDataModule | None = None, **changes: Any) -> list[str]:
        before = len(fits)
        run(tmp_path, data, **changes)
        return [fit["stage"] for fit in fits[before:]]

    assert stages() == ["source", "adapt"]
    assert stages(SceneDataModule(picture_scene(), DataConfig(shots=5, draw=3)), draw=2) == []
    assert stages(seed=1) == ["source", "adapt"]
    assert stages(pictures=("rgb",), adaptation="none") == []
    for name in AdaptationConfig.model_fields:
        expected = ["source", "adapt"] if name in SOURCE_SETTINGS else ["adapt"]
        assert stages(**{name: other_value(settings(), name, others)}) == expected, name
    for scene in (picture_scene(seed=1), picture_scene(scene_id="other")):
        assert stages(SceneDataModule(scene)) == ["source", "adapt"]


# Checkpoints


def test_a_missing_checkpoint_is_reported_before_the_scene_is_read(tmp_path: Path) -> None:
    data = SceneDataModule(str(tmp_path / "no-scene.yaml"))
    with refused(DataError, r"64x64_diffusion\.pt\. Fetch it with: "):
        run(tmp_path, data, backbone="imagenet")
    assert not list(tmp_path.rglob("pretraining"))
