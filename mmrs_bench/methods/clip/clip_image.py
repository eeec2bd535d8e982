"""CLIP-image: CLIP's frozen image tower on pseudo-RGB crops around the pixel, with zero-shot and few-shot heads.

It uses three bands of the HSI and no other modality.

Letters: b crops of a batch, n support pixels, d width of the tower's features, k classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError, DataError, unknown_name
from mmrs_bench.io import write_json
from mmrs_bench.methods.base import Method, MethodConfig, ParameterCounts, Prediction
from mmrs_bench.methods.clip.clip_checkpoint import find_checkpoint, load_open_clip
from mmrs_bench.methods.clip.prompts import class_prompts
from mmrs_bench.methods.clip.text import frozen_class_embeddings
from mmrs_bench.methods.toolkit.network_method import REFIT_ADVICE
from mmrs_bench.methods.toolkit.sealed import read_tensors, write_tensors
from mmrs_bench.methods.toolkit.tuning import best_by_cross_validation
from mmrs_bench.models.batches import fixed_size_batches
from mmrs_bench.reading import read_json
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.pictures.pseudo_rgb import pseudo_rgb
from mmrs_bench.scenes.scene import IntArray
from mmrs_bench.scenes.windows import WindowGatherer, build_canvas

#: Crops in one batch of the tower, each enlarged to 224 x 224; the inference batch of windows would take gigabytes.
BATCH = 32
#: CLIP's learned inverse temperature: the largest value that its training allows, which the released models reached.
LOGIT_SCALE = 100.0
#: Largest number of iterations of the logistic regression; it stops much earlier.
MAX_ITERATIONS = 2000

SETTINGS_FILE = "clip_image.json"
HEAD_FILE = "clip_image.safetensors"


class ClipImageConfig(MethodConfig):
    """Settings of `ClipImage`.

    Attributes:
        tower: ``open_clip:<model>/<tag or path>``.
        head: See `ClipImage`.
        crop: Side of the crop in pixels, odd; at most the protocol's window.
        template: Prompt of a class (heads ``zero-shot`` and ``tip-adapter``).
        costs, folds: Values of C, the preferred first, and largest number of folds (``linear-probe``).
        alpha, beta: See `cache_scores` (``tip-adapter``).
    """

    tower: str
    head: Literal["linear-probe", "zero-shot", "tip-adapter"]
    crop: int = Field(ge=3)
    template: str
    costs: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    folds: int = Field(ge=2)
    alpha: float = Field(ge=0)
    beta: float = Field(ge=0)

    @field_validator("crop")
    @classmethod
    def _check_odd(cls, crop: int) -> int:
        if crop % 2 == 0:
            raise ValueError(f"a crop needs a centre pixel, so use {crop - 1} or {crop + 1}")
        return crop


class ImageTower:
    """A frozen CLIP image tower with its preprocessing; its attribute ``sha256`` is the hash of the checkpoint.

    Args:
        tower: ``open_clip:<model>/<tag or path>``.
        execution: Device and precision.

    Raises:
        BenchError: See `mmrs_bench.methods.clip.clip_checkpoint.find_checkpoint`.
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
        # A tag states the colour statistics of its training; for a path, the model has those of CLIP.
        tag = open_clip.get_pretrained_cfg(model, weights)
        self._mean = torch.tensor(tag.get("mean", self._visual.image_mean), device=self.device).view(3, 1, 1)
        self._std = torch.tensor(tag.get("std", self._visual.image_std), device=self.device).view(3, 1, 1)

    @torch.inference_mode()
    def __call__(self, crops: Tensor) -> Tensor:
        """Unit features (b, d) float32 of crops (b, 3, h, w) in [0, 1].

        Reference: Radford et al. 2021 (CLIP): bicubic resizing, colours normalised by the training data's statistics.
        Deviation: values are float32, not of 8 bits; after resizing they are clipped to [0, 1].
        """
        # With antialiasing, torch uses Pillow's bicubic kernel (a = -0.5), with which CLIP was trained.
        resized = F.interpolate(crops, self._visual.image_size, mode="bicubic", antialias=True)
        images = (resized.clamp(0, 1) - self._mean) / self._std
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            features: Tensor = self._visual(images)
        return F.normalize(features.float(), dim=1)


class ClipImage(Method):
    """CLIP's frozen image tower on pseudo-RGB crops, with one of three heads.

    - ``linear-probe``: multinomial logistic regression (L2) on the features of the support pixels; C by
      cross-validation in the support set.
    - ``zero-shot``: the class whose prompt has the largest cosine with the crop; uses no labels.
    - ``tip-adapter``: ``100 f W^T + alpha exp(-beta (1 - f F^T)) L`` of the crop's feature f, prompts W (k, d), support
      features F (n, d) and their one-hot targets L (n, k).

    Colours are stretched over the whole scene without labels, whatever the protocol's normalisation is.

    Reference: Radford et al., ICML 2021 (CLIP); Zhang et al., ECCV 2022 (Tip-Adapter), equations 5 and 6, alpha 1 and
    beta 5.5 as in its ablations; template of Zhou et al., IJCV 2022 (CoOp), for EuroSAT.
    Deviation: support features are not averaged over augmentations, alpha and beta are not searched, and each class has
    one prompt.
    """

    Config = ClipImageConfig

    _head: dict[str, Tensor]

    def fit(self, data: SceneDataModule) -> None:
        """See `Method.fit`.

        Raises:
            ConfigError: If the scene's colours are unknown, or the protocol hides them from the method.
            DataError: If the checkpoint is absent or damaged.
        """
        crops, config = self._crops(data), self.config
        if config.head == "linear-probe":
            self._head = self._fit_probe(self._support_features(crops, data), data.support_targets)
        else:
            prompts = class_prompts(data.class_names, config.template)
            text = frozen_class_embeddings(config.tower, data.class_names, prompts)
            self._head = {"weight": LOGIT_SCALE * text, "bias": torch.zeros(len(text))}
        if config.head == "tip-adapter":
            targets = torch.from_numpy(data.support_targets)
            self._head["keys"] = self._support_features(crops, data)
            self._head["values"] = F.one_hot(targets, data.num_classes).float()
        self.context.progress("training", 1.0)

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`; each pixel costs one pass of the tower."""
        return self.predict_with_confidence(data, pixels).targets

    def predict_with_confidence(self, data: SceneDataModule, pixels: IntArray) -> Prediction:
        """See `Method.predict_with_confidence`: the softmax of the scores."""
        head = {name: tensor.to(self._tower.device) for name, tensor in self._head.items()}
        targets, confidence = np.empty(len(pixels), np.int64), np.empty(len(pixels), np.float32)
        done = 0
        for features, count in self._features(self._crops(data), pixels):
            scores, part = self._scores(features, head)[:count], slice(done, done + count)
            targets[part] = scores.argmax(dim=1).cpu().numpy()
            confidence[part] = scores.softmax(dim=1).amax(dim=1).cpu().numpy()
            done += count
            self.context.progress("prediction", done / len(pixels))
        return Prediction(targets, confidence)

    def parameter_counts(self) -> ParameterCounts:
        """Parameters of image tower and head; only those of a linear probe are trained."""
        head = sum(tensor.numel() for tensor in self._head.values())
        trained = head if self.config.head == "linear-probe" else 0
        return ParameterCounts(self._tower.parameters + head, trained)

    def save(self, folder: Path) -> None:
        """See `Method.save`: the head (safetensors), and its settings and checkpoint (JSON)."""
        write_tensors(folder / HEAD_FILE, {name: tensor.contiguous() for name, tensor in self._head.items()})
        write_json(folder / SETTINGS_FILE, self._identity)

    def load(self, folder: Path) -> None:
        """See `Method.load`.

        Raises:
            DataError: If a file is absent or damaged, or was saved with other settings or another checkpoint.
        """
        saved = read_json(folder / SETTINGS_FILE, error=DataError, advice=REFIT_ADVICE)
        head, _ = read_tensors(folder / HEAD_FILE, advice=REFIT_ADVICE)
        if saved != self._identity:
            raise DataError(
                f"{folder}: was saved with other settings or another checkpoint; use those in {SETTINGS_FILE}"
            )
        if fault := _head_fault(head):
            raise DataError(f"{folder / HEAD_FILE}: {fault}; {REFIT_ADVICE}")
        self._head = head

    @cached_property
    def _tower(self) -> ImageTower:
        return ImageTower(self.config.tower, self.context.execution)

    @property
    def _identity(self) -> dict[str, Any]:
        """Settings and checkpoint that a saved head belongs to."""
        return {"settings": self.config.model_dump(mode="json"), "checkpoint_sha256": self._tower.sha256}

    def _crops(self, data: SceneDataModule) -> WindowGatherer:
        """Gathers crops of the scene's pseudo-RGB picture."""
        protocol, crop = data.config, self.config.crop
        if crop > protocol.window:
            raise ConfigError(
                f"crop {crop} is larger than the protocol's window {protocol.window}, for which splits and audit are "
                f"made; use a window of at least {crop} or a smaller crop"
            )
        if "hsi" not in data.modalities:
            raise ConfigError(
                f"the method receives {', '.join(data.modalities)}, but colours are bands of the hsi; add modality hsi"
            )
        if protocol.pca is not None or protocol.normalisation_scope != "scene":
            raise ConfigError(
                f"pca {protocol.pca}, normalisation_scope {protocol.normalisation_scope}: a picture shows raw bands, "
                "stretched over the whole scene; set pca to none and normalisation_scope to scene"
            )
        picture = pseudo_rgb(data.complete.scene)
        if "hsi" in data.absent:
            picture[:] = picture.mean(axis=(0, 1), dtype=np.float64)
        canvas = build_canvas({"rgb": picture}, crop)
        return WindowGatherer(canvas, {"rgb": 3}, crop, self._tower.device)

    def _features(self, crops: WindowGatherer, pixels: IntArray) -> Iterator[tuple[Tensor, int]]:
        """Features (`BATCH`, d) of pixels in batches, and how many of a batch are real."""
        for batch, count in fixed_size_batches(torch.from_numpy(np.ascontiguousarray(pixels)), BATCH):
            yield self._tower(crops.gather(batch.to(self._tower.device))["rgb"]), count

    def _support_features(self, crops: WindowGatherer, data: SceneDataModule) -> Tensor:
        """Features (n, d) of the support pixels, on the CPU."""
        return torch.cat([features[:count].cpu() for features, count in self._features(crops, data.support)])

    def _fit_probe(self, features: Tensor, targets: IntArray) -> dict[str, Tensor]:
        """Weight (k, d) and bias (k,) of a logistic regression on features (n, d) and targets (n,)."""

        def regression(cost: float, samples: Any, labels: IntArray) -> Any:
            return LogisticRegression(C=cost, max_iter=MAX_ITERATIONS).fit(samples, labels)

        config, samples = self.config, features.double().numpy()
        cost = best_by_cross_validation(
            config.costs, regression, samples, targets, folds=config.folds, context=self.context
        )
        probe = regression(cost, samples, targets)
        weight, bias = torch.from_numpy(probe.coef_).float(), torch.from_numpy(probe.intercept_).float()
        if len(weight) == 1:  # for two classes, scikit-learn has only the row of the second
            weight, bias = torch.cat([-weight, weight]), torch.cat([-bias, bias])
        return {"weight": weight, "bias": bias}

    def _scores(self, features: Tensor, head: dict[str, Tensor]) -> Tensor:
        """Scores (b, k) of features (b, d)."""
        scores = features @ head["weight"].T + head["bias"]
        if "keys" in head:
            config = self.config
            scores = scores + cache_scores(features, head["keys"], head["values"], alpha=config.alpha, beta=config.beta)
        return scores


def _head_fault(head: dict[str, Tensor]) -> str:
    """Why the tensors of a file are no head; empty if they are one."""
    if head.keys() not in ({"weight", "bias"}, {"weight", "bias", "keys", "values"}):
        return f"contains {', '.join(sorted(head))}, expected weight and bias"
    if not all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in head.values()):
        return "its values are not finite float32 numbers"
    weight, bias = head["weight"], head["bias"]
    fits = weight.ndim == 2 and bias.shape == weight.shape[:1]
    if fits and "keys" in head:
        keys = head["keys"]
        fits = keys.shape[1:] == weight.shape[1:] and head["values"].shape == (len(keys), len(weight))
    return "" if fits else "the shapes of its tensors do not fit each other"


def cache_scores(features: Tensor, keys: Tensor, values: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Scores (b, k) by the support set: ``alpha exp(-beta (1 - f F^T)) L``.

    Args:
        features: Unit features f (b, d).
        keys: Unit features F of the support pixels (n, d).
        values: Their one-hot targets L (n, k).
        alpha: Weight of a support pixel with the same feature.
        beta: Decay of the weight with 1 - cosine.

    Reference: Zhang et al., ECCV 2022 (Tip-Adapter), equations 5 and 6.
    """
    affinity = torch.exp(-beta * (1 - features @ keys.T))  # (b, n)
    return alpha * affinity @ values
