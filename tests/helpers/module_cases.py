"""A tiny example of every LightningModule with data for it, for the tests that all modules have to pass."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import torch
from helpers.method_helpers import small_data
from helpers.unidiff_helpers import SMALL, picture_scene

from mmrs_bench.evaluation.results.metrics import confusion_matrix, scores
from mmrs_bench.methods.bdgf.module import GuidedLearner
from mmrs_bench.methods.bdgf.pretraining_module import MultimodalPretrainer
from mmrs_bench.methods.bdgf.probe import DenoiserProbe
from mmrs_bench.methods.clip.module import LanguageAlignedClassifier
from mmrs_bench.methods.clip.pretraining import MaskedDiffusionPretrainer
from mmrs_bench.methods.clip.probe import EncoderProbe
from mmrs_bench.methods.cnn.module import CnnModule
from mmrs_bench.methods.coupled_cnn.module import CoupledCnnModule
from mmrs_bench.methods.endnet.module import EndNetModule
from mmrs_bench.methods.exvit.module import ExvitModule
from mmrs_bench.methods.hct.module import HctModule
from mmrs_bench.methods.lds2ae.module import SharedEncoderClassifier
from mmrs_bench.methods.lds2ae.pretraining import SharedSpecificPretrainer
from mmrs_bench.methods.mft.module import MftModule
from mmrs_bench.methods.mivit.module import MivitModule
from mmrs_bench.methods.msfmamba.module import MsfMambaModule
from mmrs_bench.methods.s2enet.module import S2ENetModule
from mmrs_bench.methods.toolkit.stage import StageModule
from mmrs_bench.methods.unidiff.datamodule import TileDataModule, TileFeatureDataModule
from mmrs_bench.methods.unidiff.head_module import HeadModule
from mmrs_bench.methods.unidiff.module import DenoisingModule
from mmrs_bench.scenes.datamodule import SceneDataModule

QUIET = dict.fromkeys(("enable_progress_bar", "enable_model_summary"), False)


def scene_data(window: int = 7, **options: Any) -> SceneDataModule:
    """20 support windows of a small scene, in batches of 5."""
    settings = {"window": window, "shots": 5, "query_limit": 60, "batch_size": 5, **options}
    return SceneDataModule(small_data().scene, **settings)


def unlabelled_data(window: int = 7, **options: Any) -> SceneDataModule:
    """As `scene_data`, but 20 unlabelled windows an epoch."""
    return scene_data(window, train_on="unlabelled", windows_per_epoch=20, **options)


def tile_data(batch_size: int = 5, **options: Any) -> TileDataModule:
    """2 steps an epoch on tiles of a small scene."""
    return TileDataModule(picture_scene(), tile=16, stride=8, epoch_steps=2, batch_size=batch_size, **options)


def feature_data(batch_size: int = 5, **options: Any) -> TileFeatureDataModule:
    """Features of a small denoiser for the pixels of a small scene."""
    settings = {"shots": 2, "query_limit": 60, "tile": 16, "stride": 8, "block": 0, "timestep": 100}
    checkpoint = written_checkpoint(1)
    return TileFeatureDataModule(
        picture_scene(), checkpoint=checkpoint, **{**settings, "batch_size": batch_size, **options}
    )


def spectral_data(**options: Any) -> TileFeatureDataModule:
    """As `feature_data`, with spectra and without class labels."""
    return feature_data(spectra=True, class_label=False, noise_seed=0, **options)


@dataclass(frozen=True)
class ModuleCase:
    """A module and its data.

    Attributes:
        name: Name of the test.
        module: Class of the module.
        card: Card of the method whose settings are the defaults of the module.
        settings: Tiny hyperparameters.
        renamed: Names of settings in the card, by hyperparameter, where they differ.
        classifies: Whether the module predicts targets.
        data: Builds the data module; keywords change the protocol and ``batch_size``.
        exact: Settings without which the losses of two processes differ from those of one, such as dropout.
        inputs: Hyperparameters that depend on the data module; by default channels, classes and class names.
    """

    name: str
    module: type[StageModule]
    card: str
    settings: dict[str, Any] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    classifies: bool = True
    data: Callable[..., Any] = scene_data
    exact: dict[str, Any] = field(default_factory=dict)
    inputs: Callable[[Any], dict[str, Any]] | None = None

    def build(self, data: Any, **changes: Any) -> Any:
        """An untrained module for ``data`` with the weights of seed 0."""
        inputs = self._usual_inputs(data) if self.inputs is None else self.inputs(data)
        if self.module in (GuidedLearner, DenoiserProbe):
            inputs["pretrained"] = written_checkpoint(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.module(**{**inputs, **self.settings, **changes})

    def _usual_inputs(self, data: Any) -> dict[str, Any]:
        parameters = inspect.signature(self.module).parameters
        names = [name for name in ("channels", "num_classes", "class_names") if name in parameters]
        return {name: getattr(data, name) for name in names}


#: Tiny sizes of DiffCLIP's encoder, of BDGF's denoiser and of UniDiff's.
ENCODER = {"window": 7, "width": 8, "heads": 2, "depth": 1}
DENOISER = {"window": 7, "base": 4, "multipliers": (1, 2), "blocks": 1}
UNET = {"backbone": "tiny", "sizes": asdict(SMALL), "adaptation": "full"}

#: Stages that others need.
FIRST_STAGES = (
    ModuleCase(
        "bdgf-stage1",
        MultimodalPretrainer,
        "bdgf",
        {**DENOISER, "mask_patch": 2, "mask_warmup": 1, "mask_every": 1},
        {"learning_rate": "pretrain_rate"},
        classifies=False,
        data=unlabelled_data,
    ),
    ModuleCase(
        "unidiff-stage-a",
        DenoisingModule,
        "unidiff",
        UNET,
        {"learning_rate": "adapt_rate"},
        classifies=False,
        data=tile_data,
        exact={"sizes": asdict(replace(SMALL, dropout=0.0))},
        inputs=lambda data: {"pictures": data.names},
    ),
)

CASES = (
    *FIRST_STAGES,
    ModuleCase("cnn", CnnModule, "cnn", {"width": 4}, exact={"dropout": 0.0}),
    ModuleCase(
        "diffclip-stage1",
        MaskedDiffusionPretrainer,
        "diffclip",
        {**ENCODER, "decoder_depth": 1},
        {
            "learning_rate": "pretrain_rate",
            "weight_decay": "pretrain_decay",
            "schedule": "pretrain_schedule",
            "crop": "pretrain_crop",
        },
        classifies=False,
        data=unlabelled_data,
    ),
    ModuleCase("diffclip-stage2", LanguageAlignedClassifier, "diffclip", {**ENCODER, "text_layers": 1}),
    ModuleCase(
        "bdgf-stage2", GuidedLearner, "bdgf", {**DENOISER, "timesteps": (50,), "width": 8}, exact={"dropout": 0.0}
    ),
    ModuleCase(
        "bdgf-one-branch",
        GuidedLearner,
        "bdgf",
        {**DENOISER, "timesteps": (50,), "width": 8, "branches": ("transformer",)},
        exact={"dropout": 0.0},
    ),
    ModuleCase("bdgf-probe", DenoiserProbe, "bdgf-probe", {**DENOISER, "timesteps": (50,)}),
    ModuleCase("diffclip-probe", EncoderProbe, "diffclip-probe", ENCODER),
    ModuleCase("coupled-cnn", CoupledCnnModule, "coupled-cnn", exact={"dropout": 0.0}),
    ModuleCase("endnet", EndNetModule, "endnet"),
    ModuleCase(
        "exvit",
        ExvitModule,
        "exvit",
        {"window": 7, "width": 8, "branch_blocks": 1, "fused_blocks": 1},
        exact={"dropout": 0.0},
    ),
    ModuleCase("mft", MftModule, "mft", {"width": 8}, exact={"dropout": 0.0}),
    ModuleCase(
        "lds2ae-stage1",
        SharedSpecificPretrainer,
        "lds2ae",
        {**ENCODER, "decoder_depth": 1},
        classifies=False,
        data=unlabelled_data,
    ),
    ModuleCase("lds2ae-stage2", SharedEncoderClassifier, "lds2ae", ENCODER),
    ModuleCase("mivit", MivitModule, "mivit", {"window": 7, "width": 8, "depth": 1}, exact={"dropout": 0.0}),
    ModuleCase("msfmamba", MsfMambaModule, "msfmamba", {"window": 7, "width": 4, "states": 2}),
    ModuleCase("hct", HctModule, "hct", {"window": 7}, exact={"dropout": 0.0}),
    ModuleCase("s2enet", S2ENetModule, "s2enet", {"window": 7}),
    ModuleCase(
        "unidiff-stage-b",
        HeadModule,
        "unidiff",
        data=feature_data,
        inputs=lambda data: {"features": data.feature_size, "num_classes": data.num_classes},
    ),
    ModuleCase(
        "geodiffnet-f",
        HeadModule,
        "unidiff",  # whose head is the default
        {"head": "spectral-sum", "vote": "labels"},
        data=spectral_data,
        inputs=lambda data: {
            "features": data.feature_size,
            "num_classes": data.num_classes,
            "bands": data.channels["hsi"],
        },
    ),
)


def logged_scores(data: SceneDataModule, predicted: Any) -> dict[str, float]:
    """What ``trainer.test`` has to log for predictions of the query pixels."""
    expected = scores(confusion_matrix(data.query_targets, predicted, data.num_classes))
    return {"test/OA": expected.oa, "test/AA": expected.aa, "test/kappa": expected.kappa}


@cache
def written_checkpoint(number: int) -> str:
    """Path of a checkpoint of the untrained module of `FIRST_STAGES`."""
    case = FIRST_STAGES[number]
    return saved(case.build(case.data()), Path(tempfile.mkdtemp()) / "stage.ckpt")


def saved(module: L.LightningModule, path: Path) -> str:
    """Write a checkpoint of an untrained module; returns its path."""
    own = trainer(path.parent, 0)
    own.strategy.connect(module)
    own.save_checkpoint(path)
    return str(path)


class Losses(L.Callback):
    """Records the training loss of every step, averaged over processes."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs["loss"].detach()
        self.values.append(float(trainer.strategy.reduce(loss, reduce_op="mean")))


def trainer(folder: Path, epochs: int = 2, **options: Any) -> L.Trainer:
    """A quiet trainer on the CPU without logs."""
    options = {"logger": False, "enable_checkpointing": False, "devices": 1, **QUIET, **options}
    return L.Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=folder, **options)
