"""Method cards: shipped, installed and at a path; cards that extend cards; errors that name file and field."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from helpers.method_helpers import refused

from mmrs_bench.config import MethodSpec
from mmrs_bench.errors import BenchError, ConfigError
from mmrs_bench.methods.base import method_class
from mmrs_bench.methods.catalogue import method_card, method_cards, read_method_card, resolve_config

FIELDS = {
    "name": "my-method",
    "version": 1,
    "class_path": "my_package.method:Mine",
    "title": "Mine",
    "reference": "none",
    "config": {"depth": 2, "width": 8},
    "variants": {"wide": {"config": {"width": 64}}},
    "budgets": {"smoke": {"depth": 1, "width": 1}},
}


@pytest.fixture(autouse=True)
def _fresh_cards() -> Iterator[None]:
    method_cards.cache_clear()
    yield
    method_cards.cache_clear()


def write_card(folder: Path, **changes: object) -> Path:
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in {**FIELDS, **changes}.items() if value is not None}))
    return path


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that Python's import system takes for installed; returns its folder."""
    package = tmp_path / "site" / "my_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from pathlib import Path\nCARD = Path(__file__).with_name('card.yaml')\n")
    write_card(package)
    info = tmp_path / "site" / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mmrs_bench.methods]\nmy-method = my_package:CARD\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "my_package", raising=False)
    return tmp_path / "site"


@pytest.mark.parametrize("by_path", [False, True])
def test_a_package_registers_a_method_by_entry_point_or_path(by_path: bool, installed: Path) -> None:
    card = method_card(str(installed / "my_package" / "card.yaml") if by_path else "my-method")
    assert (card.title, card.version) == ("Mine", 1)
    assert "my_package.method" not in sys.modules


@pytest.mark.parametrize("code", ["raise ValueError('numpy.dtype size changed')", "CARD = (", "import nowhere"])
def test_a_faulty_package_is_named(installed: Path, code: str) -> None:
    (installed / "my_package" / "__init__.py").write_text(f"{code}\n")
    with refused(ConfigError, r"my-package: entry point 'my-method' .* cannot be loaded \(\w+Error: .*; fix the"):
        method_cards()


def test_a_package_cannot_use_the_name_of_a_shipped_method(installed: Path) -> None:
    write_card(installed / "my_package", name="svm")
    with refused(ConfigError, r"'svm' is taken"):
        method_cards()


def test_a_class_that_cannot_be_imported_is_an_error(installed: Path) -> None:
    with refused(ConfigError, r"my_package.method:Mine cannot be imported"):
        method_class(method_card("my-method"))


def test_listing_methods_imports_no_method_and_no_torch() -> None:
    code = """
        import sys
        from mmrs_bench.methods.catalogue import method_cards
        assert len(method_cards()) >= 8
        heavy = {"torch", "lightning", "sklearn", "scipy", "mmrs_bench.methods.base"} & set(sys.modules)
        assert not heavy, heavy
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": None}, "name is missing; add it"),
        ({"name": "My Method"}, "name: "),
        ({"version": 0}, "version: "),
        ({"class_path": "no colon"}, "class_path: "),
        ({"colour": "red"}, "colour is not a known field; known fields: name, version"),
        ({"selections": ["best"]}, "selections.0: "),
        ({"budgets": {"huge": {}}}, "budgets.huge"),
        ("name: [", "is not valid YAML"),
        ("\x00", ""),
        ("just words", "valid dictionary"),
    ],
)
def test_a_faulty_card_names_file_and_field(content: dict[str, object] | str, message: str, tmp_path: Path) -> None:
    path = write_card(tmp_path, **(content if isinstance(content, dict) else {}))
    if isinstance(content, str):
        path.write_text(content)
    with refused(BenchError, f"{path}.*{re.escape(message)}"):
        read_method_card(path)


def write_extending(folder: Path, base: str, **fields: object) -> Path:
    path = folder / "extending.yaml"
    path.write_text(yaml.safe_dump({"name": "other", "extends": base, **fields}))
    return path


def test_a_card_extends_another_or_a_shipped_one(tmp_path: Path) -> None:
    write_card(tmp_path)
    changes = {"config": {"width": 9}, "budgets": {"smoke": {"depth": 3}, "quick": {"width": 2}}, "variants": {}}
    card = read_method_card(write_extending(tmp_path, "card", **changes))
    assert (card.name, card.title, card.version) == ("other", "Mine", 1)
    assert card.config == {"depth": 2, "width": 9}
    assert card.budgets == {"smoke": {"depth": 3, "width": 1}, "quick": {"width": 2}}
    assert set(card.variants) == {"default"}, "fields other than config and budgets are replaced"
    shipped = read_method_card(write_extending(tmp_path, "rf", config={"trees": 7}))
    assert shipped.config == {**method_card("rf").config, "trees": 7}


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (None, "extends 'card', but there is no card.yaml in"),
        ("extends: extending", "extends 'extending', which extends this card"),
        ("extends: card", "extends 'card', which extends this card"),
        ("just words", "valid dictionary"),
    ],
)
def test_a_card_that_cannot_be_extended_is_an_error(base: str | None, message: str, tmp_path: Path) -> None:
    path = write_extending(tmp_path, "card")
    if base is not None:
        (tmp_path / "card.yaml").write_text(base)
    with refused(ConfigError, message):
        read_method_card(path)


def test_settings_are_defaults_then_budget_then_variant() -> None:
    card = MethodSpec.model_validate(FIELDS)
    assert resolve_config(card, "default", "paper") == {"depth": 2, "width": 8}
    assert resolve_config(card, "default", "smoke") == {"depth": 1, "width": 1}
    assert resolve_config(card, "wide", "smoke") == {"depth": 1, "width": 64}


def test_the_error_of_an_unknown_name_suggests_known_ones() -> None:
    with refused(ConfigError, r"did you mean rf-spatial"):
        method_card("rf-spacial")
    card = MethodSpec.model_validate({**FIELDS, "variants": {"deep": {"config": {"dept": 9}}}})
    with refused(ConfigError, r"unknown variant of my-method 'dep': did you mean deep\?"):
        resolve_config(card, "dep", "paper")
    with refused(ConfigError, r"unknown setting in variant deep of my-method 'dept': did you mean depth\?"):
        resolve_config(card, "deep", "paper")
