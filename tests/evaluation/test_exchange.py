"""Export and import of results: checksums, origins, and what is refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from helpers.synthetic_records import make_record

from mmrs_bench.api.results import load_results
from mmrs_bench.errors import BenchError, ConfigError, RecordError
from mmrs_bench.evaluation.collect import collect
from mmrs_bench.evaluation.exchange import Imported, export_results, import_results
from mmrs_bench.evaluation.report.entries import group_records
from mmrs_bench.evaluation.report.leaderboard import ranking
from mmrs_bench.evaluation.report.page.details import entry_details
from mmrs_bench.evaluation.report.page.document import build_document
from mmrs_bench.evaluation.report.paper.citation import methods_paragraph
from mmrs_bench.evaluation.results.imported import Origin, folder_name, load_imported
from mmrs_bench.evaluation.results.locks import folder_lock
from mmrs_bench.evaluation.results.records import load_records, save_record
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.io import content_hash, file_sha256

LAB = "Example Lab"


def saved(folder: Path, *records: Record) -> Path:
    for record in records:
        save_record(folder, record)
    return folder


def draws(method: str = "rf", *, hits: tuple[int, int, int] = (180, 160, 150), count: int = 2) -> list[Record]:
    return [make_record(method, hits, draw=draw) for draw in range(count)]


def exported(folder: Path, *records: Record, name: str = LAB) -> Path:
    """The folder of an export of some records."""
    out = folder / "export"
    export_results(saved(folder / "theirs", *(records or draws())), out, name=name)
    return out


def imported(source: Path, results: Path, **options: Any) -> Imported:
    return import_results(source, results, **options)


@pytest.mark.parametrize("out", ["export", "export.zip"])
def test_imported_records_are_those_that_were_exported(tmp_path: Path, out: str) -> None:
    records = [*draws(), *draws("svm"), make_record("rf", budget="quick")]
    theirs = saved(tmp_path / "theirs", *records)
    export_results(theirs, tmp_path / out, name=LAB, contact="lab@example.org")
    found = imported(tmp_path / out, tmp_path / "mine")
    assert found.origin.contact == "lab@example.org"
    assert (found.new, found.same, found.different) == (True, 0, [])
    again = {record.key: record for record in load_imported(tmp_path / "mine")}
    assert {key: record.model_dump() for key, record in again.items()} == {r.key: r.model_dump() for r in records}
    assert {record.origin for record in again.values()} == {LAB}
    assert load_records(tmp_path / "mine") == []  # they are nobody's own
    assert sorted(path.name for path in found.folder.iterdir()) == [
        "origin.json",
        "town-r1-paper.cells.json",
        "town-r1-quick.cells.json",
    ]


def test_rows_of_two_origins_stand_beside_own_ones_and_are_never_merged(tmp_path: Path) -> None:
    mine = saved(tmp_path / "mine", *draws(count=3))
    for name, hits in ((LAB, (180, 160, 150)), ("Other Lab", (100, 100, 100))):
        imported(exported(tmp_path / name, *draws(hits=hits), *draws("svm", hits=hits), name=name), mine)
    results = load_results(mine)
    assert len(results) == 3 + 4 + 4
    (shown,) = results.leaderboard().tables[:1]
    rows = {str(row["label"]): row for row in shown.rows}
    assert {(label, row["origin"], row["draws"]) for label, row in rows.items()} == {
        ("rf", "", 3),
        (f"rf [{LAB}]", LAB, 2),
        (f"svm [{LAB}]", LAB, 2),
        ("rf [Other Lab]", "Other Lab", 2),
        ("svm [Other Lab]", "Other Lab", 2),
    }
    assert rows["rf [Other Lab]"]["oa"].mean == pytest.approx(50)  # type: ignore[union-attr]
    assert "Origin" in [column.title for column in shown.shown]
    assert any("Imported: " in note and "rf [Other Lab]" in note for note in shown.notes)
    frame = results.frame()
    assert frame.groupby("origin").size().to_dict() == {"": 3, LAB: 4, "Other Lab": 4}
    assert "Origin" not in [c.title for c in load_results(tmp_path / LAB / "theirs").leaderboard().tables[0].shown]
    (table, *_) = results.compare("rf", "rf [Other Lab]").tables
    assert table.rows[0]["draws"] == 2


def test_the_methods_paragraph_of_a_paper_says_what_was_imported(tmp_path: Path) -> None:
    mine = saved(tmp_path / "mine", *draws("cnn"))
    imported(exported(tmp_path, *draws(), name="Lab & Co"), mine)
    text = methods_paragraph(group_records(load_results(mine).records), {})
    assert r". Those of rf by Lab \& Co were imported. cnn and rf were trained" in text
    assert "imported" not in methods_paragraph(group_records(load_records(mine)), {})


def test_the_page_tells_records_of_one_cell_apart(tmp_path: Path) -> None:
    mine = saved(tmp_path / "mine", *draws())
    imported(exported(tmp_path, *draws(hits=(10, 10, 10))), mine)
    groups = group_records(load_results(mine).records)
    document = build_document(groups, [ranking(group) for group in groups])
    field = document["fields"].index("records")
    keys = [record[2] for row in document["rows"] for record in row[field]]
    assert len(set(keys)) == len(keys) == 4
    details = {entry.label: entry_details(entry) for group in groups for entry in group.entries}
    other = details[f"rf [{LAB}]"]
    assert (details["rf"]["origin"], other["origin"]) == ("", LAB)
    assert {record["key"] for record in other["records"]} <= set(keys)
    assert other["records"][0]["file"] == "imported/example-lab/town-r1-paper.cells.json"
    assert (mine / other["records"][0]["file"]).is_file()


def test_splits_of_other_pixels_are_not_compared_with_own_ones(tmp_path: Path) -> None:
    mine = saved(tmp_path / "mine", *draws())
    others = [record.model_copy(update={"split_sha256": "9" * 64}) for record in draws()]
    imported(exported(tmp_path, *others), mine)
    tables = [table for table in load_results(mine).leaderboard().tables if table.in_csv]
    assert len(tables) == 2
    assert all("splits" in table.title for table in tables)


def test_simultaneous_imports_and_collections_wait_for_each_other(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", saved(tmp_path / "other", *draws("svm"))
    export = exported(tmp_path)
    with ThreadPoolExecutor() as pool:
        with folder_lock(mine / "imported"), folder_lock(tmp_path / "out"):
            jobs = [pool.submit(imported, export, mine), pool.submit(collect, [other], tmp_path / "out")]
            assert not wait(jobs, timeout=0.3).done
        assert wait(jobs, timeout=60).not_done == set()
    assert (len(load_imported(mine)), len(load_records(tmp_path / "out"))) == (2, 2)


def test_files_of_a_file_manager_are_ignored(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (imported(exported(tmp_path), mine).folder / ".DS_Store").write_bytes(b"\0")
    assert len(load_imported(mine)) == 2


def test_an_import_says_which_own_cells_differ(tmp_path: Path) -> None:
    mine = saved(tmp_path / "mine", *draws(count=3))
    one, two = draws()
    other = make_record("rf", (10, 20, 30), draw=1)
    found = imported(exported(tmp_path, one, other), mine)
    assert (found.same, [record.key for record in found.different]) == (1, [two.key])
    assert len(load_records(mine)) == 3


def test_the_same_import_twice_changes_nothing(tmp_path: Path) -> None:
    export, mine = exported(tmp_path), tmp_path / "mine"
    imported(export, mine)
    before = {path: path.stat().st_mtime_ns for path in mine.rglob("[!.]*")}
    assert not imported(export, mine).new
    assert {path: path.stat().st_mtime_ns for path in mine.rglob("[!.]*")} == before


def test_other_results_of_an_origin_replace_earlier_ones_only_on_demand(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    imported(exported(tmp_path / "one"), mine)
    newer = exported(tmp_path / "two", *draws(hits=(1, 2, 3), count=5))
    with pytest.raises(ConfigError, match=r"has other results of Example Lab, exported .*--replace, or .*--origin"):
        imported(newer, mine)
    assert len(load_imported(mine)) == 2
    assert imported(newer, mine, replace=True).new
    assert len(load_imported(mine)) == 5
    assert [path.name for path in (mine / "imported").glob("[!.]*")] == ["example-lab"]
    assert imported(newer, mine, name="Example Lab 2").folder.name == "example-lab-2"
    for replace in (False, True):
        with pytest.raises(ConfigError, match=r"has the results of Example Lab; import these with another --origin"):
            imported(newer, mine, name="example lab", replace=replace)
    assert {record.origin for record in load_imported(mine)} == {LAB, "Example Lab 2"}


def test_imported_results_are_not_exported_or_collected_as_own_ones(tmp_path: Path) -> None:
    mine = saved(tmp_path / "mine", *draws("cnn"))
    imported(exported(tmp_path), mine)
    found = export_results(mine, tmp_path / "mine.zip", name="Me")
    assert {record.protocol.method for record in found.records} == {"cnn"}
    (written,) = collect([mine], tmp_path / "collected")
    assert written.cells == 2
    with pytest.raises(RecordError, match=r"contains no records of its own"):
        export_results(tmp_path / "empty", tmp_path / "x.zip", name="Me")


def test_an_export_states_what_readers_ask(tmp_path: Path) -> None:
    records = [make_record(dirty=True), make_record(draw=1, unranked="reason"), make_record(draw=2)]
    found = export_results(saved(tmp_path / "r", *records), tmp_path / "out", name="Me")
    assert found.remarks == [
        f"names of machines in the records: {records[0].measured.host}",
        "1 records are of code with uncommitted changes, or of an unknown commit",
        "1 records are unranked",
    ]


def edit_confusion(folder: Path) -> None:
    """Better results, with the checksum of the file renewed, as a forger without the cell's checksum would."""
    path = folder / "town-r1-paper.cells.json"
    content = json.loads(path.read_text())
    content["cells"][0]["confusion"][0] = [200, 0, 0]
    path.write_text(json.dumps(content))
    seal(folder)


def seal(folder: Path, **changes: Any) -> None:
    """Renew the checksums in ``origin.json``."""
    description = folder / "origin.json"
    fields = {**json.loads(description.read_text()), **changes}
    fields["files"] = {name: file_sha256(folder / name) for name in fields["files"] if (folder / name).is_file()}
    del fields["sha256"]
    description.write_text(json.dumps({**fields, "sha256": content_hash(fields)}))


def rename(folder: Path) -> None:
    (folder / "town-r1-paper.cells.json").rename(folder / "other-r1-paper.cells.json")
    fields = json.loads((folder / "origin.json").read_text())
    (folder / "origin.json").write_text(json.dumps({**fields, "files": {"other-r1-paper.cells.json": ""}}))
    seal(folder)


def edit_name(folder: Path) -> None:
    path = folder / "origin.json"
    path.write_text(path.read_text().replace(LAB, "Famous Lab"))


def append(folder: Path) -> None:
    with (folder / "town-r1-paper.cells.json").open("a") as file:
        file.write(" ")


DAMAGE = [
    (append, r"town-r1-paper\.cells\.json: differs from what was exported"),
    (edit_confusion, r"cell 1 \(rf, .* was edited after it was written"),
    (edit_name, r"origin\.json: was edited after it was written"),
    (rename, r"contains records that belong in town-r1-paper\.cells\.json"),
    (lambda folder: (folder / "town-r1-paper.cells.json").unlink(), r"town-r1-paper\.cells\.json: is missing"),
    (lambda folder: (folder / "more.txt").touch(), r"more\.txt: is no file of this export"),
    (lambda folder: (folder / "origin.json").unlink(), r"has no origin\.json, so it is no export"),
    (lambda folder: (folder / "origin.json").write_text("[]"), r"origin\.json"),
    (lambda folder: (folder / "origin.json").write_text('{"schema": 2}'), r"origin\.json"),
    (lambda folder: seal(folder, name="=cmd|' /C calc'!A0"), r"name is .*use 1 to 40 letters"),
    (lambda folder: seal(folder, name="a\x1b[31m"), r"name is .*use 1 to 40 letters"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_an_edited_export_is_refused_and_nothing_is_imported(
    tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    export, mine = exported(tmp_path), tmp_path / "mine"
    damage(export)
    with pytest.raises(RecordError, match=message) as found:
        imported(export, mine)
    assert len(str(found.value).splitlines()) == 1
    assert not mine.exists()


@pytest.mark.parametrize(("damage", "message"), [case for case in DAMAGE if case[0] is not edit_name])
def test_results_that_were_edited_after_the_import_are_refused(
    tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    found = imported(exported(tmp_path), tmp_path / "mine")
    damage(found.folder)
    with pytest.raises(RecordError, match=message):
        load_results(tmp_path / "mine")


def archive(path: Path, **members: str | bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_hostile_archives_are_refused(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    with pytest.raises(RecordError, match=r"contains '\.\./origin\.json', so mmrs-bench export did not write it"):
        imported(archive(tmp_path / "path.zip", **{"../origin.json": "{}"}), mine)
    with pytest.raises(RecordError, match=r"contains 'a/b\.cells\.json'"):
        imported(archive(tmp_path / "folder.zip", **{"a/b.cells.json": "{}"}), mine)
    with pytest.raises(RecordError, match=r"contains 'run\.py'"):
        imported(archive(tmp_path / "code.zip", **{"origin.json": "{}", "run.py": ""}), mine)
    bomb = archive(tmp_path / "bomb.zip", **{"a-r1-paper.cells.json": b" " * (17 << 20)})
    assert bomb.stat().st_size < 100_000
    with pytest.raises(RecordError, match=r"a-r1-paper\.cells\.json is larger than 16 MB"):
        imported(bomb, mine)
    with pytest.raises(RecordError, match=rf"^{tmp_path}/empty\.zip: has no origin\.json"):
        imported(archive(tmp_path / "empty.zip"), mine)
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(RecordError, match=r"is no complete \.zip archive"):
        imported(tmp_path / "text.zip", mine)
    whole = tmp_path / "whole.zip"
    export_results(saved(tmp_path / "theirs", *draws()), whole, name=LAB)
    content = whole.read_bytes()
    for end in (30, len(content) // 2, len(content) - 5):
        whole.write_bytes(content[:end])
        with pytest.raises(RecordError):
            imported(whole, mine)
    with pytest.raises(ConfigError, match=r"does not exist; give the \.zip file or folder"):
        imported(tmp_path / "nowhere.zip", mine)
    assert not mine.exists()


def test_a_link_to_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    export = exported(tmp_path)
    path = export / "town-r1-paper.cells.json"
    shutil.move(path, tmp_path / path.name)
    path.symlink_to(tmp_path / path.name)
    with pytest.raises(RecordError, match="is no file of collected records"):
        imported(export, tmp_path / "mine")


@pytest.mark.parametrize(
    "name", ["", " ", "=SUM(A1)", "<b>lab</b>", "a" * 41, "lab\n", "-lab", "lab [x]", "$x$", "a, b"]
)
def test_names_that_are_not_inert_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"--origin is .*; use 1 to 40 letters"):
        export_results(saved(tmp_path / "r", *draws()), tmp_path / "out", name=name)
    assert not (tmp_path / "out").exists()


def test_every_name_has_a_folder() -> None:
    assert folder_name("Université de Trente (RS lab)") == "universit-de-trente-rs-lab"
    assert folder_name("遥感实验室") != folder_name("実験室")
    assert folder_name("遥感实验室").startswith("origin-")


def test_a_full_folder_is_not_written_to(tmp_path: Path) -> None:
    results = saved(tmp_path / "r", *draws())
    with pytest.raises(ConfigError, match=r"contains files; give a new folder, or a \.zip file"):
        export_results(results, results, name=LAB)
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match="file"):
        export_results(results, tmp_path / "file", name=LAB)


def test_the_checksum_covers_name_contact_and_files() -> None:
    values = {"name": LAB, "contact": "", "exported_at": "2026-01-01T00:00:00+00:00", "code_version": "1"}
    one = Origin.of(**values, files={"a": "b"})
    assert one.sha256 != Origin.of(**{**values, "name": "x"}, files={"a": "b"}).sha256
    assert one.sha256 != Origin.of(**values, files={"a": "c"}).sha256


def test_an_interrupted_import_leaves_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export, mine = exported(tmp_path), saved(tmp_path / "mine", *draws("cnn"))

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mmrs_bench.evaluation.exchange.write_json", stop)
        with pytest.raises(KeyboardInterrupt):
            imported(export, mine)
    assert load_imported(mine) == []
    assert imported(export, mine).new
    assert [path.name for path in (mine / "imported").glob("[!.]*")] == ["example-lab"]


def test_an_interrupted_replacement_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = saved(tmp_path / "mine", *draws("cnn"))
    imported(exported(tmp_path / "first"), mine)
    newer, moves = exported(tmp_path / "second", *draws(count=3)), []

    def stop(path: Path, target: Path) -> Path:
        moves.append(target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            imported(newer, mine, replace=True)
    assert len(moves) == 1
    assert len(load_imported(mine)) == 2
    imported(newer, mine, replace=True)
    assert len(load_imported(mine)) == 3
    assert [path.name for path in (mine / "imported").glob("[!.]*")] == ["example-lab"]
