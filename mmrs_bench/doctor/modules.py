"""A tiny example of every LightningModule of the suite, with a batch that all of them accept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from mmrs_bench.methods.toolkit.stage import StageModule
from mmrs_bench.randomness import torch_generator

SAMPLES, WINDOW, CLASSES, TILE, FEATURES = 8, 9, 3, 16, 12
CHANNELS = {"hsi": 5, "lidar": 2}
CLASS_NAMES = ("trees", "roads", "water")
PICTURES = ("rgb", "lidar0")

Batch = dict[str, Any]


def _logits(module: Any, batch: Batch) -> Tensor:
    return module.logits(batch)  # type: ignore[no-any-return]


def _features(module: Any, batch: Batch) -> Tensor:
    return module.features(module.windows_of(batch))  # type: ignore[no-any-return]


def _noise_of_windows(module: Any, batch: Batch) -> Tensor:
    predicted = module.denoiser(batch["windows"], batch["timesteps"])
    return torch.cat([noise.flatten() for noise in predicted.values()])


def _noise_of_tiles(module: Any, batch: Batch) -> Tensor:
    return module(batch["tiles"], batch["timesteps"], batch["row"])  # type: ignore[no-any-return]


@dataclass(frozen=True)
class TinyModule:
    """A LightningModule with tiny sizes.

    Attributes:
        title: What it is, for the table.
        path: ``folder.file.Class`` within `mmrs_bench.methods`; imported when it is built.
        settings: Hyperparameters.
        output: Its output without random numbers for a batch.
        pretrained: Position in `TINY_MODULES` of the module whose denoiser it takes; None for none.
    """

    title: str
    path: str
    settings: dict[str, Any]
    output: Callable[[Any, Batch], Tensor] = _logits
    pretrained: int | None = None

    @property
    def name(self) -> str:
        """Name of the class."""
        return self.path.rpartition(".")[2]

    def module_class(self) -> type[StageModule]:
        """The class."""
        module, _, name = self.path.rpartition(".")
        found: type[StageModule] = getattr(import_module(f"mmrs_bench.methods.{module}"), name)
        return found

    def build(self) -> Any:
        """An untrained module with weights from the random state of the process."""
        module: Any = self.module_class()(**self.settings)
        if self.pretrained is not None:
            module.use_denoiser(TINY_MODULES[self.pretrained].build().denoiser)
        return module


_WINDOWS = {"channels": CHANNELS, "window": WINDOW}
_CLASSIFIER = {**_WINDOWS, "num_classes": CLASSES}
_ENCODER = {"width": 8, "heads": 2, "depth": 1}
_DENOISER = {"base": 4, "multipliers": (1, 2), "blocks": 1}
_UNET = {
    "base_channels": 32,
    "multipliers": (1, 1),
    "blocks": 1,
    "attention_resolutions": (8,),
    "head_channels": 32,
    "classes": 8,
    "image_size": TILE,
    "dropout": 0.1,
}
_HEAD = {"features": FEATURES, "num_classes": CLASSES}

TINY_MODULES = (
    TinyModule(
        "BDGF, stage 1",
        "bdgf.pretraining_module.MultimodalPretrainer",
        {**_WINDOWS, **_DENOISER, "mask_patch": 2},
        _noise_of_windows,
    ),
    TinyModule(
        "BDGF, stage 2",
        "bdgf.module.GuidedLearner",
        {**_CLASSIFIER, **_DENOISER, "timesteps": (50,), "width": 8},
        pretrained=0,
    ),
    TinyModule(
        "BDGF, linear probe",
        "bdgf.probe.DenoiserProbe",
        {**_CLASSIFIER, **_DENOISER, "timesteps": (50,)},
        pretrained=0,
    ),
    TinyModule("CNN", "cnn.module.CnnModule", {"channels": CHANNELS, "num_classes": CLASSES, "width": 4}),
    TinyModule(
        "DiffCLIP, stage 1",
        "clip.pretraining.MaskedDiffusionPretrainer",
        {**_WINDOWS, **_ENCODER, "decoder_depth": 1},
        _features,
    ),
    TinyModule(
        "DiffCLIP, stage 2",
        "clip.module.LanguageAlignedClassifier",
        {**_CLASSIFIER, **_ENCODER, "class_names": CLASS_NAMES, "text_layers": 1},
    ),
    TinyModule("DiffCLIP, linear probe", "clip.probe.EncoderProbe", {**_CLASSIFIER, **_ENCODER}),
    TinyModule("Coupled CNNs", "coupled_cnn.module.CoupledCnnModule", {"channels": CHANNELS, "num_classes": CLASSES}),
    TinyModule("EndNet", "endnet.module.EndNetModule", {"channels": CHANNELS, "num_classes": CLASSES}),
    TinyModule(
        "ExViT", "exvit.module.ExvitModule", {**_CLASSIFIER, "width": 32, "branch_blocks": 1, "fused_blocks": 1}
    ),
    TinyModule("MFT", "mft.module.MftModule", {"channels": CHANNELS, "num_classes": CLASSES, "width": 8}),
    TinyModule(
        "LDS2AE, stage 1",
        "lds2ae.pretraining.SharedSpecificPretrainer",
        {**_WINDOWS, **_ENCODER, "decoder_depth": 1},
        _features,
    ),
    TinyModule("LDS2AE, stage 2", "lds2ae.module.SharedEncoderClassifier", {**_CLASSIFIER, **_ENCODER}),
    TinyModule("MIViT", "mivit.module.MivitModule", {**_CLASSIFIER, "width": 16, "depth": 1}),
    TinyModule("MSFMamba", "msfmamba.module.MsfMambaModule", {**_CLASSIFIER, "width": 4, "states": 2}),
    TinyModule("HCT", "hct.module.HctModule", _CLASSIFIER),
    TinyModule("S2ENet", "s2enet.module.S2ENetModule", _CLASSIFIER),
    TinyModule(
        "UniDiff, stage A",
        "unidiff.module.DenoisingModule",
        {"pictures": PICTURES, "backbone": "tiny", "sizes": _UNET, "adaptation": "full"},
        _noise_of_tiles,
    ),
    TinyModule("UniDiff, stage B", "unidiff.head_module.HeadModule", _HEAD),
    TinyModule(
        "GeoDiffNet-F, stage B",
        "unidiff.head_module.HeadModule",
        {**_HEAD, "head": "spectral-sum", "bands": CHANNELS["hsi"], "vote": "labels"},
    ),
)


@cache
def tiny_batch() -> Batch:
    """A batch of random inputs on the CPU with the entries that any of the modules reads."""
    generator = torch_generator("doctor", "batch")

    def normal(*shape: int) -> Tensor:
        return torch.randn(SAMPLES, *shape, generator=generator)

    from mmrs_bench.methods.unidiff.pictures import picture_row

    rows = torch.tensor([picture_row(name) for name in PICTURES])
    return {
        "pixel": torch.arange(SAMPLES),
        "target": torch.arange(SAMPLES) % CLASSES,
        "windows": {name: normal(count, WINDOW, WINDOW) for name, count in CHANNELS.items()},
        "timesteps": torch.arange(SAMPLES) * 100,
        "tiles": normal(3, TILE, TILE).tanh(),
        "row": rows[torch.arange(SAMPLES) % len(rows)],
        "vectors": normal(FEATURES),
        "spectra": normal(CHANNELS["hsi"]),
    }
