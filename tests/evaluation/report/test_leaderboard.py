"""The leaderboard: what is compared with what, and how it looks in every format."""

from __future__ import annotations

import csv
import html.parser
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.synthetic_records import fixed_set, make_failure, make_record, wobble

from mmrs_bench.errors import ConfigError, RecordError
from mmrs_bench.evaluation.report.comparison import compare
from mmrs_bench.evaluation.report.entries import group_records
from mmrs_bench.evaluation.report.leaderboard import build_leaderboard, write_leaderboard
from mmrs_bench.evaluation.report.render import FORMATS, render
from mmrs_bench.evaluation.report.reported import REPORTED, Reported, load_reported
from mmrs_bench.evaluation.report.tables import Column, Estimate, Section, Table, cell_text
from mmrs_bench.evaluation.results.records import save_failure, save_record
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.scenes.catalogue import shipped_names

GOLD = Path(__file__).parent / "gold"
#: Set this variable to write the gold files anew; the tests then fail once, so that nobody forgets to look.
UPDATE = "MMRS_BENCH_UPDATE_GOLD"

CLAIMS = (
    Reported(
        scene="trento",
        method="MFT",
        inputs="hsi + lidar",
        oa=98.32,
        source="Roy et al. 2023",
        difference="819 labels",
    ),
    Reported(
        scene="trento", method="DiffCLIP", inputs="all", claim="+10.65", source="Zhang et al.", difference="2 shots"
    ),
    Reported(scene="muufl", method="MFT", inputs="all", oa=94.34, source="Roy et al. 2023", difference="5 %"),
)


def fixed_tables() -> list[Table]:
    records, failures = fixed_set()
    return build_leaderboard(records, failures, CLAIMS)


def check_gold(name: str, text: str) -> None:
    path = GOLD / name
    if os.environ.get(UPDATE):
        path.write_text(text, encoding="utf-8")
        pytest.fail(f"{name} was written anew; look at its changes and run again without {UPDATE}")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("fmt", ["md", "csv", "tex", "html"])
def test_gold_files(fmt: str) -> None:
    check_gold(f"leaderboard.{fmt}", render(fixed_tables(), fmt))


@pytest.mark.parametrize("width", [100, 160])
def test_gold_terminal(width: int) -> None:
    text = render(fixed_tables(), "terminal", width=width)
    assert max(map(len, text.splitlines())) <= width
    check_gold(f"terminal-{width}.txt", text)


def test_the_order_of_the_records_does_not_matter() -> None:
    records, failures = fixed_set()
    shuffled = build_leaderboard(records[::-1], failures[::-1], CLAIMS)
    assert render(shuffled, "csv") == render(fixed_tables(), "csv")
    assert render(shuffled, "md") == render(fixed_tables(), "md")


def first_table(records: Sequence[Record], *failures: object) -> Table:
    return build_leaderboard(records, failures)[0]  # type: ignore[arg-type]


def shown_rows(table: Table, *keys: str) -> list[tuple[object, ...]]:
    return [tuple(row.get(key) for key in keys) for section in table.sections for row in section.rows]


def test_numbers_of_a_row_by_hand() -> None:
    records = [make_record(hits=hits, draw=draw) for draw, hits in enumerate([(200, 200, 200), (100, 100, 100)])]
    ((oa, kappa, draws),) = shown_rows(first_table(records), "oa", "kappa", "draws")
    # OA is 1 and 0.5: mean 75 %, sd (ddof 1) 35.36 points; kappa is 1 and 0.25.
    assert isinstance(oa, Estimate)
    assert (oa.mean, oa.sd) == (75.0, pytest.approx(35.3553, abs=1e-4))
    assert isinstance(kappa, Estimate)
    assert kappa.mean == pytest.approx(62.5)
    assert draws == 2


def test_seeds_are_averaged_within_a_draw_before_draws_are() -> None:
    records = [
        make_record(hits=(200, 200, 200), draw=0, seed=0),
        make_record(hits=(100, 100, 100), draw=0, seed=1),
        make_record(hits=(150, 150, 150), draw=1, seed=0),
    ]
    table = first_table(records)
    ((oa, draws, seeds),) = shown_rows(table, "oa", "draws", "seeds")
    assert (oa, draws, seeds) == (Estimate(75.0, 0.0, 75.0, 75.0), 2, 2)
    assert any("mean over its seeds" in note for note in table.notes)


@pytest.mark.parametrize(
    "other",
    [
        {"shots": 5},
        {"split": "block-v1"},
        {"window": 7},
        {"fingerprint": "12" * 32},
        {"budget": "smoke"},
        {"unlabelled": "support"},
        {"modalities": ("hsi",)},
        {"code_version": "0.2.0"},
    ],
)
def test_what_may_not_be_compared_is_never_in_one_table(other: dict[str, object]) -> None:
    tables = build_leaderboard([make_record("rf"), make_record("svm", **other)])  # type: ignore[arg-type]
    rankings = [table for table in tables if table.tidy]
    assert [len(shown_rows(table, "label")) for table in rankings] == [1, 1]


def test_selection_on_query_labels_stands_apart_without_a_rank() -> None:
    records = [make_record("cnn", wobble(120, d), draw=d) for d in range(6)]
    records += [make_record("cnn", wobble(190, d), draw=d, selection="paper-val", labels_used=206) for d in range(6)]
    table = first_table(records)
    assert [section.title for section in table.sections] == ["", "unranked: selection on query labels (paper-val)"]
    assert shown_rows(table, "label", "group") == [("cnn [last]", 1), ("cnn [paper-val]", None)]


def test_results_of_other_versions_or_settings_are_never_pooled() -> None:
    records = [
        make_record("rf", draw=0),
        make_record("rf", draw=1, method_version=2),
        make_record("rf", draw=2, method_config={"trees": 5}),
    ]
    labels = [str(label) for (label,) in shown_rows(first_table(records), "label")]
    assert len(labels) == len(set(labels)) == 3
    assert sum("v2" in label for label in labels) == 1


def test_failed_cells_are_listed_even_where_nothing_succeeded() -> None:
    failures = [make_failure("cnn", "no memory", draw=draw) for draw in (3, 1)]
    table = first_table([], *failures)
    assert table.notes == ("Failed: cnn, draws 1, 3: TrainingError: no memory",)
    assert "no memory" in render([table], "terminal")


def test_simulated_results_say_so_with_the_pixel_bounds_beside_them() -> None:
    for fmt in ("terminal", "md", "tex", "html"):
        text = render(fixed_tables(), fmt)
        titles = [line for line in text.splitlines() if "Simulated town" in line]
        assert titles
        assert all("SIMULATED" in line for line in titles)
        assert "71.20" in text
        assert "88.40" in text
    rows = list(csv.DictReader(io.StringIO(render(fixed_tables(), "csv"))))
    assert {(row["scene"], row["simulated"]) for row in rows} == {("simulated-r1", "true"), ("trento-r1", "false")}


def test_every_ranking_carries_its_signature_and_card() -> None:
    for table in fixed_tables():
        if table.tidy:
            card = dict(table.card)
            assert card["signature"].startswith("OA|")
            assert "leakage" in card
    trento = fixed_tables()[1]
    assert dict(trento.card)["signature"] == (
        "OA|trento-r1@abababab|random-v1|2shot|draws:7-8|win:11|unlab:scene|sel:last+support-cv|budget:paper|v0.1.0"
    )


def test_below_six_draws_the_table_says_why_there_are_no_groups() -> None:
    records = [make_record(m, wobble(q, d), draw=d) for d in range(5) for m, q in (("rf", 190), ("svm", 100))]
    table = first_table(records)
    assert shown_rows(table, "group") == [(1,), (1,)]
    assert "needs" not in render([table], "csv")
    assert "need >= 6 draws" in dict(table.card)["score"]


def test_claims_of_papers_never_mix_with_measurements() -> None:
    tables = fixed_tables()
    (claims,) = [table for table in tables if "reported in papers" in table.title]
    assert "not comparable" in claims.title
    assert [row[0] for row in shown_rows(claims, "method")] == ["MFT", "DiffCLIP"]
    assert "98.32" not in render(tables, "csv")
    simulated = [t.title for t in build_leaderboard([make_record(scene="sim-trento-r1", simulated=True)], (), CLAIMS)]
    assert len(simulated) == 1


def test_the_shipped_claims_are_valid_and_about_shipped_scenes() -> None:
    claims = load_reported()
    assert len(claims) >= 30
    scenes = set(shipped_names())
    if scenes:
        assert {claim.scene for claim in claims} <= scenes
    assert all(claim.oa is not None or claim.claim for claim in claims)


def test_a_faulty_claim_is_named(tmp_path: Path) -> None:
    path = tmp_path / "reported.yaml"
    path.write_text("- {scene: trento, method: X, inputs: hsi, oa: 980, source: a, difference: b}")
    with pytest.raises(ConfigError, match=r"0.oa: Input should be less than or equal to 100"):
        load_reported(path)
    with pytest.raises(ConfigError, match=r"cannot be read"):
        load_reported(tmp_path / "absent.yaml")
    assert REPORTED.is_file()


NASTY = Table(
    title="50 % of a_b & <c> | #1 ~ ^ \\ {x} $y$",
    columns=(Column("a", "A|B"), Column("n", "N", "number")),
    sections=(Section("s_1 <i>", ({"a": "x|y_*z*", "n": -0.001}, {"a": "<script>", "n": None})),),
    card=(("k_1", "<v>"),),
    notes=("100 % & more_",),
)


def test_latex_escapes_everything_that_latex_would_act_on() -> None:
    text = render([NASTY], "tex")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    without_escapes = re.sub(r"\\[&%$#_{}]|\\\\|\\[a-z]+|\$(\\[a-z]+|-)\$", "", body)
    cells = [line for line in without_escapes.splitlines() if "x" in line or "script" in line]
    assert cells
    assert not any(re.search(r"[%#_$^~]", line) for line in without_escapes.splitlines())
    assert body.count("{") - body.count(r"\{") == body.count("}") - body.count(r"\}")
    assert r"\toprule" in body
    assert r"\bottomrule" in body


def test_html_is_well_formed_and_escaped() -> None:
    class Checker(html.parser.HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.scripts = 0

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.scripts += tag == "script"
            if tag != "meta":
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    checker = Checker()
    checker.feed(render([NASTY, *fixed_tables()], "html"))
    assert checker.open == []
    assert checker.scripts == 0


def test_markdown_rows_all_have_the_same_number_of_cells() -> None:
    for table in [NASTY, *fixed_tables()]:
        lines = [line for line in render([table], "md").splitlines() if line.startswith("|")]
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(table.shown) + 1}


def test_no_column_vanishes_on_a_narrow_terminal() -> None:
    text = render(fixed_tables(), "terminal", width=50)
    for label in ("rf-spatial", "cnn [paper-val]", "Params", "Seconds", "33.0"):
        assert label in text


def test_cell_texts() -> None:
    number = Column("x", kind="number")
    assert [cell_text(v, number) for v in (None, 3, 3.14159, -0.001, -2.5)] == ["–", "3", "3.14", "0.00", "−2.50"]
    size = Column("x", kind="size")
    assert [cell_text(v, size) for v in (12, 1_234, 295_904_454, 3e9)] == ["12", "1.2k", "295.9M", "3.0G"]
    assert cell_text(Estimate(80.5, None, None, None), number) == "80.50"


def test_unknown_format() -> None:
    with pytest.raises(ConfigError, match=r"unknown format 'latex'.*tex"):
        render([], "latex")
    assert all(isinstance(render([], fmt), str) for fmt in FORMATS)


def csv_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_files_of_a_results_folder(tmp_path: Path) -> None:
    records, failures = fixed_set()
    for record in records:
        save_record(tmp_path, record)
    save_failure(tmp_path, failures[0].protocol, ValueError("no convergence"))
    files = write_leaderboard(tmp_path)
    names = sorted(path.name for path in files)
    stem = "curves-trento-r1_abababab-random-v1-11-scene-paper-v0_1_0"
    assert names == sorted(
        [
            *(f"leaderboard.{fmt}" for fmt in ("md", "csv", "tex", "html")),
            "draws.csv",
            "classes.csv",
            *(f"{stem}.{fmt}" for fmt in ("csv", "png", "pdf")),
        ]
    )
    assert all(path.stat().st_size > 100 for path in files)
    folder = tmp_path / "leaderboard"
    assert sorted(p.name for p in folder.iterdir()) == names, "no temporary file stays behind"
    draws = csv_rows(folder / "draws.csv")
    assert {row["key"] for row in draws} == {record.key for record in records}
    by_key = {record.key: record for record in records}
    assert all(float(row["oa"]) == pytest.approx(100 * by_key[row["key"]].scores.oa) for row in draws)
    classes = csv_rows(folder / "classes.csv")
    assert {row["class_name"] for row in classes} == set(records[0].class_names)
    curve = csv_rows(folder / f"{stem}.csv")
    assert {(row["label"], row["shots"]) for row in curve} == {
        (label, shots) for label in ("rf-spatial", "svm", "cnn [last]", "majority") for shots in ("2", "5")
    }
    before = {path: path.read_bytes() for path in files}
    write_leaderboard(tmp_path)
    assert {path: path.read_bytes() for path in files} == before


def test_a_corrupt_record_stops_the_leaderboard(tmp_path: Path) -> None:
    save_record(tmp_path, make_record()).write_text("{")
    with pytest.raises(RecordError, match="its cell is run again"):
        write_leaderboard(tmp_path)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    assert build_leaderboard([]) == []
    with pytest.raises(RecordError, match="holds no records; run some cells first"):
        write_leaderboard(tmp_path)


def test_comparison_of_two_methods_by_hand() -> None:
    records = [make_record("rf", (150, 150, 150 + d), draw=d) for d in range(7)]
    records += [make_record("svm", (150, 150, 144), draw=d) for d in range(1, 9)]
    (table,) = compare(records, "rf", "svm")
    row = shown_rows(table, "metric", "draws", "won", "lost", "tied", "p")[0]
    # Draws 1..6 are common; rf has 7..12 hits more: six wins, p = 2 / 2**6.
    assert row == ("OA", 6, 6, 0, 0, "0.031")
    ((difference,), *_) = shown_rows(table, "difference")
    assert isinstance(difference, Estimate)
    assert difference.mean == pytest.approx(100 * 9.5 / 600)
    assert "A = rf, B = svm" in table.title


def test_comparison_below_six_draws_has_no_p() -> None:
    records = [make_record(m, draw=d) for m in ("rf", "svm") for d in range(3)]
    (table,) = compare(records, "rf", "svm")
    assert {p for (p,) in shown_rows(table, "p")} == {"needs >= 6 draws"}


def test_comparison_needs_known_methods_and_common_draws() -> None:
    records = [make_record("rf"), make_record("svm", draw=1), make_record("svm", draw=1, selection="support-cv")]
    with pytest.raises(ConfigError, match="unknown method with records 'svn': did you mean svm"):
        compare(records, "rf", "svn")
    with pytest.raises(ConfigError, match="the name fits several entries"):
        compare(records, "rf", "svm")
    with pytest.raises(ConfigError, match="no draw in common"):
        compare(records, "rf", "svm [last]")


def test_groups_sort_shots_as_numbers() -> None:
    groups = group_records([make_record(shots=shots) for shots in (10, 2, 5)])
    assert [group.shots for group in groups] == [2, 5, 10]
    assert len({group.family for group in groups}) == 1
