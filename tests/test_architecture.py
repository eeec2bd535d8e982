"""The rules of the house that code can check: no import runs upwards, no method is known by name to the evaluation."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import mmrs_bench
from mmrs_bench.methods.catalogue import method_cards

PACKAGE = Path(mmrs_bench.__file__).parent

#: What each layer must not import, by prefix.
FORBIDDEN = {
    "scenes": ("mmrs_bench.models", "mmrs_bench.methods", "mmrs_bench.evaluation", "mmrs_bench.cli"),
    "models": ("mmrs_bench.scenes", "mmrs_bench.methods", "mmrs_bench.evaluation", "mmrs_bench.cli"),
    "methods": ("mmrs_bench.evaluation", "mmrs_bench.cli"),
    "evaluation": ("mmrs_bench.models", "mmrs_bench.cli"),
}
#: The interface through which the evaluation sees every method.
EVALUATION_MAY_IMPORT = {"mmrs_bench.methods.base"}


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_no_import_runs_upwards(layer: str) -> None:
    for path in (PACKAGE / layer).rglob("*.py"):
        upward = [name for name in imported_modules(path) if name.startswith(FORBIDDEN[layer])]
        assert not upward, f"{path.name} imports {upward}"


def test_the_evaluation_sees_methods_only_through_their_interface() -> None:
    for path in (PACKAGE / "evaluation").rglob("*.py"):
        methods = {n for n in imported_modules(path) if re.match(r"mmrs_bench\.methods(\.\w+)?$", n)}
        assert methods <= EVALUATION_MAY_IMPORT | {"mmrs_bench.methods"}, f"{path.name} imports {methods}"


def test_the_evaluation_knows_no_method_by_name() -> None:
    for path in (PACKAGE / "evaluation").rglob("*.py"):
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not strings & set(method_cards()), f"{path.name} names {strings & set(method_cards())}"


def test_nothing_seeds_globally() -> None:
    """No library code touches the process-wide random state (inside ``fork_rng`` it is restored)."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert "np.random.seed" not in text, path
        assert "seed_everything" not in text, path
