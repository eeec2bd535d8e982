"""Stage 2 of DiffCLIP, which is also the method CLIP: windows are classified by the texts of the classes.

Letters: b batch, c channels, w window side, n pixels of a window, k classes, d width, e width of a frozen tower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.clip.alignment import (
    ClipNetwork,
    FrozenTexts,
    ScratchTexts,
    class_aware_loss,
    cosine_similarity,
    diagonal_loss,
)
from mmrs_bench.methods.clip.pretraining import MaskedDiffusionPretrainer
from mmrs_bench.methods.clip.prompts import class_prompts
from mmrs_bench.methods.clip.text import ScratchTextTower, class_vectors
from mmrs_bench.methods.toolkit.checkpoints import read_checkpoint
from mmrs_bench.methods.toolkit.classification import ClassificationModule
from mmrs_bench.methods.toolkit.masked_diffusion.stage import copy_encoder
from mmrs_bench.models.diffusion import TIMESTEPS
from mmrs_bench.models.masked_diffusion.crops import Crop, random_crops
from mmrs_bench.models.masked_diffusion.initial_values import InitialValues, use_released_values
from mmrs_bench.models.masked_diffusion.schedules import Schedule, check_choice, lr_schedule
from mmrs_bench.models.masked_diffusion.transformer import (
    ImageEncoder,
    Readout,
    check_sizes,
    clean_timesteps,
    window_pixels,
)
from mmrs_bench.models.threads import parallel_map
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.windows import WindowGatherer

#: Name of the vectors of a frozen text tower in the module's ``state_dict``.
VECTORS = "network.texts.embeddings"

#: ``class``: images against classes; ``diagonal``: pairs of a batch against each other, as released.
CONTRASTS = {"class": class_aware_loss, "diagonal": diagonal_loss}


class LanguageAlignedClassifier(ClassificationModule):
    """Trains image embeddings of windows against the texts of the classes.

    Checkpoints contain the vectors of a frozen text tower, so loading one does not need the tower's files. In
    distributed training the contrast is over the batches of all processes together.

    Args:
        channels: Channels by modality.
        num_classes: Number of classes k.
        window: Window side in pixels.
        class_names: Names of the classes in target order; required.
        text: Text tower, see `mmrs_bench.methods.clip.text`.
        text_layers: Layers of the tower ``scratch``.
        text_names: Names of a ``precomputed`` tower by class, as ``text`` in a manifest.
        template, descriptions: See `mmrs_bench.methods.clip.prompts.class_prompts`.
        width, heads, depth, mlp_ratio, learn_positions, readout: See
            `mmrs_bench.models.masked_diffusion.transformer.ImageEncoder`.
        initial_values: See `mmrs_bench.models.masked_diffusion.initial_values.InitialValues`.
        temperature: Initial temperature of the contrast; it is learned.
        contrast: See `CONTRASTS`.
        crop: Random crops of training windows, see `mmrs_bench.models.masked_diffusion.crops.Crop`.
        timestep: Timestep of clean windows: ``zero``, or ``random`` as released, also in validation and prediction.
        learning_rate, weight_decay: Of Adam; the decay is an L2 penalty.
        encoder_rate: Learning rate of tokenizers and encoder as a share of ``learning_rate``.
        schedule: See `mmrs_bench.models.masked_diffusion.schedules.Schedule`.
        pretrained: Checkpoint of a `MaskedDiffusionPretrainer`, whose tokenizers and encoder are copied. It is not
            saved as a hyperparameter.
        seed, draw: Seed and index of the support sample, for crops and timesteps.
        text_vectors: Vectors (k, e) of the classes, used instead of ``text``; loading a checkpoint passes its own.

    Raises:
        ConfigError: If a setting is impossible, class names are missing, or a class has no text of its own.
        DataError: If a file of the text tower or ``pretrained`` is missing or damaged.
    """

    cpu_chunk = 32  # so that the tokens of the windows fit the cache of a CPU

    network: ClipNetwork

    def __init__(
        self,
        channels: dict[str, int],
        num_classes: int,
        window: int = 11,
        *,
        class_names: Sequence[str] | None = None,
        text: str = "scratch",
        text_names: Mapping[str, Sequence[str]] = {},
        text_layers: int = 3,
        template: str = "a multimodal fusion patch of a {class}.",
        descriptions: Mapping[str, Sequence[str]] = {},
        width: int = 128,
        heads: int = 8,
        depth: int = 4,
        mlp_ratio: float = 2.0,
        learn_positions: bool = False,
        readout: Readout = "pooled",
        initial_values: InitialValues = "torch",
        temperature: float = 0.07,
        contrast: Literal["class", "diagonal"] = "class",
        crop: Crop = "joint",
        timestep: Literal["zero", "random"] = "zero",
        learning_rate: float = 0.001,
        encoder_rate: float = 0.1,
        weight_decay: float = 0.00001,
        schedule: Literal["cosine", "multistep"] = "cosine",
        pretrained: str | None = None,
        seed: int = 0,
        draw: int = 0,
        text_vectors: Tensor | None = None,
    ) -> None:
        class_names = _checked_names(class_names, num_classes)
        descriptions = {name: list(texts) for name, texts in descriptions.items()}
        text_names = {name: list(names) for name, names in text_names.items()}
        super().__init__(channels, num_classes, window)
        self.save_hyperparameters(ignore=["pretrained", "text_vectors"])
        check_choice("contrast", contrast, CONTRASTS)
        check_choice("crop", crop, get_args(Crop))
        check_choice("timestep", timestep, ("zero", "random"))
        check_choice("readout", readout, get_args(Readout))
        check_choice("initial_values", initial_values, get_args(InitialValues))
        check_choice("schedule", schedule, get_args(Schedule))
        check_sizes(width=width, heads=heads, mlp_ratio=mlp_ratio, depth=depth, text_layers=text_layers)
        if temperature <= 0:
            raise ConfigError(f"temperature is {temperature}; use a positive number")
        self.contrast, self.crop, self.timestep = contrast, crop, timestep
        self.learning_rate, self.encoder_rate = learning_rate, encoder_rate
        self.weight_decay, self.schedule = weight_decay, schedule
        self.seed, self.draw = seed, draw
        vectors = text_vectors
        if vectors is None:
            vectors = class_vectors(text, class_names, template, descriptions, text_names)
        texts: ScratchTexts | FrozenTexts
        if vectors is None:
            tower = ScratchTextTower(width, heads, text_layers)
            texts = ScratchTexts(tower, class_prompts(class_names, template, descriptions))
        else:
            texts = FrozenTexts(_checked_vectors(vectors, num_classes), width)
        image = ImageEncoder(
            channels,
            window,
            width=width,
            heads=heads,
            depth=depth,
            mlp_ratio=mlp_ratio,
            learn_positions=learn_positions,
            readout=readout,
        )
        if initial_values == "released":
            use_released_values(image)
        self.network = ClipNetwork(image, texts, temperature)
        self.scene: WindowGatherer | None = None
        self._timesteps = torch.empty(0, dtype=torch.int64)
        if pretrained is not None:
            with torch.random.fork_rng(devices=[]):
                self.take_encoder(MaskedDiffusionPretrainer.load_from_checkpoint(pretrained))

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **options: Any) -> Any:
        """See `StageModule.load_from_checkpoint`; the vectors of a frozen text tower come from the checkpoint too."""
        vectors = read_checkpoint(Path(checkpoint_path)).get("state_dict", {}).get(VECTORS)
        return super().load_from_checkpoint(checkpoint_path, *args, **{"text_vectors": vectors, **options})

    def take_encoder(self, stage_1: MaskedDiffusionPretrainer) -> None:
        """Copy tokenizers and encoder of stage 1.

        Raises:
            ConfigError: If they have other channels or sizes.
        """
        copy_encoder(self.network.image, self.hparams, stage_1)

    def forward(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Scaled cosines (b, k) of clean windows (b, c, w, w) by modality, at timestep 0."""
        pixels = window_pixels(windows)
        return self.network(pixels, clean_timesteps(pixels))  # type: ignore[no-any-return]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Contrastive loss (scalar) of a batch with ``windows`` and ``target`` (b,)."""
        target = self.targets_of(batch)
        random = self.random("alignment", self.draw, self.seed, self.current_epoch, batch_idx, device=target.device)
        windows = random_crops(self.windows_of(batch), self.crop, random)
        timesteps = torch.zeros_like(target)
        if self.timestep == "random":
            timesteps = random.integers(TIMESTEPS, len(target))
        logits = self.network(window_pixels(windows), timesteps)
        loss = CONTRASTS[self.contrast](self._gathered(logits), self._gathered(target))
        self.log("loss", loss, batch_size=len(target))
        return loss

    def _gathered(self, values: Tensor) -> Tensor:
        """Values (b, ...) of the batches of all processes, in the order of one batch."""
        if self._trainer is None or self.trainer.world_size == 1:
            return values
        gathered: Any = self.all_gather(values, sync_grads=values.requires_grad)
        return gathered.flatten(0, 1)  # type: ignore[no-any-return]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Update and log the scores of validation pixels; random timesteps are drawn again in every epoch."""
        target = self.targets_of(batch)
        timesteps = torch.zeros_like(target)
        if self.timestep == "random":
            random = self.random(
                "validation", self.draw, self.seed, self.current_epoch, batch_idx, device=target.device
            )
            timesteps = random.integers(TIMESTEPS, len(target))
        self.validation_scores.update(self._cosines(batch, timesteps).argmax(dim=1), target)
        self.log_dict(self.validation_scores, on_step=False, on_epoch=True)

    def class_scores(self, batch: Mapping[str, Any]) -> Tensor:
        """Cosines (b, k) of a batch with ``windows``; the class of the largest one is predicted.

        A batch needs ``pixel`` (b,) too if ``timestep`` is ``random``, and only that with a `SceneEmbedding`.
        """
        if self.timestep == "random" or self.scene is not None:
            if "pixel" not in batch:
                raise ConfigError(
                    f"{type(self).__name__}: predictions with timestep random or with SceneEmbedding need batches with "
                    "pixel (b,); use the loaders of a SceneDataModule"
                )
            return self._cosines(batch, self._timesteps_of(batch["pixel"]))
        return self._cosines(batch, clean_timesteps(self.windows_of(batch)))

    def probabilities(self, scores: Tensor) -> Tensor:
        """Class probabilities (b, k) of cosines, at the learned temperature."""
        return (self.network.log_scale.exp() * scores).softmax(dim=1)

    def _timesteps_of(self, pixels: Tensor) -> Tensor:
        """Timesteps (b,) of predictions for pixels (b,); those of a pixel do not depend on the other pixels."""
        if self.timestep == "zero":
            return torch.zeros_like(pixels)
        needed = int(pixels.max()) + 1
        if needed > len(self._timesteps):  # a stream of numbers, one per pixel of a scene
            generator = torch_generator("predict", self.draw, self.seed)
            self._timesteps = torch.randint(TIMESTEPS, (2 * needed,), generator=generator)
        return self._timesteps[pixels.cpu()].to(pixels.device)

    def _cosines(self, batch: Mapping[str, Any], timesteps: Tensor) -> Tensor:
        """Cosines (b, k) of windows and class texts at timesteps (b,); embeds the texts once."""
        texts, image = self.network.texts(), self.network.image
        chunk = self.cpu_chunk if timesteps.device.type == "cpu" else max(len(timesteps), 1)
        windows = self.windows_of(batch) if self.scene is None else {}

        def cosines_of(start: int) -> Tensor:
            part = slice(start, start + chunk)
            if self.scene is None:
                embedded = image.embed_pixels(window_pixels({name: window[part] for name, window in windows.items()}))
            else:
                embedded = window_pixels(self.scene.gather(batch["pixel"][part]))
            return cosine_similarity(image(embedded, timesteps[part]), texts)

        return torch.cat(parallel_map(cosines_of, range(0, len(timesteps), chunk), timesteps.device))

    def configure_optimizers(self) -> Any:
        """Adam with the schedule, and its own learning rate for tokenizers and encoder."""
        network = self.network
        encoder = [*network.image.tokenizers.parameters(), *network.image.encoder.parameters()]
        rest = [*network.image.head.parameters(), *network.texts.parameters(), network.log_scale]
        optimizer = torch.optim.Adam(
            [
                {"params": encoder, "lr": self.encoder_rate * self.learning_rate},
                {"params": rest, "lr": self.learning_rate},
            ],
            weight_decay=self.weight_decay,
            fused=self.fused,
        )
        return {"optimizer": optimizer, "lr_scheduler": lr_schedule(optimizer, self.schedule, self.epochs)}


class SceneEmbedding(Callback):
    """Makes the prediction of a `LanguageAlignedClassifier` for many pixels of a scene fast.

    Each pixel of the scene is embedded once, not once for every window that contains it. Batches need no windows. The
    results are those of windows up to rounding.

    Args:
        data: The scene as the module receives it.
    """

    def __init__(self, data: SceneDataModule) -> None:
        self._data = data

    def on_predict_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Embed all pixels.

        Raises:
            ConfigError: If the module is another one, or was built for other channels or windows.
        """
        if not isinstance(pl_module, LanguageAlignedClassifier):
            raise ConfigError(
                f"SceneEmbedding is for LanguageAlignedClassifier, not for {type(pl_module).__name__}; remove it"
            )
        plugin, embed_pixels = trainer.precision_plugin, pl_module.network.image.embed_pixels
        gatherer = self._data.gatherer(pl_module.device)
        pl_module.windows_of({"windows": gatherer.gather(gatherer.offsets.new_zeros(1))})
        with plugin.forward_context():
            pl_module.scene = gatherer.mapped(lambda pixels: embed_pixels(plugin.convert_input(pixels)))

    def on_predict_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Forget the scene."""
        pl_module.scene = None

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Forget the scene."""
        pl_module.scene = None


def _checked_names(class_names: Sequence[str] | None, num_classes: int) -> list[str]:
    """The class names; raises ConfigError unless there are ``num_classes``."""
    if class_names is None or len(class_names) != num_classes:
        found = "no class_names" if class_names is None else f"{len(class_names)} class_names"
        raise ConfigError(
            f"LanguageAlignedClassifier needs the names of its {num_classes} classes in target order, but got {found}; "
            "build it with class_names=data.class_names"
        )
    return list(class_names)


def _checked_vectors(vectors: Tensor, num_classes: int) -> Tensor:
    """The class vectors in float32; raises ConfigError unless they are finite and one per class."""
    vectors = vectors.float()
    if vectors.ndim != 2 or len(vectors) != num_classes or not vectors.isfinite().all():
        raise ConfigError(
            f"text_vectors have shape {tuple(vectors.shape)}, expected finite vectors ({num_classes}, width) in the "
            "order of the classes"
        )
    return vectors
