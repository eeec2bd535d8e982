"""Fields of the files in ``results/records`` and ``results/failures``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mmrs_bench.config import ExecutionConfig, OmitsEmpty, ProtocolConfig

SCHEMA_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Scores(_Part):
    """Metrics of the confusion matrix (see `mmrs_bench.evaluation.results.metrics`): fractions, None if undefined.

    ``recall``, ``f1`` and ``iou`` have one value per class.
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
    """Upper bound of a simulated scene (see `mmrs_bench.scenes.scene.PixelBound`)."""

    modalities: tuple[str, ...]
    accuracy: float
    standard_error: float


class Provenance(_Part):
    """Code commit, whether files differ from it (both None outside a checkout), Python and library versions."""

    commit: str | None
    dirty: bool | None
    python: str
    packages: dict[str, str]


class Measured(_Part):
    """Time, memory and host: the only fields that may differ between two runs of one cell.

    ``seconds`` is wall-clock time by stage, ``peak_memory_mib`` the peak resident memory of the process, and
    ``finished_at`` a UTC time in ISO 8601. ``pretraining`` has the seconds of each shared pretraining that the cell
    uses, whichever cell trained it, by the name of its cache entry (None if unknown); it is None in older records.
    """

    seconds: dict[str, float]
    pretraining: dict[str, float | None] | None = None
    peak_memory_mib: float
    host: str
    finished_at: str


class Record(_Part, OmitsEmpty):
    """The result of one cell.

    Attributes:
        key: ``protocol.key``; also in the file name.
        modalities: Number of input channels by modality, after PCA.
        external_data: Data that the method's weights were pretrained on (``none``, ``ImageNet``, ``CLIP``).
        n_support: Labelled pixels in the support set, shots x K.
        labels_used: All labels that were used, selection included.
        n_query: Number of scored pixels.
        confusion: K x K counts, rows are truth, columns are predictions.
        unranked: Why the result is not ranked; empty if it is ranked.
        notes: What readers must know about the cell (see `mmrs_bench.methods.base.Method.notes`); left out if empty.
        signature: The protocol in one line (see `mmrs_bench.evaluation.results.signature`).
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
    notes: tuple[str, ...] = ()
    signature: str
    provenance: Provenance
    measured: Measured

    omitted_if_empty = ("notes",)

    def body(self) -> dict[str, Any]:
        """All fields except ``measured``: identical for the same cell on the same machine."""
        return self.model_dump(mode="json", by_alias=True, exclude={"measured"})


class FailureRecord(_Part):
    """Why a cell failed: error class, message in one line, traceback, and UTC time in ISO 8601."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    key: str
    protocol: ProtocolConfig
    error: str
    message: str
    traceback: str
    failed_at: str
