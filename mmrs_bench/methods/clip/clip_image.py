"""CLIP-image: CLIP's frozen image tower on pseudo-RGB crops around the pixel, with zero-shot and few-shot heads.

What a model of photographs knows of a pixel's surroundings, without any training of its own. It sees three bands of
the HSI and no second modality.

Letters: b crops of a batch, n support pixels, d width of the tower's features, k classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import Tensor
from torch.nn import functional

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError, DataError, unknown_name
from mmrs_bench.io import atomic_write, write_json
from mmrs_bench.methods.base import Method, MethodConfig, ParameterCounts
from mmrs_bench.methods.clip.clip_checkpoint import find_checkpoint, load_open_clip
from mmrs_bench.methods.clip.prompts import class_prompts
from mmrs_bench.methods.clip.text import frozen_class_embeddings
from mmrs_bench.paths import cache_root
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.pictures.pseudo_rgb import pseudo_rgb
from mmrs_bench.scenes.scene import IntArray
from mmrs_bench.scenes.windows import WindowGatherer, build_canvas

#: Crops that go through the tower at once. A crop of 11 x 11 pixels becomes 224 x 224, so the batch size of inference
#: that suits windows would take gigabytes here.
BATCH = 32
#: CLIP's learned inverse temperature; its training clips it at this value, where the released models ended.
LOGIT_SCALE = 100.0
#: Iterations of the logistic regression at most; it stops much earlier.
MOST_ITERATIONS = 2000

SETTINGS_FILE = "clip_image.json"
HEAD_FILE = "clip_image.safetensors"


class ClipImageConfig(MethodConfig):
    """Settings of `ClipImage`.

    Attributes:
        tower: ``open_clip:<model>/<tag or path>``, see `mmrs_bench.methods.clip.clip_checkpoint`.
        head: What turns features into classes; see `ClipImage`.
        crop: Side of the crop in pixels, odd; at most the protocol's window.
        template: Prompt of a class (heads ``zero-shot`` and ``tip-adapter``).
        costs: Values of C to choose from, the preferred first (``linear-probe``).
        folds: Most folds of the cross-validation that chooses; with fewer shots, as many as shots (``linear-probe``).
        alpha: Weight of the support set beside the prompts (``tip-adapter``).
        beta: How near a support pixel has to be to count (``tip-adapter``).
    """

    tower: str = "open_clip:ViT-B-32/openai"
    head: Literal["linear-probe", "zero-shot", "tip-adapter"] = "linear-probe"
    crop: int = Field(default=11, ge=3)
    template: str = "a centered satellite photo of {class}."
    costs: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(100.0, 10.0, 1.0, 1000.0), min_length=1)
    folds: int = Field(default=5, ge=2)
    alpha: float = Field(default=1.0, ge=0)
    beta: float = Field(default=5.5, ge=0)

    @field_validator("crop")
    @classmethod
    def _odd(cls, crop: int) -> int:
        if crop % 2 == 0:
            raise ValueError(f"a crop needs a centre pixel, so use {crop - 1} or {crop + 1}")
        return crop


class ImageTower:
    """A frozen CLIP image tower and the input that it wants.

    Args:
        tower: ``open_clip:<model>/<tag or path>``.
        execution: Device and precision.

    Attributes:
        device: Where it computes.
        sha256: Of the checkpoint.
        parameters: Its numbers.

    Raises:
        ConfigError: If the tower is unknown.
        DataError: If its checkpoint is absent, with the command that fetches it, or damaged.
    """

    def __init__(self, tower: str, execution: ExecutionConfig) -> None:
        import open_clip

        kind, _, argument = tower.partition(":")
        if kind != "open_clip" or not argument:
            raise unknown_name("image tower", tower, ["open_clip:<model>/<tag or path>"])
        model, _, weights = argument.partition("/")
        checkpoint = find_checkpoint(model, weights)
        self.device = torch.device(execution.resolved().device)
        self.sha256 = checkpoint.sha256
        self._bf16 = execution.precision == "bf16-mixed"
        self._visual: Any = load_open_clip(checkpoint).visual.to(self.device)
        self.parameters = sum(parameter.numel() for parameter in self._visual.parameters())
        # A tag knows the colours it was trained with; open_clip gives a checkpoint that is named by its path CLIP's.
        tag = open_clip.get_pretrained_cfg(model, weights)
        self._mean = torch.tensor(tag.get("mean", self._visual.image_mean), device=self.device).view(3, 1, 1)
        self._std = torch.tensor(tag.get("std", self._visual.image_std), device=self.device).view(3, 1, 1)

    @torch.inference_mode()
    def __call__(self, crops: Tensor) -> Tensor:
        """Unit features (b, d) float32 of crops (b, 3, h, w) in [0, 1].

        Reference: Radford et al. 2021 (CLIP): bicubic resizing to the tower's size, colours normalised by the training
        data's mean and standard deviation.
        Deviation: values stay float32, where pictures on file have 8 bits; as there, overshoots are clipped.
        """
        # With antialiasing torch takes the bicubic kernel of Pillow (a = -0.5), which CLIP was trained with.
        resized = functional.interpolate(crops, self._visual.image_size, mode="bicubic", antialias=True)
        images = (resized.clamp(0, 1) - self._mean) / self._std
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            features: Tensor = self._visual(images)
        return functional.normalize(features.float(), dim=1)


class ClipImage(Method):
    """CLIP's frozen image tower on pseudo-RGB crops, with one of three heads.

    - ``linear-probe``: multinomial logistic regression (L2) on the support pixels' unit features. C by cross-validation
      inside the support set; ties go to the earlier value, and one shot takes the first.
    - ``zero-shot``: the class whose prompt has the largest cosine with the crop. Sees no label.
    - ``tip-adapter``: ``100 f W^T + alpha exp(-beta (1 - f F^T)) L`` of the crop's feature f, prompts W (k, d), support
      features F (n, d) and their one-hot targets L (n, k).

    A picture's colours are stretched over the whole scene without labels (`mmrs_bench.scenes.pictures.pseudo_rgb`), whatever the
    protocol's normalisation does to the images of other methods.

    Reference: Radford et al., ICML 2021 (CLIP); Zhang et al., ECCV 2022 (Tip-Adapter), equations 5 and 6, alpha 1 and
    beta 5.5 as in its ablations; the template is the hand-made prompt for EuroSAT of Zhou et al., IJCV 2022 (CoOp).
    Deviation: no support features averaged over augmentations, no search of alpha and beta on validation labels (there
    are none), one prompt a class.
    """

    Config = ClipImageConfig

    _head: dict[str, Tensor]

    def fit(self, data: SceneDataModule) -> None:
        """See `Method.fit`.

        Raises:
            ConfigError: If the scene's colours are not known, or the protocol keeps them from the method.
            DataError: If the checkpoint is absent or damaged.
        """
        crops = self._crops(data)
        config = self.config
        if config.head == "linear-probe":
            self._head = self._probe(self._support(crops, data), data.support_targets)
        else:
            text = self._text(data)
            self._head = {"weight": LOGIT_SCALE * text, "bias": torch.zeros(len(text))}
        if config.head == "tip-adapter":
            targets = torch.from_numpy(data.support_targets)
            self._head["keys"] = self._support(crops, data)
            self._head["values"] = functional.one_hot(targets, data.num_classes).float()
        self.context.progress("training", 1.0)

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`; costs one pass of the tower per pixel asked for, so ask for no more than needed."""
        head = {name: tensor.to(self._tower.device) for name, tensor in self._head.items()}
        targets = np.empty(len(pixels), np.int64)
        for start, features in self._features(self._crops(data), pixels):
            found = self._scores(features, head).argmax(dim=1).cpu().numpy()
            targets[start : start + BATCH] = found[: len(pixels) - start]
            self.context.progress("prediction", min(1.0, (start + BATCH) / len(pixels)))
        return targets

    def parameter_counts(self) -> ParameterCounts:
        """The image tower's and the head's numbers; a linear probe's are trained, everything else is frozen."""
        head = sum(tensor.numel() for tensor in self._head.values())
        trained = head if self.config.head == "linear-probe" else 0
        return ParameterCounts(self._tower.parameters + head, trained)

    def save(self, folder: Path) -> None:
        """See `Method.save`: the head (safetensors), and the settings and checkpoint it belongs to (JSON)."""
        content = save({name: tensor.contiguous() for name, tensor in self._head.items()})
        atomic_write(folder / HEAD_FILE, lambda file: file.write(content))
        write_json(folder / SETTINGS_FILE, self._belongs_to)

    def load(self, folder: Path) -> None:
        """See `Method.load`.

        Raises:
            DataError: If a file is absent or damaged, or was saved with other settings or another checkpoint.
        """
        try:
            saved = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
            head = load_file(folder / HEAD_FILE)
        except (OSError, ValueError, SafetensorError) as error:
            raise DataError(f"{folder}: no saved head can be read here ({error}); fit and save it again") from error
        if saved != self._belongs_to:
            raise DataError(
                f"{folder}: the head does not fit these settings or this checkpoint; use those it was saved with "
                f"({SETTINGS_FILE} lists them)"
            )
        self._head = head

    @cached_property
    def _tower(self) -> ImageTower:
        return ImageTower(self.config.tower, self.context.execution)

    @property
    def _belongs_to(self) -> dict[str, Any]:
        return {"settings": self.config.model_dump(mode="json"), "checkpoint_sha256": self._tower.sha256}

    def _crops(self, data: SceneDataModule) -> WindowGatherer:
        """Gathers the crops of a scene's picture."""
        protocol, crop = data.config, self.config.crop
        if crop > protocol.window:
            raise ConfigError(
                f"crop {crop} reaches beyond the protocol's window {protocol.window}, which splits and audit rely on; "
                f"use a window of at least {crop} or a smaller crop"
            )
        if "hsi" not in data.modalities:
            raise ConfigError(
                f"the method sees {', '.join(data.modalities)}, but colours are bands of the hsi; add modality hsi"
            )
        if protocol.pca is not None or protocol.normalisation_scope != "scene":
            raise ConfigError(
                f"pca {protocol.pca}, normalisation_scope {protocol.normalisation_scope}: a picture shows raw bands, "
                "stretched over the whole scene; set pca to none and normalisation_scope to scene"
            )
        canvas = build_canvas({"rgb": pseudo_rgb(data.scene)}, crop)
        return WindowGatherer(canvas, {"rgb": 3}, crop, self._tower.device)

    def _features(self, crops: WindowGatherer, pixels: IntArray) -> Iterator[tuple[int, Tensor]]:
        """Features (`BATCH`, d) of `BATCH` pixels after the other, with the position of the first.

        The last batch is filled up with pixel 0: a matrix product may round otherwise in another size, and a pixel's
        features are not to depend on how many others are asked for.
        """
        for start in range(0, len(pixels), BATCH):
            part = pixels[start : start + BATCH]
            filled = torch.from_numpy(np.pad(part, (0, BATCH - len(part)))).to(self._tower.device)
            yield start, self._tower(crops.gather(filled)["rgb"])

    def _support(self, crops: WindowGatherer, data: SceneDataModule) -> Tensor:
        """Features (n, d) of the support pixels, on the CPU."""
        parts = [features.cpu() for _, features in self._features(crops, data.support)]
        return torch.cat(parts)[: len(data.support)].clone()

    def _text(self, data: SceneDataModule) -> Tensor:
        """Unit vectors (k, d) of the classes' prompts."""
        names = data.class_names
        prompts = class_prompts(names, template=self.config.template)
        return frozen_class_embeddings(self.config.tower, names, prompts, cache=cache_root() / "text")

    def _probe(self, features: Tensor, targets: IntArray) -> dict[str, Tensor]:
        """Weight (k, d) and bias (k,) of a logistic regression fitted to features (n, d) and targets (n,)."""
        values = features.double().numpy()
        costs = self.config.costs
        folds = min(self.config.folds, int(np.bincount(targets).min()))
        # The support is in random draw order within each class, so folds need no shuffling.
        parts = list(StratifiedKFold(folds).split(values, targets)) if folds >= 2 and len(costs) > 1 else []
        correct = [
            sum(
                int((_regression(cost).fit(values[a], targets[a]).predict(values[b]) == targets[b]).sum())
                for a, b in parts
            )
            for cost in costs
        ]
        probe = _regression(costs[int(np.argmax(correct))]).fit(values, targets)
        weight, bias = torch.from_numpy(probe.coef_).float(), torch.from_numpy(probe.intercept_).float()
        if len(weight) == 1:  # of two classes scikit-learn keeps the second's row only
            weight, bias = torch.cat([-weight, weight]), torch.cat([-bias, bias])
        return {"weight": weight, "bias": bias}

    def _scores(self, features: Tensor, head: dict[str, Tensor]) -> Tensor:
        """Scores (b, k) of features (b, d)."""
        scores = features @ head["weight"].T + head["bias"]
        if "keys" in head:
            config = self.config
            scores = scores + cache_scores(features, head["keys"], head["values"], alpha=config.alpha, beta=config.beta)
        return scores


def cache_scores(features: Tensor, keys: Tensor, values: Tensor, *, alpha: float, beta: float) -> Tensor:
    """What the support set says: each of its pixels votes for its class, the more the nearer it is.

    Args:
        features: Unit features f (b, d).
        keys: Unit features F of the support pixels (n, d).
        values: Their one-hot targets L (n, k).
        alpha: Weight of a pixel whose feature is the same.
        beta: Decay with 1 - cosine.

    Returns:
        ``alpha exp(-beta (1 - f F^T)) L`` (b, k).

    Reference: Zhang et al., ECCV 2022 (Tip-Adapter), equations 5 and 6.
    """
    affinity = torch.exp(-beta * (1 - features @ keys.T))  # (b, n)
    return alpha * affinity @ values


def _regression(cost: float) -> Any:
    return LogisticRegression(C=cost, max_iter=MOST_ITERATIONS)
