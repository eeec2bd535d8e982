"""What a record of results holds: the fields of the files in ``results/records`` and ``results/failures``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mmrs_bench.config import ExecutionConfig, ProtocolConfig

SCHEMA_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Scores(_Part):
    """Derived from the confusion matrix; fractions, None where undefined.

    ``kappa`` is None when chance agreement is 1; per-class lists hold None for classes without query pixels
    (recall) or without any pixel in either row or column (f1, iou). All lie in [0, 1] but kappa, which may be
    negative.
    """

    oa: float
    aa: float
    kappa: float | None
    recall: tuple[float | None, ...]
    f1: tuple[float | None, ...]
    iou: tuple[float | None, ...]
    quantity_disagreement: float
    allocation_disagreement: float


class Leakage(_Part):
    """Shares of query pixels whose window depends on the support set (see `mmrs_bench.scenes.splits.audit`)."""

    shared_window: float
    centre_inside: float
    same_component: float


class PixelBoundRecord(_Part):
    """Reference line of a simulated scene (see `mmrs_bench.scenes.scene.PixelBound`)."""

    modalities: tuple[str, ...]
    accuracy: float
    standard_error: float


class Provenance(_Part):
    """What produced the numbers: code commit (None outside a checkout), its state, and library versions."""

    commit: str | None
    dirty: bool | None
    python: str
    packages: dict[str, str]


class Measured(_Part):
    """Clock readings, memory and host: the only parts that may differ between two runs of one cell.

    Attributes:
        seconds: Wall-clock seconds by stage (``pretrain``, ``fit``, ``predict``...).
        peak_memory_mib: Highest resident memory of the process so far, in MiB.
        host: Name of the machine.
        finished_at: UTC, ISO 8601.
    """

    seconds: dict[str, float]
    peak_memory_mib: float
    host: str
    finished_at: str


class Record(_Part):
    """The result of one cell.

    Attributes:
        key: ``protocol.key``; also in the file name.
        simulated: Whether the scene came out of the simulator.
        scene_title: The manifest's title, which carries notes such as "reduced HSI" into every table.
        modalities: Channels the method was offered, by modality (after PCA).
        external_data: What pretrained weights of the method have seen (``none``, ``ImageNet``, ``CLIP``).
        class_names: Names of the classes 1..K.
        split_sha256: Content hash of the split that was used.
        n_support: Labelled pixels learned from, shots x K.
        labels_used: All labels used for anything, selection included.
        n_query: Pixels scored; the sum of ``confusion``.
        confusion: K x K counts, rows are truth, columns are predictions.
        unranked: Reason why this result is shown without a rank; empty if it is ranked.
        signature: The protocol in one line (see `mmrs_bench.evaluation.results.records.signature`).
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    key: str
    protocol: ProtocolConfig
    execution: ExecutionConfig
    simulated: bool
    scene_title: str
    modalities: dict[str, int]
    external_data: str
    class_names: tuple[str, ...]
    split_sha256: str
    n_support: int
    labels_used: int
    n_query: int
    confusion: tuple[tuple[int, ...], ...]
    scores: Scores
    leakage: Leakage
    pixel_bounds: tuple[PixelBoundRecord, ...] = ()
    parameters_total: int
    parameters_trainable: int
    unranked: str = ""
    signature: str
    provenance: Provenance
    measured: Measured

    def body(self) -> dict[str, Any]:
        """Everything but clock readings, memory and host: identical for the same cell on the same machine."""
        return self.model_dump(mode="json", by_alias=True, exclude={"measured"})


class FailureRecord(_Part):
    """What is known about a cell that failed; removed when a later run of the cell succeeds.

    Attributes:
        key: ``protocol.key``.
        error: Class of the error, e.g. ``TrainingError``.
        message: Its message, one line.
        traceback: The full traceback as text.
        failed_at: UTC, ISO 8601.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    key: str
    protocol: ProtocolConfig
    error: str
    message: str
    traceback: str
    failed_at: str
