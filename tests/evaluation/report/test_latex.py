"""Tables for papers: what is bold and underlined, columns, and a compiled two-column paper."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.pages import HOSTILE
from helpers.synthetic_records import fixed_set, make_record, varied_hits

from mmrs_bench.cli import main
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.report.entries import group_records
from mmrs_bench.evaluation.report.leaderboard import ranking
from mmrs_bench.evaluation.report.paper.citation import bibtex, methods_paragraph
from mmrs_bench.evaluation.report.paper.figures import write_figures
from mmrs_bench.evaluation.report.paper.latex import MOST_COLUMNS, paper_tables
from mmrs_bench.evaluation.results.records import save_record
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.methods.catalogue import method_cards

PAPER = r"""\documentclass[journal]{IEEEtran}
\usepackage[utf8]{inputenc}
\usepackage{booktabs}
\usepackage{graphicx}
\graphicspath{{leaderboard/}}
\begin{document}
\input{methods}
\input{leaderboard/paper-figures}
\input{leaderboard/paper}
\bibliographystyle{IEEEtran}
\bibliography{references}
\end{document}
"""


def tables_of(records: Sequence[Record], *metrics: str) -> str:
    groups = group_records(records)
    return paper_tables(groups, [ranking(group) for group in groups], metrics or ("oa",))


def many_records(scenes: int, shots: Sequence[int], methods: Sequence[str]) -> list[Record]:
    return [
        make_record(method, varied_hits(60 + 9 * place, 0), scene=f"scene-{n}-r1", shots=count, title=f"Scene {n}")
        for n in range(scenes)
        for count in shots
        for place, method in enumerate(methods)
    ]


def test_the_best_mean_is_bold_and_what_does_not_differ_from_it_is_underlined() -> None:
    text = tables_of(fixed_set()[0])
    (line,) = [line for line in text.splitlines() if line.startswith("rf-spatial &")]
    assert line == r"rf-spatial & \textbf{79.4\,$\pm$\,5.2} & \textbf{86.9\,$\pm$\,5.2} \\"
    (line,) = [line for line in text.splitlines() if line.startswith("svm &")]
    assert line == r"svm & \underline{79.4\,$\pm$\,6.4} & \underline{86.9\,$\pm$\,6.4} \\"
    (line,) = [line for line in text.splitlines() if line.startswith("majority &")]
    assert "textbf" not in line
    assert "underline" not in line
    assert "paper-val" not in text.partition("Protocol: ")[0], "unranked results are left out"


def test_every_table_has_a_label_and_every_protocol_a_card() -> None:
    text = tables_of(fixed_set()[0])
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert labels == ["tab:mmrs-bench-1", "tab:mmrs-bench-2", "tab:mmrs-bench-card-1", "tab:mmrs-bench-card-2"]
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 4
    assert text.count("zscore fitted on scene") == 2, "a line that is equal for all shots stands there once"


@pytest.mark.parametrize(("scenes", "shots", "metrics"), [(5, (2, 5, 10, 20), 1), (2, (2, 5), 3), (1, range(1, 12), 1)])
def test_columns_that_do_not_fit_stand_in_a_further_table(scenes: int, shots: Sequence[int], metrics: int) -> None:
    names = ("oa", "aa", "kappa")[:metrics]
    text = tables_of(many_records(scenes, shots, ("rf", "svm")), *names)
    widths = [len(found) for found in re.findall(r"\\begin\{tabular\}\{@\{\}l(r+)@", text)]
    assert sum(widths) == scenes * len(shots) * metrics
    assert max(widths) <= MOST_COLUMNS
    for line in text.splitlines():
        assert not line.startswith(("rf &", "svm &")) or line.count("&") in widths


def test_only_tested_values_are_called_not_significant() -> None:
    def compared(shots: int, count: int) -> list[Record]:
        return [
            make_record(method, varied_hits(quality, draw), shots=shots, draw=draw)
            for method, quality in (("rf", 150), ("svm", 100))
            for draw in range(count)
        ]

    text = tables_of([*compared(2, 8), *compared(5, 3)])
    assert r"Method & 2 & 5* \\" in text
    assert (
        "underlined: not significantly different from it (exact paired Wilcoxon test, Holm, 0.05); *: no test" in text
    )
    text = tables_of(compared(2, 8), "oa", "aa")
    assert "underlined OA: not significantly" in text
    assert "no test" not in text
    assert "underlined" not in tables_of(compared(2, 8), "aa")
    assert "underlined" not in tables_of(compared(2, 3))
    assert "no test" not in tables_of([*compared(2, 8), make_record("rf", shots=5)])


def test_a_method_without_a_test_has_a_star_and_leads_no_group() -> None:
    records = [
        make_record(method, varied_hits(quality, draw), draw=draw)
        for method, quality, draws in (("rf", 150, 8), ("svm", 150, 8), ("cnn", 90, 1))
        for draw in range(draws)
    ]
    text = tables_of(records)
    assert re.search(r"^cnn & [0-9.]+\* ", text, re.MULTILINE)
    assert "*: no test" in text
    lucky = make_record("clip", (199, 199, 199), draw=0)
    assert "underline" not in tables_of([*records, lucky]), "the best mean was compared with none"


def test_settings_that_differ_between_scenes_are_in_the_caption() -> None:
    records = [make_record("rf"), make_record("svm")]
    other = [make_record("rf", scene="city-r1", method_config={"trees": 5}), make_record("svm", scene="city-r1")]
    assert "Settings differ between scenes: rf." in tables_of([*records, *other])
    assert "Settings differ" not in tables_of(records)


def test_protocols_that_differ_in_any_field_have_other_captions_and_scenes_other_headings() -> None:
    changes: list[dict[str, str]] = [
        {},
        {"unlabelled": "support"},
        {"code_version": "0.2.0"},
        {"budget": "quick"},
    ]
    text = tables_of([make_record(method, **change) for change in changes for method in ("rf", "svm")])
    captions = re.findall(r"in percent, .*", text)
    assert len(set(captions)) == len(captions) == len(changes)
    assert "random-v1, budget paper, window 11, unlabelled pixels scene, v0.1.0" in captions[0]
    text = tables_of([make_record(fingerprint=c * 64) for c in "ab"])
    assert r"\multicolumn{1}{c}{town-r1@aaaaaaaa} & \multicolumn{1}{c}{town-r1@bbbbbbbb}" in text


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown metric 'kapa'.*kappa"):
        tables_of([make_record()], "kapa")


def test_leaderboard_writes_the_chosen_columns(tmp_path: Path) -> None:
    save_record(tmp_path, make_record())
    assert main(["leaderboard", "--results", str(tmp_path), "--columns", "aa", "kappa"]) == 0
    text = (tmp_path / "leaderboard" / "paper.tex").read_text(encoding="utf-8")
    assert r"Method & AA & $\kappa$ \\" in text


def compiler() -> str | None:
    """``pdflatex`` if it has IEEEtran and booktabs."""
    found = shutil.which("pdflatex") and shutil.which("bibtex")
    names = ("IEEEtran.cls", "IEEEtran.bst", "booktabs.sty", "graphicx.sty", "ptmr7t.tfm")
    has = found and all(subprocess.run(["kpsewhich", name], capture_output=True).returncode == 0 for name in names)
    return found if has else None


@pytest.mark.skipif(compiler() is None, reason="needs pdflatex and bibtex with IEEEtran, booktabs and the Times fonts")
@pytest.mark.parametrize("metrics", [("oa",), ("oa", "aa", "kappa")])
def test_tables_figures_and_references_fit_into_a_two_column_paper(metrics: tuple[str, ...], tmp_path: Path) -> None:
    methods = [*("a-long-name-1", "a-long-name-2"), *("rf", "svm-emp", "diffclip", "bdgf")]
    records = [*fixed_set()[0], *many_records(3, (2, 5, 10, 20), methods)]
    records += [
        make_record(text, title=text, scene="hostile-r1", unranked="", shots=shots)
        for text in HOSTILE.values()
        for shots in (2, 5)
    ]
    groups, folder = group_records(records), tmp_path / "leaderboard"
    folder.mkdir()
    (folder / "paper.tex").write_text(tables_of(records, *metrics), encoding="utf-8")
    assert len(write_figures(groups, folder)) > 4
    (tmp_path / "references.bib").write_text(bibtex(groups, method_cards()), encoding="utf-8")
    (tmp_path / "methods.tex").write_text(methods_paragraph(groups, method_cards()), encoding="utf-8")
    (tmp_path / "main.tex").write_text(PAPER, encoding="utf-8")
    latex = ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "main"]
    for command in (latex, ["bibtex", "main"], latex, latex):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
        assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "main.log").read_text(encoding="latin-1")
    assert "Overfull \\hbox" not in log
    assert "Float too large" not in log
    assert "undefined references" not in log
    assert "passwd" not in log
