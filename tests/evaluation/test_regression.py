"""Regression against baselines: losses, gains, missing results, and new baselines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import stdev

import pytest
from helpers.git_checkout import git, make_checkout
from helpers.synthetic_records import make_record

from mmrs_bench.cli import main
from mmrs_bench.commands import regress as command
from mmrs_bench.commands.regress import baseline_cells
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.regression import (
    MIN_TOLERANCE,
    Baseline,
    check_traceable,
    load_baselines,
    regress,
    update_baselines,
)
from mmrs_bench.evaluation.report.render import render
from mmrs_bench.evaluation.results.metrics import METRICS, ClassCounts, Metric
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.methods.catalogue import method_card, weightless_methods
from mmrs_bench.paths import cache_root

DRAWS = range(3)


def runs(method: str = "rf", hits: int = 150, *, seeds: int = 1, noise: int = 0, **changes: object) -> list[Record]:
    """Records of a method over three draws; consecutive seeds differ by ``noise`` pixels."""
    return [
        make_record(method, (hits + noise * seed, hits, hits), draw=draw, seed=seed, **changes)  # type: ignore[arg-type]
        for draw in DRAWS
        for seed in range(seeds)
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "baselines.json"
    file.write_text('{"schema": 1, "rows": []}')
    return file


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path)


@pytest.fixture
def baselines(path: Path, checkout: Path) -> list[Baseline]:
    update_baselines(runs(seeds=5) + runs("svm", 120, seeds=5), path, checkout=checkout)
    return load_baselines(path)


@pytest.mark.parametrize(
    ("hits", "status", "summary"),
    [(150, "ok", "no loss: all 6 metrics are within their tolerance"), (160, "gain", "update the baselines")],
)
def test_equal_accuracies_and_gains_pass(baselines: list[Baseline], hits: int, status: str, summary: str) -> None:
    """Records of draws without a baseline are ignored. Equal seeds give the smallest tolerance."""
    report = regress([*runs(hits=hits), *runs("svm", 120), make_record("rf", (0, 0, 0), draw=7)], baselines)
    assert {metric.tolerance for row in baselines for metric in row.metrics.values()} == {MIN_TOLERANCE}
    assert [check.status for check in report.checks if check.baseline.method == "rf"] == [status] * 3
    assert report.passed
    assert summary in report.summary()


def test_a_loss_beyond_the_tolerance_fails(baselines: list[Baseline]) -> None:
    # One pixel of 200 in every class is 0.5 points, the tolerance; two pixels are 1 point.
    at_the_edge = regress(runs(hits=149) + runs("svm", 120), baselines)
    assert [c.status for c in at_the_edge.checks if c.metric == "oa"] == ["ok", "ok"]
    lost = regress(runs(hits=148) + runs("svm", 120), baselines)
    by_metric = {(c.baseline.method, c.metric): c.status for c in lost.checks}
    assert by_metric["rf", "oa"] == by_metric["rf", "aa"] == by_metric["rf", "kappa"] == "loss"
    assert by_metric["svm", "oa"] == "ok"
    assert not lost.passed
    text = render([lost.table()], "terminal", width=120)
    assert "LOSS" in text
    assert "3 metrics lost more than their tolerance" in text


def test_missing_methods_and_draws_fail(baselines: list[Baseline]) -> None:
    report = regress(runs()[:2], baselines)
    notes = {c.baseline.method: (c.status, c.note, c.current) for c in report.checks}
    assert notes == {"rf": ("missing", "draws 2 are absent", None), "svm": ("missing", "no records", None)}
    assert not report.passed


@pytest.mark.parametrize("change", [{"shots": 5}, {"fingerprint": "12" * 32}, {"split": "block-v1"}, {"window": 9}])
def test_records_of_another_protocol_are_not_compared(baselines: list[Baseline], change: dict[str, object]) -> None:
    report = regress(runs(**change), baselines)
    assert {c.status for c in report.checks} == {"missing"}


def test_baselines_are_valid_for_other_versions_of_suite_and_method(baselines: list[Baseline]) -> None:
    newer = runs(code_version="0.9.0", method_version=4) + runs("svm", 120, code_version="0.9.0")
    assert regress(newer, baselines).passed


def test_several_versions_at_once_are_refused(baselines: list[Baseline]) -> None:
    with pytest.raises(ConfigError, match="several versions or settings of rf"):
        regress(runs() + runs(method_version=2), baselines)


def test_without_baselines_the_regression_fails() -> None:
    with pytest.raises(ConfigError, match="no baselines to check against"):
        regress(runs(), [])


def test_the_tolerance_is_three_standard_deviations_between_seeds(path: Path, checkout: Path) -> None:
    update_baselines(runs(seeds=5, noise=6), path, checkout=checkout)
    (row,) = load_baselines(path)
    # Consecutive seeds differ by 6 of 600 pixels in every draw.
    sd = stdev(0.75 + 0.01 * seed for seed in range(5))
    oa = row.metrics["oa"]
    assert oa.sd == pytest.approx(sd, abs=1e-6)
    assert oa.tolerance == pytest.approx(3 * sd, abs=1e-5)
    assert oa.mean == pytest.approx(0.77)
    assert (row.repeats, row.draws) == (5, (0, 1, 2))


def balanced_error(counts: ClassCounts) -> float:
    return 1 - sum(hit / total for hit, total in zip(counts.correct, counts.true, strict=True)) / len(counts.true)


def test_a_metric_is_one_function_and_one_row(
    path: Path, checkout: Path, baselines: list[Baseline], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression contains a new metric after the next update; baselines that are older than it remain valid."""
    monkeypatch.setitem(METRICS, "ber", Metric("ber", "BER", balanced_error, higher_is_better=False))
    assert regress(runs() + runs("svm", 120), baselines).passed
    lines = update_baselines(runs(seeds=5), path, checkout=checkout)
    assert lines[-1] == "town-r1 random-v1 2-shot paper rf BER: none -> 25.00 ± 0.50"
    rf = next(row for row in load_baselines(path) if row.method == "rf")
    for hits, status in ((150, "ok"), (140, "loss"), (160, "gain")):
        report = regress(runs(hits=hits), [rf])
        assert [check.status for check in report.checks] == [status] * 4
        assert "BER" in render([report.table()], "terminal", width=120)
    monkeypatch.delitem(METRICS, "ber")
    with pytest.raises(ConfigError, match="unknown metrics ber; known metrics: oa, aa, kappa"):
        load_baselines(path)


def test_update_prints_old_and_new_and_keeps_other_baselines(
    path: Path, checkout: Path, baselines: list[Baseline]
) -> None:
    lines = update_baselines(runs(hits=160, seeds=5), path, checkout=checkout)
    assert lines[0] == "town-r1 random-v1 2-shot paper rf OA: 75.00 ± 0.50 -> 80.00 ± 0.50"
    assert len(lines) == 3
    by_method = {row.method: row for row in load_baselines(path)}
    assert by_method["svm"] == next(row for row in baselines if row.method == "svm")
    assert by_method["rf"].metrics["oa"].mean == 0.8
    first = update_baselines(runs("cnn", seeds=5), path, checkout=checkout)
    assert first[0].endswith("cnn OA: none -> 75.00 ± 0.50")


@pytest.mark.parametrize("change", [{"fingerprint": "cd" * 32}, {"window": 9}])
def test_update_replaces_baselines_that_nothing_measures_any_more(
    path: Path, checkout: Path, baselines: list[Baseline], change: dict[str, object]
) -> None:
    assert len(baselines) == 2
    lines = update_baselines(runs(hits=160, seeds=5, **change), path, checkout=checkout)
    assert "rf OA: 75.00 ± 0.50 -> 80.00 ± 0.50" in lines[0]
    assert regress(runs(hits=160, **change) + runs("svm", 120), load_baselines(path)).passed


def test_update_refuses_a_dirty_checkout_and_no_checkout(path: Path, checkout: Path, tmp_path: Path) -> None:
    before = path.read_text()
    (checkout / "code.py").write_text("changed")
    with pytest.raises(ConfigError, match="has uncommitted changes; commit or stash"):
        update_baselines(runs(seeds=5), path, checkout=checkout)
    git(checkout, "checkout", "code.py")
    with pytest.raises(ConfigError, match="is not a git checkout"):
        update_baselines(runs(seeds=5), path, checkout=tmp_path)
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no records"),
        (runs(seeds=4), "rf has 4 seeds; a tolerance needs at least 5: run it with --seeds 0 1 2 3 4"),
        (runs(seeds=5)[:-1], "do not have the same draws"),
        (runs(seeds=5, dirty=True), "not from one commit"),
        (runs(seeds=5, commit=None, dirty=None), "not from one commit"),
        (runs(seeds=5)[:-1] + runs(seeds=5, commit="f" * 40)[-1:], "not from one commit"),
    ],
)
def test_update_refuses_incomplete_or_untraceable_records(
    path: Path, checkout: Path, records: list[Record], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        update_baselines(records, path, checkout=checkout)


def test_an_undefined_kappa_gets_no_baseline(path: Path, checkout: Path) -> None:
    records = [make_record(confusion=[[5, 0], [0, 0]], draw=d, seed=s) for d in DRAWS for s in range(5)]
    update_baselines(records, path, checkout=checkout)
    (row,) = load_baselines(path)
    assert set(row.metrics) == {"oa", "aa"}
    assert regress(records, [row]).passed


def test_a_faulty_baselines_file_is_refused(path: Path) -> None:
    path.write_text("{")
    with pytest.raises(ConfigError, match="restore the committed file"):
        load_baselines(path)
    path.write_text(json.dumps({"schema": 1, "rows": [{"scene": "x"}]}))
    with pytest.raises(ConfigError, match=r"rows\.0\.split is missing"):
        load_baselines(path)


def test_the_committed_file_is_valid() -> None:
    assert load_baselines()


def test_every_method_without_weights_has_baseline_cells_with_its_golden_budget() -> None:
    cells = baseline_cells((0, 1))
    budgets = {name: method_card(name).golden_budget for name in weightless_methods()}
    assert {cell.protocol.method: cell.protocol.budget for cell in cells} == budgets
    assert (budgets["rf"], budgets["diffclip"]) == ("quick", "smoke")
    assert len(cells) == len(budgets) * 5 * 2


@pytest.mark.parametrize("stopped", [False, True])
def test_regress_uses_no_cache_of_other_code(stopped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of the cache contain the versions of suite and methods, but do not change with uncommitted code."""
    users, seen = cache_root(), []

    def compute(*args: object, **options: object) -> int:
        seen.append(cache_root())
        (cache_root() / "pretraining").mkdir()
        if stopped:
            raise KeyboardInterrupt
        return 1

    monkeypatch.setattr(command, "compute", compute)
    monkeypatch.chdir(tmp_path)
    assert main(["regress", "--results", "here"]) == (130 if stopped else 1)
    (own,) = seen
    assert own.is_absolute()
    assert own.parent == tmp_path / "here"  # in the results folder, which workers on other machines can read
    assert not own.exists()
    assert cache_root() == users


def test_regress_compares_chosen_methods_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Callable[..., str], refused: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    out = printed("regress", "--methods", "majority", "--workers", "1")
    assert "no loss: all 3 metrics are within their tolerance" in out
    assert "rf" not in out.split()
    for name, hint in (("majorty", "did you mean majority?"), ("unidiff", "unknown method with baselines 'unidiff'")):
        assert hint in refused("regress", "--methods", name)


def test_new_baselines_are_refused_outside_a_checkout() -> None:
    with pytest.raises(ConfigError, match=r"installed package; run regress --update-baselines in a git checkout"):
        check_traceable(None)
