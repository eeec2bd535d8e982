"""Tables in Markdown pages: generated from records, and never out of date or silently incomplete."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.synthetic_records import make_record, varied_hits

from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.doc_tables import update_page
from mmrs_bench.evaluation.results.records import load_records, save_record
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.paths import BENCHMARK_DIR, REPOSITORY

PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
BLOCK = "# Title\n\n<!-- results\n{spec}\n-->\n{table}<!-- end of results -->\n\nMore.\n"
SPEC = "scenes: [town]\nshots: [2]\nbudget: paper\nmethods: [rf, svm]"


def records(draws: int = 8, **changes: Any) -> list[Record]:
    methods = (("rf", 170), ("svm", 150))
    return [make_record(m, varied_hits(q, draw), draw=draw, **changes) for m, q in methods for draw in range(draws)]


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Path]:
    def make(spec: str = SPEC, table: str = "") -> Path:
        path = tmp_path / "page.md"
        path.write_text(BLOCK.format(spec=spec, table=table))
        return path

    return make


def between(path: Path) -> list[str]:
    """The lines of the generated table."""
    return path.read_text().partition("-->\n")[2].partition("<!-- end")[0].splitlines()


def test_a_table_has_the_means_of_the_records_and_says_what_they_are(page: Callable[..., Path]) -> None:
    path = page()
    assert update_page(path, records())
    assert between(path) == [
        "| method | 2 shots |",
        "| --- | ---: |",
        "| rf | 79.38 ± 5.18 |",
        "| svm | 69.38 ± 5.18 |",
        "",
        "OA in percent, mean ± sd over 8 draws; random-v1, budget paper, window 11; code 0123456.",
    ]
    assert path.read_text().startswith("# Title\n")
    assert path.read_text().endswith("<!-- end of results -->\n\nMore.\n")


def test_differences_are_paired_over_common_draws(page: Callable[..., Path]) -> None:
    path = page(SPEC + "\nagainst: rf")
    update_page(path, records())
    assert between(path)[3] == "| svm | 69.38 ± 5.18 | −10.00 ± 0.00 (0 of 8, p 0.008) |"
    assert "p: exact paired Wilcoxon test" in between(path)[-1]
    update_page(path, records(draws=3))
    assert "a test needs >= 6 draws" in between(path)[-1]


@pytest.mark.parametrize("change", [{"pca": 3}, {"query_limit": 50}, {"fingerprint": "cd" * 32}])
def test_values_of_several_protocols_are_not_in_one_column(page: Callable[..., Path], change: dict[str, Any]) -> None:
    mixed = [r for r in records() if r.protocol.method == "rf"]
    mixed += [r for r in records(**change) if r.protocol.method == "svm"]
    with pytest.raises(ConfigError, match=r"page.md, line 3: the values of one column are of several protocols: OA\|"):
        update_page(page(), mixed)


def test_what_one_row_states_may_not_differ_between_others(page: Callable[..., Path]) -> None:
    rows = ("- {method: rf, signature: {pca: '3'}}", "- svm", "- knn")
    path = page("\n".join((SPEC.partition("methods")[0] + "methods:", *rows)))
    mixed = [r for r in records(pca=3) if r.protocol.method == "rf"]
    mixed += [r for r in records() if r.protocol.method == "svm"]
    with pytest.raises(ConfigError, match="of several protocols"):
        update_page(path, [*mixed, *(make_record("knn", draw=draw, pca=5) for draw in range(8))])
    assert update_page(path, [*mixed, *(make_record("knn", draw=draw) for draw in range(8))])


def test_what_rows_state_may_differ(page: Callable[..., Path]) -> None:
    rows = (
        "- {method: rf, signature: {pca: ''}}",
        "- {method: rf, label: reduced, signature: {pca: '3'}}",
        "- {method: rf, modalities: [hsi]}",
    )
    path = page("\n".join((SPEC.partition("methods")[0] + "methods:", *rows)))
    update_page(path, [*records(), *records(pca=3), *records(modalities=("hsi",))])
    assert len(between(path)) == 7


def test_a_table_of_fewer_draws_than_there_are_uses_the_first_ones(page: Callable[..., Path]) -> None:
    fewer, more = page(SPEC + "\ndraws: 3"), records(8)
    update_page(fewer, more)
    found = between(fewer)
    update_page(fewer, records(3))
    assert between(fewer) == found
    assert "over 3 draws" in found[-1]


def test_rows_have_labels_modalities_and_the_newest_version(page: Callable[..., Path]) -> None:
    path = page(
        SPEC.partition("methods")[0] + "methods:\n- {method: rf, label: forest}\n- {method: rf, modalities: [hsi]}"
    )
    newer = [make_record("rf", (190, 190, 190), draw=draw, method_version=2) for draw in range(2)]
    fewer = [make_record("rf", (100, 100, 100), draw=draw, modalities=("hsi",)) for draw in range(2)]
    update_page(path, records() + newer + fewer)
    assert between(path)[2:4] == ["| forest | 95.00 ± 0.00 |", "| rf, hsi only | 50.00 ± 0.00 |"]


def test_rows_selected_on_query_labels_are_shown_only_if_they_are_named(page: Callable[..., Path]) -> None:
    tuned = [make_record("rf", (190, 190, 190), draw=draw, selection="paper-val") for draw in range(8)]
    path = page(SPEC + "\nagainst: rf")
    update_page(path, records())
    assert not update_page(path, records() + tuned)
    update_page(named := page(SPEC.replace("svm", "{method: rf, selection: paper-val}")), records() + tuned)
    assert [line.split("|")[2] for line in between(named)[2:4]] == [" 79.38 ± 5.18 ", " 95.00 ± 0.00 "]


def test_several_scenes_and_shot_counts_are_columns_and_simulated_ones_are_named(page: Callable[..., Path]) -> None:
    path = page("scenes: [town, sim]\nshots: [1, 5]\nbudget: paper\nmethods: [rf]")
    found = [
        r for shots in (1, 5) for r in records(2, shots=shots) + records(2, shots=shots, scene="sim-r1", simulated=True)
    ]
    update_page(path, found)
    assert between(path)[0] == "| method | town, 1 shot | town, 5 shots | sim, 1 shot | sim, 5 shots |"
    assert between(path)[-1].startswith("SIMULATED: sim. OA in percent")


def test_a_ranking_is_that_of_the_leaderboard(page: Callable[..., Path]) -> None:
    path = page("kind: ranking\nscenes: [town]\nshots: [2]\nbudget: paper")
    update_page(path, records(10))
    assert between(path)[0] == "| Group | Method | OA % | AA % | κ % | Draws | Labels | Seconds |"
    assert [line.split("|")[2].strip() for line in between(path)[2:4]] == ["rf", "svm"]


def test_a_ranking_does_not_depend_on_the_selection_rules_of_other_scenes(page: Callable[..., Path]) -> None:
    path = page("kind: ranking\nscenes: [town]\nshots: [2]\nbudget: paper\nmethods: [rf, svm]")
    update_page(path, records(10))
    tuned = [make_record("rf", draw=draw, selection="paper-val", scene="city-r1") for draw in range(10)]
    assert not update_page(path, records(10) + tuned)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            SPEC.replace("svm", "cnn"),
            r"page.md, line 3: there are no records of cnn on town, random-v1, 2 shots, budget",
        ),
        (SPEC.replace("[2]", "[5]"), "there are no records of rf on town, random-v1, 5 shots"),
        (SPEC + "\ndraws: 10", "rf on town, 2 shots has 8 draws, expected 10; run them"),
        (SPEC + "\nmetric: f2", "metric 'f2' is unknown; known: oa"),
        (SPEC + "\nfoo: 1", "foo is not a known field"),
        ("scenes: [town]\nshots: [2]", "an accuracy table needs methods"),
        ("kind: ranking\nscenes: [a, b]\nshots: [2]", "a ranking shows one scene and one shot count"),
        ("scenes: [", "is not valid YAML"),
    ],
)
def test_a_wrong_block_and_a_value_without_records_are_errors_that_name_the_line(
    spec: str, message: str, page: Callable[..., Path]
) -> None:
    path = page(spec)
    before = path.read_text()
    with pytest.raises(ConfigError, match=message) as caught:
        update_page(path, records())
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert path.read_text() == before


def test_records_of_several_protocols_are_never_pooled(page: Callable[..., Path]) -> None:
    limited = records(query_limit=50)
    path = page()
    with pytest.raises(ConfigError, match=r"several protocols with rf on town.*query:50.*choose one by signature"):
        update_page(path, records() + limited)
    assert update_page(page(SPEC + '\nsignature: {query: "50"}'), records() + limited)


@pytest.mark.parametrize(
    "text",
    [
        "<!-- results\nscenes: [a]\n-->\n",
        "<!-- end of results -->",
        "<!-- results -->",
        "<!-- results\n-->\n<!-- results\n-->\n<!-- end of results -->",
        "<!-- study pairs -->\n",
        "<!-- study ../pairs -->\n<!-- end of results -->",
    ],
)
def test_an_incomplete_block_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"a block begins with a line <!-- results or .* and ends with a line"):
        update_page(path, [])


def test_a_study_block_shows_what_its_script_has_written(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("# Title\n\n<!-- study pairs -->\nold\n<!-- end of results -->\n\nMore.\n")
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/pairs.md").write_text("| a |\n|---|\n| 1 ± 2 |\n\nSIMULATED. `a command`.\n")
    assert update_page(path, [], studies=tmp_path / "studies")
    written = (tmp_path / "studies/pairs.md").read_text()
    assert path.read_text() == f"# Title\n\n<!-- study pairs -->\n{written}<!-- end of results -->\n\nMore.\n"
    assert not update_page(path, [], studies=tmp_path / "studies")


def test_a_study_without_a_table_is_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("\n<!-- study pairs -->\nold\n<!-- end of results -->\n")
    with pytest.raises(ConfigError, match=r"page.md, line 2: .*pairs.md cannot be read .*; run the script in"):
        update_page(path, [], studies=tmp_path)
    assert "old" in path.read_text()


def test_the_command_writes_pages_or_says_which_are_out_of_date(
    page: Callable[..., Path], tmp_path: Path, printed: Callable[..., str]
) -> None:
    for record in records():
        save_record(tmp_path / "results", record)
    path = page()
    arguments = ("tables", path, "--results", tmp_path / "results")
    assert f"{path}: is out of date" in printed(*arguments, "--check", status=1)
    assert between(path) == []
    assert f"{path}: written" in printed(*arguments)
    assert printed(*arguments, "--check") == "all pages are up to date\n"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_tables_of_the_documentation_are_those_of_the_committed_records(path: Path) -> None:
    if re.search(r"^<!-- (results|study .*)$", path.read_text(), re.MULTILINE):
        assert not update_page(path, load_records(BENCHMARK_DIR / "results"), write=False), "run make tables"


def test_no_page_has_typed_accuracies() -> None:
    def typed(text: str) -> bool:
        rest = re.sub(r"<!-- (results\n|study ).*?<!-- end of results -->", "", text, flags=re.DOTALL)
        return re.search(r"^[| ].*\b\d+\.\d+ (±|\+-) \d", rest, re.MULTILINE) is not None

    assert [path.name for path in PAGES if typed(path.read_text())] == []
