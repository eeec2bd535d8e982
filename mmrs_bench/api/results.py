"""``Results``: records with tables, data frames and figures."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmrs_bench.api.tables import Tables
from mmrs_bench.config import DEFAULT_RESULTS, ExecutionConfig
from mmrs_bench.errors import ConfigError, RecordError, unknown_name
from mmrs_bench.evaluation.cells import Cell, recorded_name
from mmrs_bench.evaluation.report.comparison import compare
from mmrs_bench.evaluation.report.curves import curve_families, curve_figure
from mmrs_bench.evaluation.report.entries import Entry, Group, MethodId, group_records
from mmrs_bench.evaluation.report.exports import draws_table
from mmrs_bench.evaluation.report.leaderboard import build_leaderboard
from mmrs_bench.evaluation.report.ranks.diagram import rank_figure
from mmrs_bench.evaluation.report.ranks.scene_ranks import rank_over_scenes
from mmrs_bench.evaluation.report.reported import load_reported
from mmrs_bench.evaluation.results.imported import load_imported
from mmrs_bench.evaluation.results.records import load_failures, load_records, remaining_failures
from mmrs_bench.evaluation.results.schema import FailureRecord, Record
from mmrs_bench.scenes.catalogue import load_manifest, shipped_names

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Results:
    """The results of some cells.

    Figures show one protocol: choose it with `select` if there are several.

    Attributes:
        folder: The results folder.
        records: One record per finished cell, see `mmrs_bench.evaluation.results.schema.Record`.
        failures: One record per failed cell.
    """

    folder: Path
    records: tuple[Record, ...]
    failures: tuple[FailureRecord, ...] = ()
    _cells: tuple[Cell, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        methods = len({MethodId.of(record.protocol).name for record in self.records})
        scenes = sorted({record.protocol.scene for record in self.records})
        failed = f", {len(self.failures)} failed cells" if self.failures else ""
        return f"<Results: {len(self)} records of {methods} methods on {', '.join(scenes)} in {self.folder}{failed}>"

    def select(
        self,
        *,
        scene: str | None = None,
        method: str | None = None,
        split: str | None = None,
        shots: int | None = None,
        budget: str | None = None,
    ) -> Results:
        """The results with these values; None keeps all.

        Args:
            scene: Name or tag, for example ``trento`` or ``trento-r1``.
            method: ``method``, or ``method:variant``; the path of a card stands for its method, as everywhere below.
            split: Split protocol.
            shots: Labels per class.
            budget: Budget.

        Raises:
            ConfigError: If no record has one of the values.
        """
        wanted = {"scene": scene, "method": method, "split": split, "shots": shots, "budget": budget}
        found = self
        for name, value in wanted.items():
            if value is not None:
                found = found._with(name, recorded_name(str(value)) if name == "method" else value)
        return found

    def _with(self, name: str, value: str | int) -> Results:
        records = tuple(record for record in self.records if value in _values(record, name))
        if not records:
            raise unknown_name(f"{name} in these results", str(value), {str(_values(r, name)[0]) for r in self.records})
        failures = tuple(failure for failure in self.failures if value in _values(failure, name))
        return replace(self, records=records, failures=failures)

    def frame(self) -> pd.DataFrame:
        """One row per record.

        Columns:
            ``key``; ``scene``, ``simulated``, ``split``, ``shots``, ``budget``, ``method``, ``variant``,
            ``selection``, ``origin`` (empty unless imported), ``label`` as in the leaderboard; ``draw``, ``seed``;
            ``oa``, ``aa``, ``kappa``, ``quantity_disagreement`` and ``allocation_disagreement`` in percent (NaN if
            undefined); ``n_query`` scored pixels; ``labels_used``; ``unranked`` (the reason, empty for ranked results);
            ``seconds`` of fitting and predicting, and ``pretraining_seconds`` of the pretraining that cells share (NaN
            if none); ``signature`` of the protocol.
        """
        frame = Tables((draws_table(group_records(self.records)),)).frame()
        frame["simulated"] = frame["simulated"] == "true"
        return frame

    def leaderboard(self) -> Tables:
        """The rankings by scene and protocol, as ``mmrs-bench leaderboard`` prints them."""
        return Tables(tuple(build_leaderboard(self.records, self.failures, load_reported())))

    def compare(self, a: str, b: str) -> Tables:
        """Compare two methods over their common draws, as ``mmrs-bench compare`` does.

        Returns:
            One table per protocol with one row per metric: mean difference a - b in percent with its 95 % interval,
            draws won, lost and tied, and p of the exact paired Wilcoxon test (``p_value`` in the data frame: NaN
            below 6 draws).

        Raises:
            ConfigError: If a method has no records, or the methods have no common draw.
        """
        return Tables(tuple(compare(self.records, recorded_name(a), recorded_name(b))))

    def curves(self) -> Figure:
        """Accuracy over shots: OA with 95 % intervals over draws, one line per ranked method.

        Raises:
            ConfigError: If there are ranked results of only one shot count, or of several protocols.
        """
        families = curve_families(group_records(self.records))
        if not families:
            raise ConfigError("curves need ranked results of at least two shot counts; e.g. run(..., shots=[2, 5, 10])")
        _check_single([f"{family[0].scene_label}, {_protocol(family[0])}" for family in families], "curves")
        return curve_figure(families[0])

    def ranks(self) -> Figure:
        """Mean ranks over scenes as a critical-difference diagram: bars connect methods that are not separable.

        Raises:
            ConfigError: If no two methods are ranked on two scenes under one protocol, or there are several protocols.
        """
        found = rank_over_scenes(group_records(self.records))
        if not found:
            raise ConfigError(
                "ranks need at least two methods with ranked results on two scenes; e.g. run(datasets=['trento', "
                "'muufl'], ...)"
            )
        _check_single([ranks.title for ranks in found], "ranks")
        return rank_figure(found[0])

    def confusion(self, method: str) -> Figure:
        """The confusion matrix of a method, summed over draws, in percent of the pixels of each true class.

        Args:
            method: ``method``, ``method:variant``, or a label of the leaderboard.

        Raises:
            ConfigError: If the method has no records, or results under several protocols.
        """
        from mmrs_bench.evaluation.report.figures import confusion_figure

        return confusion_figure(*self._entry(method, "confusion"))

    def map(
        self,
        *methods: str,
        draw: int = 0,
        device: Literal["auto", "cpu", "cuda"] = "cpu",
        progress: bool = True,
    ) -> Figure:
        """A sheet with the class maps of a whole scene: sensors, ground truth, and each method's errors and confidence.

        Methods are trained again unless the run saved their models (``save_models=True``).

        Args:
            methods: One or more of ``method``, ``method:variant``, or labels of the leaderboard.
            draw: The draw.
            device: Device of the training.
            progress: Whether to print a line for each stage.

        Raises:
            ConfigError: If a method has no record of this draw, or results under several protocols.
            BenchError: If a training cannot start or fails.
        """
        from mmrs_bench.evaluation.class_map import classify_scene
        from mmrs_bench.evaluation.run.display.console import line_printer
        from mmrs_bench.evaluation.stage_lines import StageLines

        if not methods:
            raise ConfigError("map needs at least one method, e.g. results.map('svm')")
        cells, labels, groups = [], [], {}
        for method in methods:
            group, entry = self._entry(method, "map")
            groups[group.title] = group
            record = next((r for r in entry.records if r.protocol.data.draw == draw), None)
            if record is None:
                known = ", ".join(map(str, entry.draws))
                raise ConfigError(f"{entry.label} has no record of draw {draw}; it has {known}")
            if record.origin:
                raise ConfigError(f"{entry.label} was imported, and a map needs its model; run the method here first")
            cells.append(self._cell(record))
            labels.append(entry.label)
        _check_single([*groups], "map")
        show_stage = StageLines(line_printer(shown=progress))
        execution = ExecutionConfig.of(device=device)
        return classify_scene(cells, execution, self.folder, show_stage, labels=labels).figure()

    def _entry(self, method: str, figure: str) -> tuple[Group, Entry]:
        """The only group with results of a method, and these results."""
        groups, method = group_records(self.records), recorded_name(method)
        found = [group for group in groups if group.find(method)]
        if not found:
            known = {name for group in groups for e in group.entries for name in (e.label, e.method_id.name)}
            raise unknown_name("method with records", method, known)
        _check_single([group.title for group in found], figure)
        return found[0], found[0].find_one(method)

    def _cell(self, record: Record) -> Cell:
        """The cell of a record, to compute it again."""
        protocol = record.protocol
        cell = next((cell for cell in self._cells if cell.key == record.key), None)
        if cell is None:
            names = [name for name in shipped_names() if load_manifest(name).tag == protocol.scene]
            if not names:
                raise ConfigError(
                    f"records do not contain the path of the manifest of {protocol.scene}; call run(datasets=PATH, "
                    "...) with the settings of these results, which computes no finished cell again, and then map"
                )
            cell = Cell(names[0], protocol)
        if cell.card.version != protocol.method_version:
            raise ConfigError(
                f"the record is of version {protocol.method_version} of {protocol.method}, and installed is version "
                f"{cell.card.version}; run it again"
            )
        return cell


def load_results(folder: str | os.PathLike[str] = DEFAULT_RESULTS) -> Results:
    """The results in a folder, of all runs, and those that ``mmrs-bench import`` added.

    Raises:
        RecordError: If the folder contains no records, or a corrupt one.
    """
    path = Path(folder).expanduser()
    records = [*load_records(path), *load_imported(path)]
    if not records:
        raise RecordError(f"{path} contains no records; give another folder, or create some with mmrs-bench run")
    return Results(path, tuple(records), tuple(remaining_failures(records, load_failures(path))))


def results_of(cells: Iterable[Cell], folder: Path) -> Results:
    """The results of some cells."""
    by_key = {cell.key: cell for cell in cells}
    records = tuple(record for record in load_records(folder) if record.key in by_key)
    failures = tuple(failure for failure in load_failures(folder) if failure.key in by_key)
    return Results(folder, records, failures, tuple(by_key.values()))


def _values(record: Record | FailureRecord, name: str) -> tuple[str | int, ...]:
    """What `Results.select` accepts for a record, the usual form first."""
    protocol = record.protocol
    values: dict[str, tuple[str | int, ...]] = {
        "scene": (protocol.scene.rpartition("-")[0], protocol.scene),
        "method": (MethodId.of(protocol).name,),
        "split": (protocol.data.split,),
        "shots": (protocol.data.shots,),
        "budget": (protocol.budget,),
    }
    return values[name]


def _protocol(group: Group) -> str:
    return f"{group.protocol_label}, budget {group.fields['budget']}"


def _check_single(titles: list[str], figure: str) -> None:
    if len(titles) > 1:
        raise ConfigError(
            f"{figure} shows one protocol, and these results have {len(titles)}: {'; '.join(titles)}. Choose one, e.g. "
            f"results.select(scene=..., split=..., shots=..., budget=...).{figure}(...)"
        )
