"""`Results`: frames, tables and figures of records, without workers."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.synthetic_records import fixed_set, make_record
from matplotlib.figure import Figure

import mmrs_bench
from mmrs_bench import Results
from mmrs_bench.errors import ConfigError, RecordError
from mmrs_bench.evaluation.results.records import save_failure, save_record


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """The records and the failure behind the gold files."""
    records, failures = fixed_set()
    for record in records:
        save_record(tmp_path, record)
    for failure in failures:
        save_failure(tmp_path, failure.protocol, RuntimeError(failure.message))
    return mmrs_bench.load_results(tmp_path)


def test_loaded_results_are_those_of_the_folder(results: Results) -> None:
    assert sorted(r.key for r in results.records) == sorted(r.key for r in fixed_set()[0])
    assert len(results.failures) == 1
    assert repr(results) == (
        f"<Results: {len(results)} records of 6 methods on simulated-r1, trento-r1 in {results.folder}, 1 failed cells>"
    )


def test_a_folder_without_records_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="contains no records"):
        mmrs_bench.load_results(tmp_path)


def test_the_frame_has_the_documented_columns_and_one_row_per_record(results: Results) -> None:
    frame = results.frame()
    documented = re.findall(r"``(\w+)``", inspect.getdoc(Results.frame) or "")
    assert list(frame) == documented
    assert len(frame) == len(results)
    rows = frame.set_index("key")
    for record in results.records:
        row = rows.loc[record.key]
        assert (row["shots"], row["simulated"]) == (record.protocol.data.shots, record.simulated)
        assert row["oa"] == pytest.approx(100 * record.scores.oa)
    assert frame["simulated"].dtype == bool


def test_an_undefined_metric_is_nan() -> None:
    one_class = make_record("rf", confusion=[[10, 0, 0], [0, 0, 0], [0, 0, 0]])
    assert np.isnan(Results(Path("x"), (one_class,)).frame()["kappa"].iloc[0])


def test_select_narrows_records_and_failures(results: Results) -> None:
    selected = results.select(scene="trento", shots=2, method="svm")
    assert {(r.protocol.method, r.protocol.data.shots, r.protocol.scene) for r in selected.records} == {
        ("svm", 2, "trento-r1")
    }
    assert len(selected.failures) == 1
    assert results.select(scene="simulated-r1").failures == ()
    assert {r.protocol.variant for r in results.select(method="cnn:no-lidar").records} == {"no-lidar"}
    with pytest.raises(ConfigError, match="unknown scene in these results 'trentu': did you mean trento"):
        results.select(scene="trentu")


def test_the_leaderboard_is_text_html_and_data(results: Results) -> None:
    board = results.leaderboard()
    assert "rf-spatial" in str(board)
    assert repr(board) == str(board)
    assert board._repr_html_().count("<table>") == len(board.tables)
    frame = board.frame()
    means = results.select(scene="trento", shots=2, method="rf-spatial").frame()["oa"].mean()
    row = frame[(frame["scene"] == "trento-r1") & (frame["shots"] == 2) & (frame["method"] == "rf-spatial")]
    assert row["oa_mean"].item() == pytest.approx(means)
    assert board.to("csv").splitlines()[0].split(",") == list(frame)
    assert [row["label"] for row in board] == list(frame["label"])


def test_names_are_escaped_in_html() -> None:
    bad = "<script>alert(1)</script>"
    results = Results(Path("x"), (make_record("rf", title=bad), make_record("svm", title=bad)))
    for tables in (results.leaderboard(), results.compare("rf", "svm")):
        assert bad not in tables._repr_html_()
        assert "&lt;script&gt;" in tables._repr_html_()


def test_a_comparison_as_data_contains_difference_and_p() -> None:
    records = [make_record("rf", (150, 150, 150 + d), draw=d) for d in range(1, 7)]
    records += [make_record("svm", (150, 150, 144), draw=d) for d in range(1, 7)]
    results = Results(Path("x"), tuple(records))
    first = results.compare("rf", "svm").frame().iloc[0]
    assert (first["metric"], first["one"], first["other"], first["draws"], first["won"]) == ("OA", "rf", "svm", 6, 6)
    assert first["difference_mean"] == pytest.approx(100 * 9.5 / 600)
    assert first["p_value"] == pytest.approx(2 / 2**6)
    few = Results(Path("x"), tuple(records[:3] + records[6:9])).compare("rf", "svm").frame()
    assert few["p_value"].isna().all()


def test_figures_show_one_protocol(results: Results) -> None:
    trento = results.select(scene="trento")
    for draw in (lambda: results.confusion("cnn"), lambda: trento.confusion("svm"), lambda: trento.map("svm")):
        with pytest.raises(ConfigError, match=r"shows one protocol.*results\.select"):
            draw()
    with pytest.raises(ConfigError, match="curves need ranked results of at least two shot counts"):
        trento.select(shots=2).curves()
    with pytest.raises(ConfigError, match="unknown method with records 'svn': did you mean svm"):
        trento.confusion("svn")
    figure = results.curves()
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(b"\x89PNG"), "a notebook shows the figure"  # type: ignore[attr-defined]


def test_ranks_need_two_scenes_and_one_protocol(results: Results) -> None:
    with pytest.raises(ConfigError, match="ranks need at least two methods with ranked results on two scenes"):
        results.ranks()

    def of(*shots: int) -> Results:
        cells = ((m, q, s, n) for m, q in (("rf", 150), ("svm", 120)) for s in ("a-r1", "b-r1") for n in shots)
        return Results(Path("x"), tuple(make_record(m, (q, q, q), scene=s, shots=n) for m, q, s, n in cells))

    with pytest.raises(ConfigError, match=r"ranks shows one protocol.*2 shots.*5 shots"):
        of(2, 5).ranks()
    assert isinstance(of(2).ranks(), Figure)


def test_the_confusion_figure_shows_percent_of_the_true_class(results: Results) -> None:
    selected = results.select(scene="trento", shots=2)
    figure = selected.confusion("svm")
    shown = np.asarray(figure.axes[0].get_images()[0].get_array())
    counts = np.sum([record.confusion for record in selected.select(method="svm").records], axis=0)
    np.testing.assert_allclose(shown, 100 * counts / counts.sum(axis=1, keepdims=True))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(results.records[0].class_names)


def test_a_map_needs_a_record_of_the_draw_and_a_known_scene(results: Results) -> None:
    trento = results.select(scene="trento", shots=2)
    with pytest.raises(ConfigError, match="svm has no record of draw 7; it has 0, 1, 2, 3, 4, 5, 6"):
        trento.map("svm", draw=7)
    unknown = Results(Path("x"), (make_record("svm", scene="mine-r1"),))
    with pytest.raises(ConfigError, match=r"the path of the manifest of mine-r1; call run\(datasets=PATH"):
        unknown.map("svm")


def test_lists_are_tables() -> None:
    methods, scenes = mmrs_bench.list_methods(), mmrs_bench.list_scenes()
    assert {"cnn", "svm"} <= {row["name"] for row in methods}
    for listed, documented in ((methods, mmrs_bench.list_methods), (scenes, mmrs_bench.list_scenes)):
        text = (inspect.getdoc(documented) or "").partition("columns")[2]
        assert list(listed.frame()) == [name for name in re.findall(r"``(\w+)``", text) if name != "name:variant"]
    assert {"simulated", "trento", "sim-trento"} <= set(scenes.frame()["name"])
    assert "trento" in str(scenes)


def test_a_data_module_takes_the_protocol_as_keywords() -> None:
    scene = mmrs_bench.load_scene("simulated", progress=False)
    assert set(scene.images) == {"hsi", "lidar"}
    data = mmrs_bench.datamodule(scene, shots=3, draw=1, window=7, batch_size=16)
    assert (data.config.shots, data.config.draw, data.config.window, data.batch_size) == (3, 1, 7, 16)
    assert data.support.size == 3 * scene.num_classes
    assert mmrs_bench.datamodule("simulated").config.shots == 2
    with pytest.raises(ConfigError, match="unknown dataset 'simulted'"):
        mmrs_bench.load_scene("simulted")
