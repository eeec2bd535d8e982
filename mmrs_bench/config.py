"""Settings: protocol (they determine scores), execution (they do not), and method cards."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from operator import eq
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mmrs_bench.errors import ConfigError
from mmrs_bench.io import canonical_json, content_hash, text_hash
from mmrs_bench.reading import validated
from mmrs_bench.texts import check_bibtex
from mmrs_bench.version import __version__

SplitName = Literal["random-v1", "block-v1", "official-v1"]
PixelScope = Literal["scene", "train-blocks", "support"]
Normalisation = Literal["zscore", "minmax", "cube"]
Selection = Literal["last", "support-cv", "paper-val"]
LoggerName = Literal["csv", "tensorboard", "wandb", "mlflow"]
BudgetName = Literal["smoke", "quick", "paper"]
SceneNeed = Literal["hsi", "second-modality", "colours"]
#: Largest number of scored query pixels by budget; None scores all.
QUERY_LIMITS: dict[str, int | None] = {"smoke": 2_000, "quick": 4_000, "paper": None}

#: Name of the stage in which a method pretrains, in progress, errors and random streams.
PRETRAINING = "pretraining"
DEFAULT_RESULTS = Path("results")
KEY_DIGITS = 16


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def omitted(default: Any, **limits: Any) -> Any:
    """A field that is left out of the content if it has its default, so that hashes of older content stay."""
    # A serializer in Python would do the same, but pydantic turns a Ctrl-C within it into an error of its own.
    return Field(default=default, exclude_if=partial(eq, default), **limits)


class DataConfig(_Frozen):
    """Settings of `mmrs_bench.scenes.datamodule.SceneDataModule`.

    Attributes:
        split: Split protocol.
        shots: Labels per class.
        draw: Index of the support sample.
        window: Side of the square window in pixels, odd.
        modalities: Modalities that the method uses, in the manifest's order; empty means all.
        normalisation: ``zscore`` or ``minmax`` per channel, or ``cube``: 0 to 1 by the smallest and largest value of
            all channels of a modality.
        normalisation_scope: Pixels that normalisation and PCA are fitted to, without labels.
        unlabelled: Pixels that pretraining uses, without labels.
        pca: Number of principal components that replace the HSI bands; None keeps the bands.
        selection: How the trained state is selected. ``paper-val`` uses query labels and is never ranked.
        query_limit: Largest number of scored query pixels; None scores all.
        drop: Modalities that are missing when pixels are predicted; the training has them. Left out of hash and record
            if it is empty.
    """

    split: SplitName = "random-v1"
    shots: int = Field(default=2, ge=1)
    draw: int = Field(default=0, ge=0)
    window: int = Field(default=11, ge=1)
    modalities: tuple[str, ...] = ()
    normalisation: Normalisation = "zscore"
    normalisation_scope: PixelScope = "scene"
    unlabelled: PixelScope = "scene"
    pca: int | None = Field(default=None, ge=1)
    selection: Selection = "last"
    query_limit: int | None = Field(default=None, ge=1)
    drop: tuple[str, ...] = omitted(())

    @cached_property
    def canonical(self) -> str:
        """The `canonical_json` of all fields."""
        return canonical_json(self.model_dump(mode="json"))

    @field_validator("window")
    @classmethod
    def _odd(cls, window: int) -> int:
        if window % 2 == 0:
            raise ValueError(
                f"window {window} is even; a window needs a centre pixel, so use {window - 1} or {window + 1}"
            )
        return window


def drop_fault(drop: Collection[str], modalities: Collection[str]) -> str:
    """Why modalities cannot be missing when pixels are predicted; empty if they can."""
    seen = " and ".join(modalities)
    if unknown := sorted(set(drop) - set(modalities)):
        return f"drop {' '.join(unknown)}: methods see {seen}; drop one of these"
    if drop and set(drop) == set(modalities):
        return f"drop {' '.join(drop)}: methods see {seen} only, so nothing would be left; drop fewer modalities"
    return ""


class ProtocolConfig(_Frozen):
    """All settings that determine a cell's scores; hashed into its key.

    Attributes:
        scene: The manifest's tag, for example ``trento-r1``.
        scene_fingerprint: Hash of everything in the manifest that can change a number.
        data: Split, pixels and normalisation.
        seed: Seed of initialisation and training.
        budget: Training lengths and query limit.
        method: Name of the method.
        variant: Name of its variant.
        method_version: Version in the method's card.
        method_config: Settings of the method, with those of variant and budget.
        files: Hashes of files that the settings name, by setting; left out of hash and record if it is empty.
        code_version: Version of the suite.
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
    files: dict[str, str] = omitted({})
    code_version: str = __version__

    @cached_property
    def key(self) -> str:
        """First 16 hex digits of the SHA-256 of all fields."""
        if "_canonical_frame" not in self.__dict__:
            return content_hash(self.model_dump(mode="json"))[:KEY_DIGITS]
        before, between, after = self._canonical_frame
        return text_hash(f"{before}{self.data.canonical}{between}{self.seed}{after}")[:KEY_DIGITS]

    @cached_property
    def settings_hash(self) -> str:
        """First 6 hex digits of the SHA-256 of the method's settings and files."""
        files = {"files": self.files} if self.files else {}
        return content_hash({**self.method_config, **files})[:6]

    @cached_property
    def _canonical_frame(self) -> list[str]:
        """The `canonical_json` of all fields before, between and after the values of data and seed."""
        fields, mark = self.model_dump(mode="json"), "\0"  # canonical JSON contains no control characters
        parts = {name: canonical_json(value) for name, value in fields.items()} | {"data": mark, "seed": mark}
        text = ",".join(f'"{name}":{parts[name]}' for name in sorted(parts))
        return f"{{{text}}}".split(mark)

    def with_data(self, data: DataConfig, seed: int) -> ProtocolConfig:
        """The same protocol with other data settings and another seed, whose key costs less than that of a new one."""
        self._canonical_frame  # noqa: B018 - computed here, and copied with the other attributes
        copy = self.model_copy(update={"data": data, "seed": seed})
        copy.__dict__.pop("key", None)
        return copy


#: Options of a run by the trainer flags that they set.
_ELSEWHERE = {
    "accelerator": "--device",
    "default_root_dir": "--results",
    "devices": "--devices",
    "logger": "--logger",
    "precision": "--precision",
}
#: Callbacks of Lightning that change the training, or write checkpoints of their own.
_CHANGING_CALLBACKS = {
    "BackboneFinetuning",
    "BatchSizeFinder",
    "EMAWeightAveraging",
    "EarlyStopping",
    "GradientAccumulationScheduler",
    "LearningRateFinder",
    "ModelCheckpoint",
    "ModelPruning",
    "OnExceptionCheckpoint",
    "StochasticWeightAveraging",
    "Timer",
    "WeightAveraging",
}


class TrainerFlags(_Frozen):
    """Flags of Lightning's trainer that change no result; the names and values are Lightning's.

    Attributes:
        log_every_n_steps: Steps between two lines of a log.
        profiler: Profiler of the trainings; it writes to the subfolder ``profile`` of the cell's folder.
        enable_progress_bar: Whether trainings show a progress bar.
        enable_model_summary: Whether trainings print their layers.
        detect_anomaly: Whether a value that is not finite ends the training with its origin.
        callbacks: Class paths, or mappings with ``class_path`` and ``init_args``.
    """

    log_every_n_steps: int = omitted(1, ge=1)
    profiler: Literal["simple", "advanced", "pytorch"] | None = omitted(None)
    enable_progress_bar: bool = omitted(False)
    enable_model_summary: bool = omitted(False)
    detect_anomaly: bool = omitted(False)
    callbacks: tuple[str | dict[str, Any], ...] = omitted(())

    @model_validator(mode="before")
    @classmethod
    def _change_no_result(cls, flags: Any) -> Any:
        for name in sorted(flags.keys() - cls.model_fields.keys()) if isinstance(flags, Mapping) else ():
            advice = "can change results; set it in the method's card, or in a variant of it"
            if name in _ELSEWHERE:
                advice = f"is set by the run; use {_ELSEWHERE[name]}"
            raise ValueError(f"trainer.{name} {advice} (flags that are free: {', '.join(cls.model_fields)})")
        return flags

    @field_validator("callbacks", mode="before")
    @classmethod
    def _several(cls, callbacks: Any) -> Any:
        return (callbacks,) if isinstance(callbacks, str | Mapping) else callbacks

    @field_validator("callbacks")
    @classmethod
    def _classes(cls, callbacks: tuple[str | dict[str, Any], ...]) -> tuple[str | dict[str, Any], ...]:
        for callback in callbacks:
            path = callback.get("class_path") if isinstance(callback, dict) else callback
            known = not isinstance(callback, dict) or callback.keys() <= {"class_path", "init_args"}
            if not (known and isinstance(path, str) and "." in path):
                raise ValueError(
                    f"callback {callback!r}: write package.module.Class, or a mapping with class_path and init_args"
                )
            if path.rpartition(".")[2] in _CHANGING_CALLBACKS:
                raise ValueError(
                    f"callback {path} can change results or writes checkpoints; set lengths and the selection rule in "
                    "the method's card"
                )
        return callbacks


class ExecutionConfig(_Frozen):
    """Settings that determine how a cell is computed; recorded, not hashed.

    Attributes:
        device: Where modules run; ``auto`` is the GPU if there is one.
        precision: Lightning's setting.
        inference_batch: Largest number of pixels that are predicted at once.
        threads: Threads of each worker.
        devices: Processes of each long training, one per GPU or CPU core; recorded only if it is not the default.
        logger: Where trainings log; recorded only if it is not the default.
        trainer: Flags of the trainer; recorded only if they are not the defaults.
    """

    device: Literal["auto", "cpu", "cuda"] = "cpu"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    inference_batch: int = Field(default=2048, ge=1)
    threads: int = Field(default=1, ge=1)
    devices: int = omitted(1, ge=1)
    logger: tuple[LoggerName, ...] = omitted(("csv", "tensorboard"))
    trainer: TrainerFlags = omitted(TrainerFlags())

    @classmethod
    def of(cls, **settings: Any) -> ExecutionConfig:
        """The settings with these names; a `ConfigError` says which is wrong."""
        return validated(cls, settings, where="execution", error=ConfigError)

    def resolved(self) -> ExecutionConfig:
        """These settings with ``auto`` replaced by the available device.

        Raises:
            ConfigError: If ``cuda`` is not available, or there are fewer GPUs or CPU cores than ``devices``.
        """
        import torch

        available = torch.cuda.is_available()
        if self.device == "cuda" and not available:
            cause = "finds no CUDA device; use --device cpu, or check the driver and CUDA_VISIBLE_DEVICES"
            if torch.version.cuda is None:
                cause = "is built without CUDA; use --device cpu, or install a CUDA build of torch if there is a GPU"
            raise ConfigError(f"--device cuda: torch {torch.__version__} {cause}")
        device = ("cuda" if available else "cpu") if self.device == "auto" else self.device
        present = torch.cuda.device_count() if device == "cuda" else usable_cores()
        if self.devices > max(present, 1):
            kind = "GPUs" if device == "cuda" else "CPU cores that this process may use"
            raise ConfigError(f"--devices {self.devices}: there are only {present} {kind}; use at most {present}")
        return self.model_copy(update={"device": device})


#: Value of ``GOMP_SPINCOUNT``: how often a waiting thread of gcc's OpenMP, which torch uses on Linux, looks for work
#: before it sleeps; 3,000 times are 0.06 ms. By default it does so for 5 ms, in which it slows down the other threads
#: of a busy CPU by a factor of up to 30. If it sleeps at once, small operations of torch take up to twice as long.
OPENMP_SPINS = "3000"


@contextmanager
def torch_threads(count: int | None = None) -> Iterator[None]:
    """Let torch use ``count`` threads meanwhile, and afterwards as many as before; None changes nothing at first."""
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def usable_cores() -> int:
    """Cores that this process may use; fewer than the machine has if its affinity is restricted."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def method_label(method: str, variant: str) -> str:
    """``method``, or ``method:variant`` for a variant other than the default."""
    return method if variant == "default" else f"{method}:{variant}"


class VariantSpec(_Frozen):
    """A variant of a method.

    Attributes:
        config: Settings that differ from the card's ``config``.
        unranked: Why its results have no rank; empty if they have one.
        external_data: Training data of its pretrained weights, if different from the card's.
        needs_scene: What scenes need, if different from the card's.
    """

    config: dict[str, Any] = Field(default_factory=dict)
    unranked: str = ""
    external_data: str = ""
    needs_scene: tuple[SceneNeed, ...] | None = Field(default=None, exclude=True)


class ResourceSpec(_Frozen):
    """What a worker needs to compute cells of a method. It changes no result, and is not part of the key.

    Attributes:
        gpu: Number of GPUs; used with ``--device auto``.
        memory_gb: Memory in GB; None means what was measured, if anything was.
    """

    gpu: int = Field(default=0, ge=0)
    memory_gb: float | None = Field(default=None, gt=0)


class MethodSpec(_Frozen):
    """The card of a method, read from YAML without an import of the method's code.

    Attributes:
        name: Name in tables and on command lines.
        version: Incremented when results change; part of the key of every cell.
        class_path: ``package.module:Class`` of the `mmrs_bench.methods.base.Method`, or ``file.py:Class``, where a
            relative path starts at the card's folder.
        title: One line for lists.
        reference: Paper or library, in words; ``none`` if there is nothing to cite.
        citation: BibTeX entries of what ``reference`` names, for ``mmrs-bench cite``.
        selections: Supported selection rules, the default first.
        uses_unlabelled: Whether the method trains on unlabelled pixels.
        external_data: Training data of pretrained weights.
        needs_weights: Required weights, by name in ``data_manifests/weights.yaml``.
        needs_scene: What scenes need: ``hsi``; ``second-modality``, at least two modalities; ``colours``, defined bands
            for red, green and blue, if the HSI is used. ``--methods all`` leaves the method out on other scenes.
        part_of: The method that this one is an ablation, a part or a probe of; ``--methods all`` leaves it out.
        config: All settings with their defaults.
        variants: Variants by name; ``default`` always exists.
        budgets: Changes of ``config`` by budget, applied before the variant.
        golden_budget: Budget of the method's baselines for ``mmrs-bench regress``.
        resources: What workers on clusters need, by budget; a budget that is not named needs a CPU.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: int = Field(ge=1)
    class_path: str = Field(pattern=r"^([\w.]+|.+\.py):\w+$")
    title: str
    reference: str
    citation: str = ""
    selections: tuple[Selection, ...] = ("last",)
    uses_unlabelled: bool = False
    external_data: str = "none"
    needs_weights: tuple[str, ...] = ()
    needs_scene: tuple[SceneNeed, ...] = Field(default=(), exclude=True)  # changes no result
    part_of: str = ""
    config: dict[str, Any] = Field(default_factory=dict)
    variants: dict[str, VariantSpec] = Field(default_factory=dict, validate_default=True)
    budgets: dict[BudgetName, dict[str, Any]] = Field(default_factory=dict)
    golden_budget: BudgetName = "quick"
    resources: dict[BudgetName, ResourceSpec] = Field(default_factory=dict)

    @field_validator("citation")
    @classmethod
    def _is_bibtex(cls, citation: str) -> str:
        check_bibtex(citation)
        return citation

    @field_validator("variants")
    @classmethod
    def _default_exists(cls, variants: dict[str, VariantSpec]) -> dict[str, VariantSpec]:
        return {"default": VariantSpec(), **variants}
