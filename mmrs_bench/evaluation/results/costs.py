"""What cells cost in seconds: measured by records, and expected for cells without one.

An expectation comes from records of similar cells. Without any, it comes from ``benchmarks/typical_seconds.json``,
which ``benchmarks/studies/typical_seconds.py`` writes from records.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from mmrs_bench.config import QUERY_LIMITS, BudgetName, ProtocolConfig, method_label
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.paths import BENCHMARK_DIR
from mmrs_bench.reading import read_json, validated
from mmrs_bench.scenes.catalogue import load_manifest
from mmrs_bench.scenes.manifest import Manifest

TYPICAL_FILE = BENCHMARK_DIR / "typical_seconds.json"

#: Assumed for the order of cells that nobody measured: seconds of a cell, and of each epoch in its settings.
_CELL_SECONDS, _EPOCH_SECONDS = 2.0, 0.5
_NAME_DIGITS = 8
#: Copies of a scene's images that a worker is assumed to hold, where the memory of another scene was measured.
_SCENE_COPIES = 4


class Cost(NamedTuple):
    """Expected cost of a cell.

    Attributes:
        own: Seconds without a shared pretraining.
        pretraining: Seconds of each pretraining that it shares with other cells, by cache entry.
        memory_mib: Peak resident memory of a worker that computes it; None if unknown.
    """

    own: float
    pretraining: Mapping[str, float]
    memory_mib: float | None = None


class TypicalCost(BaseModel):
    """Mean seconds of a method's cells, of their predictions and of each shared pretraining, and the scored pixels.

    The seconds of the predictions are a part of the cells' own. The names of the pretrainings only tell which methods
    share one. The memory is the peak of a process that computed one cell; it is known for trials only
    (``mmrs-bench plan --cost``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    own: float = Field(ge=0)
    predict: float = Field(ge=0)
    pretraining: dict[str, float] = Field(default_factory=dict)
    n_query: int = Field(ge=1)
    memory_mib: float | None = Field(default=None, gt=0)


class TypicalSeconds(BaseModel):
    """Typical seconds by ``method`` or ``method:variant`` and budget, and how they were measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    processor: str
    scene: str
    seconds: dict[str, dict[BudgetName, TypicalCost]]


@cache
def typical_seconds() -> TypicalSeconds:
    """The shipped typical seconds; a `ConfigError` says what is wrong with their file."""
    advice = "restore the file from the repository, or write it with benchmarks/studies/typical_seconds.py"
    fields = read_json(TYPICAL_FILE, error=ConfigError, advice=advice)
    return validated(TypicalSeconds, fields, where=TYPICAL_FILE, error=ConfigError, advice=advice)


def own_seconds(record: Record) -> float:
    """Seconds of a cell's own fitting and predicting, without loading, scoring, and a shared pretraining."""
    stages = ("fit", "predict") if record.measured.pretraining else ("pretrain", "fit", "predict")
    return sum(record.measured.seconds.get(stage, 0.0) for stage in stages)


def pretraining_seconds(record: Record) -> float | None:
    """Seconds of the shared pretraining that a cell uses, whichever cell trained it; None if none, or unknown."""
    seconds = [*(record.measured.pretraining or {}).values()]
    known = [value for value in seconds if value is not None]
    return sum(known) if known and len(known) == len(seconds) else None


def typical_costs(records: Iterable[Record]) -> dict[str, dict[BudgetName, TypicalCost]]:
    """The means of records by method and budget, for `TypicalSeconds`."""
    grouped: dict[tuple[str, BudgetName], list[Record]] = defaultdict(list)
    for record in records:
        grouped[_label(record.protocol), record.protocol.budget].append(record)
    found: dict[str, dict[BudgetName, TypicalCost]] = defaultdict(dict)
    for (label, budget), similar in sorted(grouped.items()):
        own, pretraining, _ = _mean_cost(similar)
        found[label][budget] = TypicalCost(
            own=round(own, 2),
            predict=round(fmean(record.measured.seconds.get("predict", 0.0) for record in similar), 2),
            pretraining=short_names(pretraining),
            n_query=round(fmean(record.n_query for record in similar)),
        )
    return dict(found)


def short_names(pretraining: Mapping[str, float]) -> dict[str, float]:
    """Seconds by the short names of pretrainings that `TypicalCost` has."""
    return {name[:_NAME_DIGITS]: round(seconds, 2) for name, seconds in pretraining.items()}


class CostModel:
    """Expected cost of cells.

    Args:
        records: Finished cells; those of the same method, variant and budget count.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._similar: dict[tuple[str, str], list[Record]] = defaultdict(list)
        for record in records:
            self._similar[_label(record.protocol), record.protocol.budget].append(record)
        self._known: dict[tuple[str | int, ...], Cost | None] = {}
        self._manifests: dict[str, Manifest] = {}

    def cost(self, cell: Cell) -> Cost | None:
        """The expected cost; None if no similar cell was measured."""
        protocol = cell.protocol
        key = (cell.dataset, _label(protocol), protocol.budget, protocol.data.shots)
        if key not in self._known:
            similar = self._similar.get((_label(protocol), protocol.budget), [])
            typical = self._typical(cell)
            self._known[key] = _from_records(cell, similar, self._manifest(cell.dataset), typical) or typical
        return self._known[key]

    def _typical(self, cell: Cell) -> Cost | None:
        """The shipped seconds of the method, its prediction scaled by the scored pixels; None if there are none."""
        found = typical_seconds().seconds.get(_label(cell.protocol), {}).get(cell.protocol.budget)
        pixels = _queries(cell, self._manifest(cell.dataset)) if found else None
        if not (found and pixels):
            return None
        memory = found.memory_mib
        if memory is not None:
            measured_on = self._manifest(typical_seconds().scene.rpartition("-")[0])
            memory += _SCENE_COPIES * max(0.0, _scene_mib(self._manifest(cell.dataset)) - _scene_mib(measured_on))
        return Cost(found.own + found.predict * (pixels / found.n_query - 1), found.pretraining, memory)

    def _manifest(self, dataset: str) -> Manifest:
        if dataset not in self._manifests:
            self._manifests[dataset] = load_manifest(dataset)
        return self._manifests[dataset]

    def pretrainings(self, cell: Cell) -> frozenset[str] | None:
        """Names of the shared pretrainings that a cell uses; None if nobody measured the method.

        They only tell which methods share a pretraining. Records, and each budget of the shipped seconds, have names
        of their own; all count, so that a method shares with others that were measured under another budget.
        """
        cost = self.cost(cell)
        budgets = typical_seconds().seconds.get(_label(cell.protocol))
        if cost is None and budgets is None:
            return None
        known = [*(cost.pretraining if cost else ()), *(n for b in (budgets or {}).values() for n in b.pretraining)]
        return frozenset(known)

    def measured_here(self, cell: Cell) -> bool:
        """Whether the expectation comes from records, and not from the shipped typical seconds."""
        return (_label(cell.protocol), cell.protocol.budget) in self._similar


def assumed_seconds(protocol: ProtocolConfig) -> float:
    """Seconds by which a cell that nobody measured is put in order: more for longer trainings. Never shown."""
    epochs = (n for name, n in protocol.method_config.items() if name.endswith("epochs") and isinstance(n, int))
    return _CELL_SECONDS + _EPOCH_SECONDS * sum(epochs)


def pretraining_group(protocol: ProtocolConfig) -> tuple[object, ...]:
    """What the cells have in common that share a pretraining, if they use any."""
    data = protocol.data
    scene_wide = data.unlabelled == data.normalisation_scope == "scene"
    pixels = () if scene_wide else (data.split, data.shots, data.draw, data.unlabelled, data.normalisation_scope)
    inputs = (data.window, data.modalities, data.normalisation, data.pca)
    return (protocol.scene_fingerprint, protocol.budget, protocol.seed, *inputs, *pixels)


def expected_queries(cell: Cell) -> int | None:
    """Number of pixels that will be scored, from the manifest's class counts; None if it has none."""
    return _queries(cell, load_manifest(cell.dataset))


def _queries(cell: Cell, manifest: Manifest) -> int | None:
    counts = [scene_class.count for scene_class in manifest.classes]
    if None in counts:
        return None
    total = sum(count for count in counts if count is not None) - cell.protocol.data.shots * len(counts)
    limit = QUERY_LIMITS[cell.protocol.budget]
    return total if limit is None else min(total, limit)


def _label(protocol: ProtocolConfig) -> str:
    return method_label(protocol.method, protocol.variant)


def _mean_cost(records: Sequence[Record], pixels: int | None = None) -> Cost:
    """Mean of all seconds but those of a shared pretraining, that pretraining, and the memory.

    The seconds of predictions are those of ``pixels`` pixels, by default of the scored ones. The least memory counts: a
    worker's peak also is that of the cells before.
    """
    own = []
    for record in records:
        seconds = record.measured.seconds
        shared = seconds.get("pretrain", 0.0) if record.measured.pretraining else 0.0
        more = 0.0 if pixels is None else seconds.get("predict", 0.0) * (pixels / record.n_query - 1)
        own.append(sum(seconds.values()) - shared + more)
    known = (r.measured.pretraining for r in records if pretraining_seconds(r) is not None)
    pretraining = {name: seconds for name, seconds in (next(known, None) or {}).items() if seconds is not None}
    return Cost(fmean(own), pretraining, min(record.measured.peak_memory_mib for record in records))


def _from_records(cell: Cell, records: list[Record], manifest: Manifest, typical: Cost | None) -> Cost | None:
    """Mean over the records of the same scene, if any, and the same shots, if any.

    The prediction of a record of another scene is scaled by the number of scored pixels; the memory is the typical one.
    """
    if not records:
        return None
    fingerprint, shots = cell.protocol.scene_fingerprint, cell.protocol.data.shots
    records = _prefer(records, lambda record: record.protocol.scene_fingerprint == fingerprint)
    records = _prefer(records, lambda record: record.protocol.data.shots == shots)
    if records[0].protocol.scene_fingerprint == fingerprint:
        return _mean_cost(records)
    pixels = _queries(cell, manifest)
    if pixels is None:
        return None
    cost = _mean_cost(records, pixels)
    return Cost(cost.own, cost.pretraining, typical and typical.memory_mib)


def _prefer(records: list[Record], condition: Callable[[Record], bool]) -> list[Record]:
    return [record for record in records if condition(record)] or records


def _scene_mib(manifest: Manifest) -> float:
    """Size of all images of a scene in 32-bit numbers."""
    return manifest.height * manifest.width * sum(m.bands for m in manifest.modalities) * 4 / 2**20
