"""``predict``, ``export`` and ``import``: fitted models and results that leave or enter a results folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmrs_bench.commands.options import make_execution
from mmrs_bench.commands.output import say, say_progress
from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.exchange import export_results, import_results, is_results
from mmrs_bench.evaluation.prediction import export_model, predict_scene
from mmrs_bench.evaluation.report.entries import MethodId
from mmrs_bench.evaluation.report.maps.rasters import RASTER_SUFFIXES, missing_place
from mmrs_bench.evaluation.report.maps.sheet import check_map_path
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.stage_lines import StageLines


def predict(*, model: str, scene: str | None, out: str, device: str, threads: int, drop: Sequence[str] | None) -> int:
    """Classify every pixel of a scene, and write the class map."""
    target = Path(out).expanduser()
    check_map_path(target)
    execution = make_execution(device, ExecutionConfig().precision, threads=threads)
    sheet = predict_scene(Path(model).expanduser(), scene, execution, StageLines(say_progress), drop=drop)
    written = sheet.write(target)
    if target.suffix.lower() in RASTER_SUFFIXES and (line := missing_place(sheet.scene)):
        say_progress(line)
    for path in written:
        say(str(path))
    return 0


def export(*, source: str, out: str, pretrained: bool, origin: str | None, contact: str | None) -> int:
    """Write a Lightning checkpoint of a fitted model, or the records of a results folder."""
    path, target = Path(source).expanduser(), Path(out).expanduser()
    if is_results(path):
        if pretrained:
            raise ConfigError(f"{path} is a results folder, and --pretrained is for models; leave it out")
        if origin is None:
            raise ConfigError(
                f"{path} is a results folder: say whose results these are, e.g. --origin 'Example University'"
            )
        return _export_results(path, target, origin, contact or "")
    if origin is not None or contact:
        raise ConfigError(
            f"{path} is no results folder, which --origin and --contact are for; give the folder that mmrs-bench run "
            "wrote to, or leave them out to export a model"
        )
    found = export_model(path, target, StageLines(say_progress), pretrained=pretrained)
    place, _, name = found.rpartition(":")
    where = (
        f"{name}.load_from_checkpoint of {place}" if place.endswith(".py") else f"{place}.{name}.load_from_checkpoint"
    )
    say(f"{target}: read it with {where}")
    return 0


def _export_results(results: Path, target: Path, origin: str, contact: str) -> int:
    records, remarks = export_results(results, target, name=origin, contact=contact)
    for line in _summary(records):
        say(line)
    for line in remarks:
        say(line)
    say(f"{target}: {len(records)} records of {origin}; others read it with mmrs-bench import")
    return 0


def import_records(*, source: str, results: str, origin: str | None, replace: bool) -> int:
    """Add the results of others to a results folder."""
    folder = Path(results).expanduser()
    found = import_results(Path(source).expanduser(), folder, name=origin, replace=replace)
    for line in _summary(found.records):
        say(line)
    if found.same or found.different:
        say(
            f"{found.same + len(found.different)} of the cells were also computed here: {found.same} have the same "
            f"confusion matrix, {len(found.different)} another one"
        )
    for record in found.different:
        say(
            f"differs: {record.signature}, {record.protocol.method}, draw {record.protocol.data.draw}, key {record.key}"
        )
    state = "" if found.new else "are there already: "
    say(f"{state}{len(found.records)} records of {found.origin.name} in {found.folder}")
    return 0


def _summary(records: Iterable[Record]) -> list[str]:
    """Records by scene, budget and method, one line each."""
    counts = Counter((r.protocol.scene, r.protocol.budget, MethodId.of(r.protocol).name) for r in records)
    return [f"{scene}, budget {budget}: {method}, {n} records" for (scene, budget, method), n in sorted(counts.items())]
