"""Constructed records, and the tables behind the gold files, for tests that need no training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from mmrs_bench.config import QUERY_LIMITS, DataConfig, ExecutionConfig, ProtocolConfig
from mmrs_bench.evaluation.report.leaderboard import build_leaderboard
from mmrs_bench.evaluation.report.reported import ReportedResult
from mmrs_bench.evaluation.report.tables import Table, Value
from mmrs_bench.evaluation.results.metrics import scores
from mmrs_bench.evaluation.results.schema import FailureRecord, Leakage, Measured, PixelBoundRecord, Provenance, Record
from mmrs_bench.evaluation.results.signature import signature, unranked_reason

CLASSES = ("water", "trees & shrubs", "roof_50%")
PIXELS = 200
FINISHED = "2025-01-01T00:00:00+00:00"
REPORTED = (
    ReportedResult(
        scene="trento", method="MFT", inputs="hsi + lidar", oa=98.32, source="Roy et al. 2023", difference="819 labels"
    ),
    ReportedResult(
        scene="trento", method="DiffCLIP", inputs="all", claim="+10.65", source="Zhang et al.", difference="2 shots"
    ),
    ReportedResult(scene="muufl", method="MFT", inputs="all", oa=94.34, source="Roy et al. 2023", difference="5 %"),
)


def make_protocol(method: str = "rf", *, method_config: dict[str, Any] | None = None, **changes: Any) -> ProtocolConfig:
    """A protocol; ``changes`` are fields of `ProtocolConfig`, ``fingerprint`` or fields of `DataConfig`."""
    fields = {
        "scene": "town-r1",
        "scene_fingerprint": changes.pop("fingerprint", "ab" * 32),
        "seed": 0,
        "budget": "paper",
        "method": method,
        "variant": "default",
        "method_version": 1,
        "method_config": method_config or {"trees": 300},
        "code_version": "0.1.0",
    }
    fields |= {name: changes.pop(name) for name in fields.keys() & changes.keys()}
    return ProtocolConfig.model_validate({**fields, "data": DataConfig(**changes)})


def make_record(
    method: str = "rf",
    hits: Sequence[int] = (180, 160, 150),
    *,
    protocol: ProtocolConfig | None = None,
    confusion: npt.ArrayLike | None = None,
    labels_used: int | None = None,
    unranked: str = "",
    simulated: bool = False,
    bounds: Sequence[tuple[tuple[str, ...], float, float]] = (),
    title: str = "Town",
    parameters: int = 0,
    seconds: float = 1.5,
    pretraining: dict[str, float | None] | None = None,
    external_data: str = "none",
    commit: str | None = "0123456789abcdef0123456789abcdef01234567",
    dirty: bool | None = False,
    **protocol_changes: Any,
) -> Record:
    """A consistent record with ``hits`` correct pixels by class; the wrong ones are assigned to the next class.

    Other arguments are those of `make_protocol`.
    """
    protocol = protocol or make_protocol(method, **protocol_changes)
    matrix = np.diag(hits) + np.roll(np.diag(PIXELS - np.array(hits)), 1, axis=1)
    matrix = matrix if confusion is None else np.asarray(confusion)
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
            seconds={"data": 9.0, "fit": seconds / 2, "predict": seconds / 2, "score": 9.0}
            | ({"pretrain": 99.0} if pretraining else {}),
            pretraining=pretraining,
            peak_memory_mib=512.0,
            host="somewhere",
            finished_at=FINISHED,
        ),
    )


def make_failure(method: str = "cnn", message: str = "the loss is NaN", **protocol_changes: Any) -> FailureRecord:
    """A failure record; other arguments are those of `make_protocol`."""
    protocol = make_protocol(method, **protocol_changes)
    return FailureRecord(
        schema=1,
        key=protocol.key,
        protocol=protocol,
        error="TrainingError",
        message=message,
        traceback="Traceback ...",
        failed_at=FINISHED,
    )


def varied_hits(quality: int, draw: int) -> tuple[int, int, int]:
    """Hits by class that vary with the draw: mostly in the same way for all methods, a little for each quality."""
    common = (7 * draw) % 11 - 5
    own = (draw * quality) % 5 - 2
    return tuple(min(PIXELS, quality + 3 * common + own - 10 * k) for k in range(3))  # type: ignore[return-value]


def fixed_set() -> tuple[list[Record], list[FailureRecord]]:
    """The records behind the gold files: a real and a simulated scene, 2 and 5 shots, unranked and failed cells."""
    records: list[Record] = []
    for shots, draw in product((2, 5), range(8)):
        common: dict[str, Any] = {"shots": shots, "draw": draw, "scene": "trento-r1", "title": "Trento (reduced HSI)"}
        cnn: dict[str, Any] = {
            "parameters": 781_234,
            "seconds": 33.0,
            "external_data": "ImageNet",
            "pretraining": {"entry": 41.0, "another": 1.5},
        }
        unranked: dict[str, Any] = {"selection": "paper-val", "labels_used": 200 + 3 * shots}
        methods: list[tuple[str, int, dict[str, Any]]] = [
            ("rf-spatial", 170, {"seconds": 2.5}),
            ("svm", 168, {"seconds": 0.4, "selection": "support-cv"}),
            ("cnn", 130, cnn),
            ("majority", 70, {"seconds": 0.001}),
            ("cnn", 150, {**cnn, **unranked}),
        ]
        for method, quality, changes in methods:
            if (method, draw) != ("svm", 7):
                hits = varied_hits(quality + (15 if shots == 5 else 0), draw)
                records.append(make_record(method, hits, **common, **changes))
    for draw in range(3):
        common = {"draw": draw, "scene": "simulated-r1", "title": "Simulated town", "simulated": True}
        common |= {"bounds": ((("hsi",), 0.712, 0.001), (("hsi", "lidar"), 0.884, 0.0))}
        common |= {"budget": "quick", "query_limit": QUERY_LIMITS["quick"]}
        records.append(make_record("rf", varied_hits(160, draw), **common))
        ablation = {"variant": "no-lidar", "unranked": "sees one modality only"}
        records.append(make_record("cnn", varied_hits(150, draw), **common, **ablation))
    return records, [make_failure("svm", "no *convergence* in 100_000 steps & 5 %", draw=7, scene="trento-r1")]


def fixed_tables() -> list[Table]:
    """The tables behind the gold files."""
    return build_leaderboard(*fixed_set(), REPORTED)


def values(table: Table, *keys: str) -> list[tuple[Value, ...]]:
    """The values of some columns, row by row."""
    return [tuple(row.get(key) for key in keys) for row in table.rows]
