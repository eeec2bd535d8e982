"""Cards by path, with a class in a file beside them: every command and the API take them, without a package."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.method_helpers import refused
from helpers.small_release import sha256

import mmrs_bench
from mmrs_bench.cli import main
from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Suite, build_cells, recorded_name
from mmrs_bench.evaluation.prediction import predict_scene
from mmrs_bench.evaluation.results.records import load_records
from mmrs_bench.methods.base import method_class, place_of
from mmrs_bench.methods.catalogue import method_card, read_method_card
from mmrs_bench.methods.setting_files import file_hashes
from mmrs_bench.models.weights import weights_named
from mmrs_bench.paths import REPOSITORY

TEMPLATE = REPOSITORY / "docs" / "templates" / "my_plain_method" / "method.py"
CARD = {
    "name": "mine",
    "version": 1,
    "class_path": "my_file.py:MyPlainMethod",
    "title": "Mine",
    "reference": "none",
    "config": {"neighbours": 1},
    "variants": {"three": {"config": {"neighbours": 3}}},
}


def write_card(folder: Path, code: str = TEMPLATE.read_text(), **changes: object) -> Path:
    """A card, and the file of its class beside it."""
    folder.mkdir(exist_ok=True)
    (folder / "my_file.py").write_text(code)
    card = folder / "mine.yaml"
    card.write_text(yaml.safe_dump(CARD | changes))
    return card


def key_of(card: Path) -> str:
    (cell,) = build_cells(Suite(draws=1, methods=(str(card),), budget="smoke"))
    return cell.key


def test_every_command_takes_the_path_of_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_card(tmp_path)
    monkeypatch.chdir(tmp_path)
    suite = ["--datasets", "simulated", "--budget", "smoke", "--draws", "2"]
    methods = ["--methods", "mine.yaml", "mine.yaml:three", "majority"]
    assert main(["check", "mine.yaml:three"]) == 0
    assert main(["run", *suite, *methods, "--workers", "1", "--save-models"]) == 0
    assert {r.protocol.method for r in load_records(Path("results"))} == {"mine", "majority"}
    capsys.readouterr()
    assert main(["plan", *suite, *methods]) == 0
    assert "6 cells, 6 done" in capsys.readouterr().out
    assert main(["leaderboard"]) == 0
    assert re.search(r" mine:three +\d", capsys.readouterr().out)
    assert main(["compare", "mine.yaml:three", "mine.yaml"]) == 0
    assert "A = mine:three, B = mine" in capsys.readouterr().out
    assert main(["map", *suite[:-2], "--methods", "mine.yaml", "--out", "maps"]) == 0
    (model,) = Path("results").glob("models/*/mine/*draw00*")
    assert main(["predict", str(model), "--out", "map.npy"]) == 0
    found = mmrs_bench.run(
        "simulated", methods=["mine.yaml", Path("mine.yaml")], draws=2, budget="smoke", progress=False
    )
    assert len(found) == len(found.select(method="mine.yaml")) == 2
    assert found.select(method="mine").records == found.records
    assert np.load("map.npy").shape == found.map("mine.yaml", progress=False).axes[0].images[0].get_array().shape[:2]
    Path("my_file.py").write_text("# changed\n" + Path("my_file.py").read_text())
    with refused(ConfigError, r"my_file\.py was changed or removed after the training; train it again"):
        predict_scene(model, None, ExecutionConfig(), lambda _stage, _share: None)


def test_the_home_folder_and_relative_paths_name_the_same_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = write_card(tmp_path)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert {key_of(card), key_of(Path("../mine.yaml"))} == {key_of(Path("~/mine.yaml"))}
    assert recorded_name("~/mine.yaml") == recorded_name(Path("../mine.yaml")) == "mine"
    assert recorded_name("../mine.yaml:three") == "mine:three"
    assert recorded_name("rf:small [v2]") == "rf:small [v2]"


def test_keys_depend_on_the_code_of_the_class_and_not_on_its_place(tmp_path: Path) -> None:
    first, second = write_card(tmp_path / "a"), write_card(tmp_path / "b")
    assert key_of(first) == key_of(second)
    write_card(tmp_path / "b", "# changed\n" + TEMPLATE.read_text())
    assert key_of(first) != key_of(second)


def test_a_card_in_another_folder_inherits_the_class(tmp_path: Path) -> None:
    write_card(tmp_path / "a")
    (tmp_path / "b").mkdir()
    card = tmp_path / "b" / "other.yaml"
    card.write_text("extends: ../a/mine.yaml\nname: other\nconfig: {neighbours: 5}\n")
    assert read_method_card(card).class_path == f"{tmp_path / 'a' / 'my_file.py'}:MyPlainMethod"
    assert method_class(method_card(str(card))).__name__ == "MyPlainMethod"


def test_a_card_named_like_a_shipped_one_can_extend_it(tmp_path: Path) -> None:
    card = tmp_path / "rf.yaml"
    card.write_text("extends: rf\nname: my-rf\nconfig: {trees: 7}\n")
    assert method_card(str(card)).config == {**method_card("rf").config, "trees": 7}
    card.write_text("extends: rf\n")
    assert method_card(str(card)) == method_card("rf")
    card.write_text("extends: rf\nconfig: {trees: 7}\n")
    with refused(ConfigError, "the method name 'rf' is taken; give the card another one, for example name: my-rf"):
        method_card(str(card))


def test_a_file_imports_the_files_beside_it_and_its_changes(tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text("WIDTH = 7\n")
    card = write_card(tmp_path, "from .part import WIDTH\n" + TEMPLATE.read_text())
    first = method_class(method_card(str(card)))
    assert first is method_class(method_card(str(card)))
    assert place_of(first) == f"{tmp_path / 'my_file.py'}:MyPlainMethod"
    write_card(tmp_path, TEMPLATE.read_text())
    assert method_class(method_card(str(card))) is not first


@pytest.mark.parametrize(
    ("code", "class_path", "message"),
    [
        ("import this is bad", "my_file.py:Mine", r"my_file\.py:Mine cannot be imported: SyntaxError: "),
        ("1 / 0", "my_file.py:Mine", "cannot be imported: ZeroDivisionError: division by zero"),
        ("", "my_file.py:Mine", "has no attribute 'Mine'"),
        ("class Mine: pass", "my_file.py:Mine", "is not a subclass of mmrs_bench.methods.base.Method; derive it"),
        ("", "none.py:Mine", r"class_path names .*none\.py, which is no file; give its path from the card's folder"),
        ("", "my-file.py:Mine", r"Python cannot import my-file\.py; name it with letters, digits and underscores"),
    ],
)
def test_a_faulty_class_is_an_error_of_one_line(code: str, class_path: str, message: str, tmp_path: Path) -> None:
    card = write_card(tmp_path, code, class_path=class_path)
    (tmp_path / "my-file.py").touch()
    with refused(ConfigError, message):
        method_class(method_card(str(card)))


def test_keys_depend_on_the_content_of_checkpoints() -> None:
    def hashes() -> dict[str, str]:
        return file_hashes(method_card("unidiff").config, method_card("unidiff"), "")

    entry = weights_named("adm-imagenet-64")
    assert hashes() == {f"weights:{entry.name}": "absent"}
    entry.path.parent.mkdir(parents=True)
    found = set[str]()
    for content in (b"one", b"two"):
        entry.path.write_bytes(content)
        assert hashes() == hashes() == {f"weights:{entry.name}": sha256(content)}
        found.add(next(iter(hashes().values())))
    assert len(found) == 2
    assert not file_hashes(method_card("diffclip").config, method_card("diffclip"), "")
