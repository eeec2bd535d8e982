"""Fields of the files in ``results/records`` and ``results/failures``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from mmrs_bench.config import ExecutionConfig, ProtocolConfig, omitted

SCHEMA_VERSION = 1

#: A fraction of pixels, and a time that is no damaged number (a year at most).
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=366 * 24 * 3600)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Scores(_Part):
    """Metrics of the confusion matrix (see `mmrs_bench.evaluation.results.metrics`): fractions, None if undefined.

    Attributes:
        oa: Overall accuracy.
        aa: Average accuracy: mean recall of the classes with query pixels.
        kappa: Cohen's kappa.
        recall: Recall by class.
        f1: F1 by class.
        iou: Intersection over union by class.
        quantity_disagreement: Share of wrong amounts of classes.
        allocation_disagreement: Share of correct amounts in wrong places.
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
    """Shares of query pixels whose window depends on the support set (see `mmrs_bench.scenes.splits.audit`).

    Attributes:
        shared_window: The pixel's window shares a pixel with a support window.
        centre_inside: The pixel's window contains a support pixel.
        same_component: The pixel is in the same labelled polygon as a support pixel.
    """

    shared_window: Share
    centre_inside: Share
    same_component: Share


class PixelBoundRecord(_Part):
    """Upper bound of a simulated scene (see `mmrs_bench.scenes.scene.PixelBound`).

    Attributes:
        modalities: Modalities that the classifier sees.
        accuracy: OA of the best possible classifier of single pixels.
        standard_error: Standard error of ``accuracy``, which is estimated.
    """

    modalities: tuple[str, ...]
    accuracy: float
    standard_error: float


class Provenance(_Part):
    """What computed the cell.

    Attributes:
        commit: Commit of the code; None outside a checkout.
        dirty: Whether files differ from the commit; None outside a checkout.
        python: Version of Python.
        packages: Versions of libraries.
    """

    commit: str | None
    dirty: bool | None
    python: str
    packages: dict[str, str]


class Measured(_Part):
    """Time, memory and host: the only fields that may differ between two runs of one cell.

    Attributes:
        seconds: Wall-clock time by stage.
        pretraining: Seconds of each shared pretraining that the cell uses, whichever cell trained it, by the name of
            its cache entry (None if unknown); None in older records.
        peak_memory_mib: Peak resident memory of the process.
        host: Name of the machine.
        finished_at: UTC time in ISO 8601.
    """

    seconds: dict[str, Seconds]
    pretraining: dict[str, Seconds | None] | None = None
    peak_memory_mib: float = Field(ge=0)
    host: str
    finished_at: str


class Record(_Part):
    """The result of one cell.

    Attributes:
        schema_version: Version of this format.
        key: ``protocol.key``; also in the file name.
        protocol: Everything that the result depends on.
        execution: How the cell was computed.
        simulated: Whether the scene is simulated.
        scene_title: Title in the manifest.
        modalities: Number of input channels by modality, after PCA.
        external_data: Data that the method's weights were pretrained on (``none``, ``ImageNet``, ``CLIP``).
        class_names: Classes 1..K.
        split_sha256: Hash of the split's content.
        n_support: Labelled pixels in the support set, shots x K.
        labels_used: All labels that were used, selection included.
        n_query: Number of scored pixels.
        confusion: K x K counts, rows are truth, columns are predictions.
        scores: Metrics of the confusion matrix.
        leakage: Spatial dependence between support and query.
        pixel_bounds: Bounds of a simulated scene, by modalities.
        parameters_total: Number of learned parameters; 0 for methods without a parameter vector.
        parameters_trainable: Number of those that the training changes.
        unranked: Why the result is not ranked; empty if it is ranked.
        notes: What readers must know about the cell (see `mmrs_bench.methods.base.Method.notes`); left out if empty.
        signature: The protocol in one line (see `mmrs_bench.evaluation.results.signature`).
        provenance: What computed the cell.
        measured: Time, memory and host.
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
    parameters_total: int = Field(ge=0)
    parameters_trainable: int = Field(ge=0)
    unranked: str = ""
    notes: tuple[str, ...] = omitted(())
    signature: str
    provenance: Provenance
    measured: Measured

    _origin: str = PrivateAttr(default="")

    @property
    def origin(self) -> str:
        """Who computed an imported record; empty for records of the results folder itself. No field of the record."""
        return self._origin

    @property
    def identity(self) -> str:
        """What distinguishes the record from all others that are shown with it: its key and origin."""
        return f"{self.key}@{self.origin}" if self.origin else self.key

    def with_origin(self, origin: str) -> Record:
        """A copy with this `origin`."""
        copy = self.model_copy()
        copy._origin = origin
        return copy

    def body(self) -> dict[str, Any]:
        """All fields except ``measured``: identical for the same cell on the same machine."""
        return self.model_dump(mode="json", by_alias=True, exclude={"measured"})


class FailureRecord(_Part):
    """Why a cell failed.

    Attributes:
        schema_version: Version of this format.
        key: ``protocol.key``; also in the file name.
        protocol: Settings of the cell.
        error: Class of the error.
        message: The error in one line.
        traceback: Where it was raised.
        failed_at: UTC time in ISO 8601.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    key: str
    protocol: ProtocolConfig
    error: str
    message: str
    traceback: str
    failed_at: str
