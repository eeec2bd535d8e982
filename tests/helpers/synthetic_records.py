"""Records made by hand, for tests of what comes after the runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmrs_bench.config import DataConfig, ExecutionConfig, ProtocolConfig
from mmrs_bench.evaluation.results.metrics import scores
from mmrs_bench.evaluation.results.schema import FailureRecord, Leakage, Measured, PixelBoundRecord, Provenance, Record
from mmrs_bench.evaluation.results.signature import signature, unranked_reason

CLASSES = ("water", "trees & shrubs", "roof_50%")
PIXELS = 200
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def make_protocol(
    method: str = "rf",
    *,
    variant: str = "default",
    draw: int = 0,
    seed: int = 0,
    scene: str = "town-r1",
    fingerprint: str = "ab" * 32,
    budget: str = "paper",
    method_version: int = 1,
    code_version: str = "0.1.0",
    method_config: dict[str, Any] | None = None,
    **data: Any,
) -> ProtocolConfig:
    """A protocol; ``data`` goes to `DataConfig`."""
    return ProtocolConfig.model_validate(
        {
            "scene": scene,
            "scene_fingerprint": fingerprint,
            "data": DataConfig(draw=draw, **data),
            "seed": seed,
            "budget": budget,
            "method": method,
            "variant": variant,
            "method_version": method_version,
            "method_config": method_config or {"trees": 300},
            "code_version": code_version,
        }
    )


def spread_confusion(hits: Sequence[int], pixels: int = PIXELS) -> npt.NDArray[np.int64]:
    """A confusion matrix with so many right pixels a class; wrong ones go to the next class."""
    matrix = np.diag(np.asarray(hits, dtype=np.int64))
    for row, count in enumerate(hits):
        matrix[row, (row + 1) % len(hits)] += pixels - count
    return matrix


def make_record(
    method: str = "rf",
    hits: Sequence[int] = (180, 160, 150),
    *,
    confusion: npt.ArrayLike | None = None,
    labels_used: int | None = None,
    unranked: str = "",
    simulated: bool = False,
    bounds: Sequence[tuple[tuple[str, ...], float, float]] = (),
    title: str = "Town",
    parameters: int = 0,
    seconds: float = 1.5,
    external_data: str = "none",
    commit: str | None = COMMIT,
    dirty: bool | None = False,
    **protocol_changes: Any,
) -> Record:
    """A record that agrees with itself; other arguments go to `make_protocol`."""
    protocol = make_protocol(method, **protocol_changes)
    matrix = np.asarray(spread_confusion(hits) if confusion is None else confusion)
    n_support = protocol.data.shots * len(matrix)
    labels_used = n_support if labels_used is None else labels_used
    return Record(
        schema=1,
        key=protocol.key,
        protocol=protocol,
        execution=ExecutionConfig(),
        simulated=simulated,
        scene_title=title,
        modalities={"hsi": 63, "lidar": 2},
        external_data=external_data,
        class_names=CLASSES[: len(matrix)],
        split_sha256="cd" * 32,
        n_support=n_support,
        labels_used=labels_used,
        n_query=int(matrix.sum()),
        confusion=tuple(tuple(int(v) for v in row) for row in matrix),
        scores=scores(matrix),
        leakage=Leakage(shared_window=0.101, centre_inside=0.033, same_component=0.696),
        pixel_bounds=tuple(PixelBoundRecord(modalities=m, accuracy=a, standard_error=e) for m, a, e in bounds),
        parameters_total=parameters,
        parameters_trainable=parameters,
        unranked=unranked_reason(protocol, labels_used=labels_used, n_support=n_support, variant_reason=unranked),
        signature=signature(protocol),
        provenance=Provenance(commit=commit, dirty=dirty, python="3.11.7", packages={"torch": "2.13.0+cpu"}),
        measured=Measured(
            seconds={"data": 9.0, "fit": seconds / 2, "predict": seconds / 2, "score": 9.0},
            peak_memory_mib=512.0,
            host="somewhere",
            finished_at="2025-01-01T00:00:00+00:00",
        ),
    )


def make_failure(method: str = "cnn", message: str = "the loss is NaN", **protocol_changes: Any) -> FailureRecord:
    """A failure record; other arguments go to `make_protocol`."""
    protocol = make_protocol(method, **protocol_changes)
    return FailureRecord(
        schema=1,
        key=protocol.key,
        protocol=protocol,
        error="TrainingError",
        message=message,
        traceback="Traceback ...",
        failed_at="2025-01-01T00:00:00+00:00",
    )


def wobble(method_quality: int, draw: int) -> tuple[int, int, int]:
    """Hits a class that differ by draw in a fixed way, common to all methods but for a small part of their own."""
    common = (7 * draw) % 11 - 5
    own = (draw * method_quality) % 5 - 2
    return tuple(min(PIXELS, method_quality + 3 * common + own - 10 * k) for k in range(3))  # type: ignore[return-value]


def fixed_set() -> tuple[list[Record], list[FailureRecord]]:
    """The records behind the gold files: a real and a simulated scene, shots 2 and 5, unranked and failed cells."""
    records: list[Record] = []
    for shots, lift in ((2, 0), (5, 15)):
        for draw in range(8):
            for method, quality, parameters, seconds in (
                ("rf-spatial", 170, 0, 2.5),
                ("svm", 168, 0, 0.4),
                ("cnn", 130, 781_234, 33.0),
                ("majority", 70, 0, 0.001),
            ):
                if method == "svm" and draw == 7:
                    continue
                records.append(
                    make_record(
                        method,
                        wobble(quality + lift, draw),
                        shots=shots,
                        draw=draw,
                        scene="trento-r1",
                        title="Trento (reduced HSI)",
                        parameters=parameters,
                        seconds=seconds,
                        selection="support-cv" if method == "svm" else "last",
                        external_data="ImageNet" if method == "cnn" else "none",
                    )
                )
            records.append(
                make_record(
                    "cnn",
                    wobble(150 + lift, draw),
                    shots=shots,
                    draw=draw,
                    scene="trento-r1",
                    title="Trento (reduced HSI)",
                    parameters=781_234,
                    seconds=33.0,
                    selection="paper-val",
                    labels_used=200 + 3 * shots,
                    external_data="ImageNet",
                )
            )
    failures = [make_failure("svm", "no *convergence* in 100_000 steps & 5 %", shots=2, draw=7, scene="trento-r1")]
    bounds = ((("hsi",), 0.712, 0.001), (("hsi", "lidar"), 0.884, 0.0))
    for draw in range(3):
        for method, quality in (("rf", 160), ("cnn", 150)):
            records.append(
                make_record(
                    method,
                    wobble(quality, draw),
                    draw=draw,
                    scene="simulated-r1",
                    title="Simulated town",
                    simulated=True,
                    bounds=bounds,
                    budget="quick",
                    query_limit=20_000,
                    variant="no-lidar" if method == "cnn" else "default",
                    unranked="sees one modality only" if method == "cnn" else "",
                )
            )
    return records, failures
