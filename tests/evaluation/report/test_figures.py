"""Figures for two-column papers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.synthetic_records import fixed_set, make_failure, make_record
from matplotlib.text import Text

from mmrs_bench.evaluation.report.curves import curve_families
from mmrs_bench.evaluation.report.entries import group_records
from mmrs_bench.evaluation.report.paper.figures import (
    LEGEND_POINTS,
    TEXT_POINTS,
    WIDTH,
    curve_figure,
    paper_style,
    write_figures,
)
from mmrs_bench.evaluation.results.schema import Record


def records(scenes: int = 1, shots: tuple[int, ...] = (2, 5)) -> list[Record]:
    return [
        make_record(method, (150 + 9 * place,) * 3, shots=count, draw=draw, scene=f"scene-{scene}-r1")
        for scene in range(scenes)
        for place, method in enumerate(("cnn", "rf", "svm"))
        for count in shots
        for draw in range(3)
    ]


def test_figures_have_the_width_of_a_column_and_truetype_fonts_of_the_size_of_the_paper(tmp_path: Path) -> None:
    pdf, tex = write_figures(group_records(records()), tmp_path)
    content = pdf.read_bytes()
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", content)
    assert box
    assert float(box[1]) == 72 * WIDTH
    assert float(box[2]) < 72 * WIDTH
    assert b"/CIDFontType2" in content
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    with paper_style():
        (family,) = curve_families(group_records(records()))
        figure = curve_figure(family, {"cnn": 0, "rf": 1, "svm": 2})
        figure.draw_without_rendering()
        sizes = {text.get_fontsize() for text in figure.findobj(Text) if text.get_text()}  # type: ignore[attr-defined]
    assert sizes == {LEGEND_POINTS, TEXT_POINTS}
    assert rf"\includegraphics[width=\columnwidth]{{{pdf.name}}}" in tex.read_text()


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    (one, _), (other, _) = (write_figures(group_records(records()), tmp_path / name) for name in "ab")
    assert one.read_bytes() == other.read_bytes()


def test_a_method_looks_the_same_in_all_figures() -> None:
    some = [r for r in records(scenes=2) if (r.protocol.method, r.protocol.scene) != ("cnn", "scene-1-r1")]
    numbers = {"cnn": 0, "rf": 1, "svm": 2}
    colours = []
    for family in curve_families(group_records(some)):
        handles, labels = curve_figure(family, numbers).axes[0].get_legend_handles_labels()
        colours.append(dict(zip(labels, (handle[0].get_color() for handle in handles), strict=True)))  # type: ignore[index]
    assert colours[0].keys() == {"cnn", "rf", "svm"}
    assert colours[1] == {name: colours[0][name] for name in ("rf", "svm")}


def test_a_method_with_one_shot_count_has_no_curve_and_the_caption_says_so(tmp_path: Path) -> None:
    more = [*records(), make_record("msfmamba", shots=2, scene="scene-0-r1")]
    text = write_figures(group_records(more), tmp_path)[-1].read_text()
    assert "One method with a single number of labels per class not shown." in text
    single = [make_record("cnn", shots=2), make_record("rf", shots=5)]
    assert write_figures(group_records(single), tmp_path / "none") == []


def test_captions_say_what_is_simulated(tmp_path: Path) -> None:
    made = [record.model_copy(update={"simulated": True}) for record in records()]
    assert r"\caption{SIMULATED: Town" in write_figures(group_records(made), tmp_path)[-1].read_text()


def test_failures_hide_neither_what_is_simulated_nor_the_protocol(tmp_path: Path) -> None:
    made = [record.model_copy(update={"simulated": True}) for record in records()]
    groups = group_records(made, [make_failure(shots=1, scene="scene-0-r1")])
    assert [group.scene_label for group in groups] == ["SIMULATED: Town (scene-0)"] * 3
    caption = write_figures(groups, tmp_path)[-1].read_text()
    assert r"\caption{SIMULATED: Town" in caption
    assert "over 3 draws; random-v1, budget paper, window 11, unlabelled pixels scene, v0.1.0." in caption
    assert [group.shots for (family,) in [curve_families(groups)] for group in family] == [2, 5]


@pytest.mark.parametrize("least", [1, 2])
def test_no_protocol_with_one_shot_count_has_a_figure(tmp_path: Path, least: int) -> None:
    groups = group_records(records(shots=(2, 5)[:least]))
    assert bool(write_figures(groups, tmp_path)) == (least == 2)


def test_the_fixed_records_have_a_figure_and_an_inclusion(tmp_path: Path) -> None:
    files = write_figures(group_records(*fixed_set()), tmp_path)
    assert [path.suffix for path in files] == [".pdf", ".tex"]
    assert all(path.is_file() for path in files)
