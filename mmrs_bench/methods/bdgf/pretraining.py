"""Stage 1 of BDGF: a diffusion model of all modalities, pretrained on unlabelled windows with adaptive masks."""

from __future__ import annotations

from pathlib import Path

from mmrs_bench.errors import DataError
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.bdgf.config import DenoisingConfig
from mmrs_bench.methods.bdgf.pretraining_module import MultimodalPretrainer
from mmrs_bench.methods.toolkit.curves import write_curves
from mmrs_bench.methods.toolkit.pretraining import PretrainingConfig, pretrain_on_windows
from mmrs_bench.scenes.datamodule import SceneDataModule

#: Increment when the pretraining changes, so that old cache entries are ignored.
PRETRAINING_VERSION = 4
#: Names of the curve's files, without suffix.
CURVE = "mask_ratios"


def pretrained_denoiser(config: DenoisingConfig, data: SceneDataModule, context: RunContext) -> MultimodalPretrainer:
    """The pretrained module for a scene as it receives it: read from the cache, or trained and stored there.

    Raises:
        ConfigError: See `MultimodalPretrainer`; before any training.
        BenchError: See `mmrs_bench.methods.toolkit.pretraining.pretrain_on_windows`.
    """
    own = DenoisingConfig.model_fields.keys() - PretrainingConfig.model_fields.keys()
    settings = {name: getattr(config, name) for name in own}

    def build(seed: int) -> MultimodalPretrainer:
        module = MultimodalPretrainer(
            data.channels, data.config.window, **settings, learning_rate=config.pretrain_rate, seed=seed
        )
        module.curves.reserve(config.pretrain_epochs)  # the cache compares shapes with those of the trained module
        return module

    return pretrain_on_windows(
        build,
        data,
        context,
        config=config,
        settings=tuple(DenoisingConfig.model_fields),
        method="bdgf",
        version=PRETRAINING_VERSION,
        finish=lambda module, shared: write_curve(module, shared.work_dir / "logs"),
    )


def check_modalities(data: SceneDataModule) -> None:
    """Raise DataError for a modality that is constant, in the scene or in the scope of the normalisation.

    The HSI has to have its bands: principal components would amplify rounding errors.
    """
    for name, image in data.images.items():
        raw = data.scene.images[name]
        if not image.any() or (raw.max(axis=(0, 1)) == raw.min(axis=(0, 1))).all():
            raise DataError(
                f"modality {name} of scene {data.scene.manifest.id} is constant, so a denoiser cannot learn anything "
                "from it; check its file, widen normalisation_scope, or leave it out with --modalities"
            )


def write_curve(module: MultimodalPretrainer, folder: Path) -> None:
    """Write losses and mask ratios by epoch and modality: ``mask_ratios.csv`` and a figure ``mask_ratios.png``."""
    modalities, losses, ratios = list(module.channels), module.curves["loss"], module.curves["ratio"]
    rows = (
        (epoch, name, float(losses[epoch, place]), float(ratios[epoch, place]))
        for epoch in range(len(losses))
        for place, name in enumerate(modalities)
    )
    curves = {"mask ratio": ratios, "denoising loss": losses}
    panels = {label: dict(zip(modalities, values.T, strict=True)) for label, values in curves.items()}
    write_curves(folder / CURVE, ("epoch", "modality", "loss", "mask_ratio"), rows, panels)
