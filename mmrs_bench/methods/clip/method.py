"""CLIP-style few-shot classification: a window encoder learned against the texts of the classes.

`LanguageAlignedClassifier` is DiffCLIP's second stage; with an untrained encoder it is the method that DiffCLIP is
compared with.

Letters: b batch, m modalities, c channels, n pixels of a window, d width, k classes.

Reference: DiffCLIP (AAAI 2025, doi 10.1609/aaai.v39i21.34401), its second stage. The paper compares with "CLIP"
without saying what that is; the same encoder without the first stage is our reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from mmrs_bench.methods.base import Method, MethodConfig, ParameterCounts
from mmrs_bench.methods.clip.alignment import (
    FrozenTexts,
    LogitScale,
    ScratchTexts,
    class_aware_loss,
    cosine_similarity,
    diagonal_loss,
)
from mmrs_bench.methods.clip.augmentation import center_resize_crop, random_choice
from mmrs_bench.methods.clip.masked_vit import ImageEncoder, Readout, window_pixels
from mmrs_bench.methods.clip.prompts import TEMPLATE, class_prompts, tokenize
from mmrs_bench.methods.clip.text import SCRATCH, ScratchTextTower, frozen_class_embeddings
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.network_method import Blueprint, load_network, save_network
from mmrs_bench.models.diffusion import TIMESTEPS
from mmrs_bench.paths import cache_root
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray

NAME = "clip"
VALIDATION_METRIC = "validation_accuracy"
STAGE = "language alignment"

#: Windows that a CPU encodes at once: their tokens stay in its cache.
CPU_CHUNK = 32
Crop = Literal["none", "joint", "independent"]


class ClipConfig(MethodConfig):
    """Settings of `Clip`.

    Attributes:
        components: Principal components of the HSI at most, each with unit variance, that take the place of its bands;
            None keeps the bands, as released.
        width, heads, depth, mlp_ratio: Sizes of the shared encoder.
        learn_positions: Whether positions are learned from the sines and cosines that they start as.
        readout: See `mmrs_bench.methods.clip.masked_vit.ImageEncoder`.
        temperature: That the contrast starts from; it is learned.
        text: Text tower, see `mmrs_bench.methods.clip.text`.
        text_layers: Layers of the tower ``scratch``.
        template: Prompt with ``{class}`` where the class name goes.
        descriptions: More prompts by class name, for prompt ensembling.
        contrast: ``class``: images against classes; ``diagonal``: pairs of a batch against each other, as released.
        crop: Enlarge the centre of half of the training windows: in all modalities of a window alike (``joint``), or in
            each by its own coin (``independent``).
        symmetries: Whether training windows get a random symmetry of the square.
        timestep: What the class token is told about clean windows: ``zero``, or ``random`` as released.
        epochs, batch_size: Passes over the support, and windows of a step.
        learning_rate: Of Adam.
        encoder_rate: Learning rate of tokenizers and encoder as a share of that of head, texts and temperature.
        weight_decay: Of Adam, as L2 penalty.
        schedule: ``cosine`` or ``multistep``, see `lr_schedule`.
    """

    components: int | None = Field(default=10, ge=1)
    width: int = Field(default=128, ge=4, multiple_of=4)
    heads: int = Field(default=8, ge=1)
    depth: int = Field(default=4, ge=1)
    mlp_ratio: float = Field(default=2.0, gt=0)
    learn_positions: bool = False
    readout: Readout = "tokens"
    temperature: float = Field(default=0.07, gt=0)
    text: str = SCRATCH
    text_layers: int = Field(default=3, ge=1)
    template: str = TEMPLATE
    descriptions: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    contrast: Literal["class", "diagonal"] = "class"
    crop: Crop = "joint"
    symmetries: bool = True
    timestep: Literal["zero", "random"] = "zero"
    epochs: int = Field(default=150, ge=1)
    batch_size: int = Field(default=128, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    encoder_rate: float = Field(default=1.0, ge=0)
    weight_decay: float = Field(default=1e-5, ge=0)
    schedule: Literal["cosine", "multistep"] = "cosine"

    @field_validator("heads")
    @classmethod
    def _heads_share_the_width(cls, heads: int, info: ValidationInfo) -> int:
        width = info.data.get("width", heads)
        if width % heads:
            raise ValueError(f"{heads} heads cannot share a width of {width}; use a divisor of it")
        return heads


class ClipNetwork(nn.Module):
    """Image encoder, class texts and temperature.

    Args:
        image: Encoder of windows.
        texts: Called without arguments, gives unit vectors (k, d).
        temperature: That the contrast starts from.
    """

    def __init__(self, image: ImageEncoder, texts: nn.Module, temperature: float) -> None:
        super().__init__()
        self.image = image
        self.texts = texts
        self.scale = LogitScale(temperature)

    def forward(self, pixels: Mapping[str, Tensor], timesteps: Tensor) -> Tensor:
        """Scaled cosines (b, k) of windows' pixels (b, n, c) by modality at timesteps (b,)."""
        images = self.image(self.image.embed_pixels(pixels), timesteps)
        logits: Tensor = self.scale(cosine_similarity(images, self.texts()))
        return logits


def class_vectors(config: ClipConfig, class_names: Sequence[str]) -> Tensor | None:
    """Vectors (k, d) of a frozen text tower; None for ``scratch``, whose prompts are only checked.

    Raises:
        ConfigError: If the text tower is unknown, or a class has no text or one that is too long.
        DataError: If the tower's files are missing or damaged.
    """
    prompts = _prompts(config, class_names)
    if config.text == SCRATCH:
        tokenize([text for group in prompts for text in group])
        return None
    return frozen_class_embeddings(config.text, class_names, prompts, cache=cache_root() / "text")


def clip_network(config: ClipConfig, channels: Mapping[str, int], side: int, class_names: Sequence[str]) -> ClipNetwork:
    """An untrained network.

    Args:
        config: Settings.
        channels: Channels by modality.
        side: Window side in pixels.
        class_names: k names, in target order.

    Raises:
        BenchError: See `class_vectors`.
    """
    vectors = class_vectors(config, class_names)
    texts = _scratch_texts(config, class_names) if vectors is None else FrozenTexts(vectors, config.width)
    return _assemble(config, channels, side, texts)


def _prompts(config: ClipConfig, class_names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    return class_prompts(class_names, template=config.template, descriptions=config.descriptions)


def _scratch_texts(config: ClipConfig, class_names: Sequence[str]) -> ScratchTexts:
    tower = ScratchTextTower(config.width, config.heads, config.text_layers)
    return ScratchTexts(tower, _prompts(config, class_names))


def _assemble(config: ClipConfig, channels: Mapping[str, int], side: int, texts: nn.Module) -> ClipNetwork:
    image = ImageEncoder(
        channels,
        side,
        output=config.width,
        width=config.width,
        heads=config.heads,
        depth=config.depth,
        mlp_ratio=config.mlp_ratio,
        learn_positions=config.learn_positions,
        readout=config.readout,
    )
    return ClipNetwork(image, texts, config.temperature)


def cropped(windows: Mapping[str, Tensor], crop: Crop, generator: torch.Generator) -> Mapping[str, Tensor]:
    """Training windows (b, c, w, w) by modality, the centre of about half of them enlarged (see `ClipConfig`)."""
    if crop == "none":
        return windows
    batch = len(next(iter(windows.values())))
    chosen = random_choice(tuple(windows), batch, generator, joint=crop == "joint")
    return center_resize_crop(windows, chosen)


def lr_schedule(optimizer: torch.optim.Optimizer, name: str, epochs: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A learning-rate schedule stepped once an epoch.

    Args:
        optimizer: Its optimiser.
        name: ``cosine``: half a cosine to 0. ``multistep``: a tenth after two thirds of the epochs and a hundredth
            after 131 of 150, as released. ``restarts``: a cosine restarted after 5, 15, 35, ... epochs, as released.
        epochs: Length of the training.
    """
    if name == "multistep":
        milestones = [round(epochs * 100 / 150), round(epochs * 131 / 150)]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
    if name == "restarts":
        return torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=5, T_mult=2)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)


class LanguageAlignedClassifier(L.LightningModule):
    """Stage 2: image embeddings of windows learned against class texts.

    Args:
        network: The network; what it shares with stage 1 may be pretrained.
        config: Settings.
        seed: Seed of crops and timesteps.
        draw: Index of the support sample, of which they also depend.
    """

    def __init__(self, network: ClipNetwork, config: ClipConfig, *, seed: int, draw: int) -> None:
        super().__init__()
        self.network = network
        self._config = config
        self._address = (draw, seed)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Contrastive loss (scalar) of a batch with ``windows`` and ``target`` (b,)."""
        target = batch["target"]
        address = ("alignment", *self._address, self.current_epoch, batch_idx)
        generator = torch_generator(*address, device=target.device.type)
        windows = cropped(batch["windows"], self._config.crop, generator)
        timesteps = torch.zeros_like(target)
        if self._config.timestep == "random":
            timesteps = torch.randint(TIMESTEPS, target.shape, generator=generator, device=target.device)
        logits = self.network(window_pixels(windows), timesteps)
        contrast = class_aware_loss if self._config.contrast == "class" else diagonal_loss
        loss = contrast(logits, target)
        self.log("loss", loss, batch_size=len(target))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the accuracy; runs only under the selection rule ``paper-val``."""
        target = batch["target"]
        logits = self.network(window_pixels(batch["windows"]), torch.zeros_like(target))
        self.log(VALIDATION_METRIC, (logits.argmax(dim=1) == target).float().mean(), batch_size=len(target))

    def configure_optimizers(self) -> Any:
        """Adam, its rate falling by epochs, with another rate for the encoder if the settings say so."""
        config, image = self._config, self.network.image
        encoder = [*image.tokenizers.parameters(), *image.encoder.parameters()]
        known = {id(parameter) for parameter in encoder}
        rest = [parameter for parameter in self.network.parameters() if id(parameter) not in known]
        optimizer = torch.optim.Adam(
            [
                {"params": encoder, "lr": config.encoder_rate * config.learning_rate},
                {"params": rest, "lr": config.learning_rate},
            ],
            weight_decay=config.weight_decay,
            fused=True,
        )
        return {"optimizer": optimizer, "lr_scheduler": lr_schedule(optimizer, config.schedule, config.epochs)}


class SceneClassifier(L.LightningModule):
    """Classifies the pixels of one scene with a fitted network.

    Stems and token embeddings act on single pixels, so they are computed once for the scene instead of once for each
    of the windows that a pixel is in; class texts are computed once; the last block computes the class token only.

    Args:
        network: The fitted network.
        data: The scene.
        timesteps: What the class token is told about the window of each pixel (h * w,).
    """

    def __init__(self, network: ClipNetwork, data: SceneDataModule, timesteps: Tensor) -> None:
        super().__init__()
        self.network = network
        self._data = data
        self._timesteps = timesteps

    def on_predict_start(self) -> None:
        """Embed all pixels and all texts."""
        with self.trainer.precision_plugin.forward_context():
            self._gatherer = self._data.gatherer(self.device).mapped(self.network.image.embed_pixels)
            self._texts = self.network.texts()
        self._timesteps = self._timesteps.to(self.device)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Targets (b,) of a batch with ``pixel`` (b,)."""
        pixels = batch["pixel"]
        chunk = CPU_CHUNK if pixels.device.type == "cpu" else len(pixels)
        return torch.cat([self._classify(part) for part in pixels.split(chunk)])

    def _classify(self, pixels: Tensor) -> Tensor:
        embedded = window_pixels(self._gatherer.gather(pixels))
        images = self.network.image(embedded, self._timesteps[pixels])
        return cosine_similarity(images, self._texts).argmax(dim=1)


class Clip(Method):
    """The window encoder of DiffCLIP, from scratch, against the texts of the classes."""

    Config = ClipConfig

    _network: ClipNetwork
    _blueprint: Blueprint

    def fit(self, data: SceneDataModule) -> None:
        """See `Method.fit`; under ``paper-val`` the epoch with the best validation accuracy is kept."""
        config, context, data = self.config, self.context, data.with_components(self.config.components)
        self._network = training.initialised(
            lambda: clip_network(config, data.channels, data.config.window, data.class_names), context, NAME
        )
        self._blueprint = Blueprint.of(data, config)
        self._start(self._network.image)
        train = data.shuffled_dataloader(
            ("alignment", context.draw, context.seed),
            data.support,
            data.support_targets,
            batch_size=config.batch_size,
            augment=config.symmetries,
        )
        training.fit(
            LanguageAlignedClassifier(self._network, config, seed=context.seed, draw=context.draw),
            data.serving(train=train, validate=data.val_dataloader()),
            context,
            stage=STAGE,
            epochs=config.epochs,
            maximise=VALIDATION_METRIC if data.config.selection == "paper-val" else None,
        )

    def _start(self, image: ImageEncoder) -> None:
        """Give the untrained encoder what it may start from; nothing here."""

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`.

        Raises:
            ConfigError: If the encoder was fitted to windows of another side or other channels.
        """
        data = data.with_components(self.config.components)
        self._blueprint.check_inputs(Blueprint.of(data, self.config), "the window encoder")
        count = data.scene.labels.size
        timesteps = torch.zeros(count, dtype=torch.int64)
        if self.config.timestep == "random":
            # One number per pixel of the scene, so that no prediction depends on which others are asked for.
            generator = torch_generator("predict", self.context.draw, self.context.seed)
            timesteps = torch.randint(TIMESTEPS, (count,), generator=generator)
        return training.predict(SceneClassifier(self._network, data, timesteps), data, pixels, self.context)

    def parameter_counts(self) -> ParameterCounts:
        """All parameters are trained; a frozen text tower's are not counted, only its vectors are kept."""
        count = sum(parameter.numel() for parameter in self._network.parameters())
        return ParameterCounts(count, count)

    def save(self, folder: Path) -> None:
        """See `Method.save`: weights (safetensors) and what the network is built from (JSON)."""
        save_network(folder, NAME, self._blueprint, self._network)

    def load(self, folder: Path) -> None:
        """See `Method.load`; the checkpoint of a frozen text tower is not needed, its vectors are among the weights.

        Raises:
            DataError: If a file is absent or damaged, or the weights do not fit the settings or are not numbers.
        """

        def build(blueprint: Blueprint, weights: Mapping[str, Tensor]) -> ClipNetwork:
            if self.config.text == SCRATCH:
                texts: nn.Module = _scratch_texts(self.config, blueprint.class_names)
            else:
                texts = FrozenTexts(weights.get("texts.embeddings", torch.zeros(1, 1)), self.config.width)
            return _assemble(self.config, dict(blueprint.channels), blueprint.side, texts)

        self._blueprint, self._network = load_network(folder, NAME, self.config, build)
