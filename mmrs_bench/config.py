"""What decides a number (protocol) and what only decides how it is computed (execution)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mmrs_bench.errors import ConfigError
from mmrs_bench.io import content_hash
from mmrs_bench.version import __version__

SplitName = Literal["random-v1", "block-v1", "official-v1"]
PixelScope = Literal["scene", "train-blocks", "support"]
Selection = Literal["last", "support-cv", "paper-val"]
BudgetName = Literal["smoke", "quick", "paper"]

#: Query pixels that are scored under a budget; None scores all. Limited queries are for quick looks, not for papers.
QUERY_LIMITS: dict[str, int | None] = {"smoke": 2_000, "quick": 20_000, "paper": None}

KEY_DIGITS = 16


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Frozen):
    """Everything about the data of a cell, for `mmrs_bench.scenes.datamodule.SceneDataModule`.

    Attributes:
        split: Split protocol.
        shots: Labels per class.
        draw: Index of the support sample; nested over shots within a draw.
        window: Side of the square window in pixels, odd.
        modalities: Modalities that the method sees, in the manifest's order; empty means all.
        normalisation: ``zscore`` or ``minmax`` per channel, fitted on ``normalisation_scope``.
        normalisation_scope: Pixels that normalisation and PCA are fitted on, never with labels.
        unlabelled: Pixels that pretraining may see, without labels (``scene`` is transductive and declared).
        pca: Principal components that replace the HSI bands; None keeps the bands.
        selection: How a trained state is chosen. ``paper-val`` uses query labels as released codes do; never ranked.
        query_limit: At most so many query pixels are scored; None scores all.
    """

    split: SplitName = "random-v1"
    shots: int = Field(default=2, ge=1)
    draw: int = Field(default=0, ge=0)
    window: int = Field(default=11, ge=1)
    modalities: tuple[str, ...] = ()
    normalisation: Literal["zscore", "minmax"] = "zscore"
    normalisation_scope: PixelScope = "scene"
    unlabelled: PixelScope = "scene"
    pca: int | None = Field(default=None, ge=1)
    selection: Selection = "last"
    query_limit: int | None = Field(default=None, ge=1)

    @field_validator("window")
    @classmethod
    def _odd(cls, window: int) -> int:
        if window % 2 == 0:
            raise ValueError(
                f"window {window} is even; a window needs a centre pixel, so use {window - 1} or {window + 1}"
            )
        return window


class ProtocolConfig(_Frozen):
    """Everything that decides a cell's numbers; hashed into its key.

    ``scene`` is the manifest's tag (``trento-r1``), ``scene_fingerprint`` the manifest's fingerprint,
    ``method_config`` the method's settings after variant and budget are applied. The split itself follows from
    fingerprint, split name, draw, shots and window, and its hash is kept in the record.
    """

    scene: str
    scene_fingerprint: str
    data: DataConfig
    seed: int = Field(default=0, ge=0)
    budget: BudgetName
    method: str
    variant: str
    method_version: int
    method_config: dict[str, Any]
    code_version: str = __version__

    @cached_property
    def key(self) -> str:
        """The first 16 hex digits of the SHA-256 of all fields."""
        return content_hash(self.model_dump(mode="json"))[:KEY_DIGITS]


class ExecutionConfig(_Frozen):
    """How a cell is computed; recorded, never hashed.

    ``precision`` is Lightning's name (``32-true``, ``bf16-mixed``).
    """

    device: Literal["auto", "cpu", "cuda"] = "cpu"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    inference_batch: int = Field(default=2048, ge=1)
    threads: int = Field(default=1, ge=1)

    def resolved(self) -> ExecutionConfig:
        """The same with ``auto`` replaced by the device there is.

        Raises:
            ConfigError: If ``cuda`` is requested and absent.
        """
        import torch

        present = torch.cuda.is_available()
        if self.device == "cuda" and not present:
            raise ConfigError(
                "--device cuda: torch finds no CUDA device; use --device cpu, or install a CUDA build of torch"
            )
        device = ("cuda" if present else "cpu") if self.device == "auto" else self.device
        return self.model_copy(update={"device": device})


class VariantSpec(_Frozen):
    """A named change of a method's settings.

    Attributes:
        config: The settings that differ.
        unranked: Why its results are shown without a rank; empty if they have one.
        external_data: What its pretrained weights have seen, if that is not what the card says.
    """

    config: dict[str, Any] = Field(default_factory=dict)
    unranked: str = ""
    external_data: str = ""


class MethodSpec(_Frozen):
    """One method's card, read from YAML without importing the method's code.

    Attributes:
        name: Name in tables and on command lines.
        version: Raised whenever results change; part of every cell's key.
        class_path: ``package.module:Class`` of its `mmrs_bench.methods.base.Method`.
        title: One line for lists.
        reference: The paper or library it comes from.
        selections: Selection rules it knows, its default first.
        uses_unlabelled: Whether it trains on unlabelled pixels.
        external_data: What pretrained weights have seen (``none``, ``ImageNet``, ``CLIP``).
        needs_weights: Names in ``data_manifests/weights.yaml`` without which it cannot run.
        config: Every setting with its default.
        variants: Changes of ``config`` by name; ``default`` always exists.
        budgets: Changes of ``config`` by budget, applied before the variant.
        golden_budget: Budget under which ``mmrs-bench regress`` checks it: its baselines need several seeds, so
            ``smoke`` where a seed takes minutes.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: int = Field(ge=1)
    class_path: str = Field(pattern=r"^[\w.]+:\w+$")
    title: str
    reference: str
    selections: tuple[Selection, ...] = ("last",)
    uses_unlabelled: bool = False
    external_data: str = "none"
    needs_weights: tuple[str, ...] = ()
    config: dict[str, Any] = Field(default_factory=dict)
    variants: dict[str, VariantSpec] = Field(default_factory=dict, validate_default=True)
    budgets: dict[BudgetName, dict[str, Any]] = Field(default_factory=dict)
    golden_budget: BudgetName = "quick"

    @field_validator("variants")
    @classmethod
    def _default_exists(cls, variants: dict[str, VariantSpec]) -> dict[str, VariantSpec]:
        return {"default": VariantSpec(), **variants}


def default_results() -> Path:
    """The results folder that commands use unless told otherwise: ``results`` in the current folder."""
    return Path("results")
