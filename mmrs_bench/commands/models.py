"""``predict`` and ``export``: fitted models that ``run --save-models`` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmrs_bench.commands.options import make_execution
from mmrs_bench.commands.output import say, say_progress
from mmrs_bench.config import ExecutionConfig
from mmrs_bench.evaluation.prediction import export_model, predict_scene
from mmrs_bench.evaluation.report.maps.sheet import check_map_path
from mmrs_bench.evaluation.stage_lines import StageLines


def predict(*, model: str, scene: str | None, out: str, device: str, drop: Sequence[str] | None) -> int:
    """Classify every pixel of a scene, and write the class map."""
    target = Path(out).expanduser()
    check_map_path(target)
    execution = make_execution(device, ExecutionConfig().precision)
    sheet = predict_scene(Path(model).expanduser(), scene, execution, StageLines(say_progress), drop=drop)
    for path in sheet.write(target):
        say(str(path))
    return 0


def export(*, model: str, out: str, pretrained: bool) -> int:
    """Write a Lightning checkpoint."""
    target = Path(out).expanduser()
    found = export_model(Path(model).expanduser(), target, StageLines(say_progress), pretrained=pretrained)
    place, _, name = found.rpartition(":")
    where = (
        f"{name}.load_from_checkpoint of {place}" if place.endswith(".py") else f"{place}.{name}.load_from_checkpoint"
    )
    say(f"{target}: read it with {where}")
    return 0
