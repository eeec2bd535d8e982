"""The layers of the package (docs/architecture.md): which file may import which."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

import mmrs_bench
from mmrs_bench.methods.catalogue import method_cards

PACKAGE = Path(mmrs_bench.__file__).parent

#: What the evaluation sees of methods.
METHODS = ("methods.base", "methods.catalogue", "methods.setting_files", "methods.suitability")
#: What the files of a part may import, by prefix of the dotted name within the package; the longest part counts.
#: ``root`` stands for the modules directly in the package. A part may always import itself.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "root": ("root",),
    "__init__": ("root", "api"),  # at the first access to a name
    "api": ("root", "scenes", "evaluation"),
    "cli": ("root", "cli.parser"),  # a command is imported when it is called
    "cli.parser": ("root", "evaluation.cells", "evaluation.run.executors"),
    "__main__": ("root", "cli"),
    # Checkpoints are listed and fetched like data.
    "commands": ("root", "scenes", "methods", "evaluation", "api", "doctor", "models.weights"),
    "doctor": ("root", "scenes", "methods", "models", "evaluation.results", "evaluation.report"),
    "evaluation": ("root", "scenes", *METHODS),
    "evaluation.results": ("root", "scenes", "evaluation.cells"),
    "evaluation.run": ("root", "scenes", *METHODS, "evaluation.cells", "evaluation.results"),
    "evaluation.report": ("root", "scenes", "evaluation.cells", "evaluation.results"),
    "evaluation.cells": ("root", "scenes", "methods.catalogue", "methods.setting_files", "methods.suitability"),
    "methods": ("root", "scenes", "models"),
    "methods.toolkit": ("root", "scenes", "models", "methods.base"),
    "methods.FOLDER": ("root", "scenes", "models", "methods.base", "methods.toolkit"),
    "models": ("root",),
    "scenes": ("root",),
}
#: Files of a method's folder that see scenes; all others hold networks and see tensors only.
SEES_SCENES = {
    "method",
    "module",
    "config",
    "features",
    "pictures",
    "pretraining",
    "adaptation",
    "clip_image",
    "propagation",
    "superpixels",
    "datamodule",
}
#: Not commands themselves.
SHARED_BY_COMMANDS = {"commands.options", "commands.output"}
MOST_FILES = 14

Graph = dict[str, set[str]]


def read_graph(planted: Mapping[str, str] | None = None) -> Graph:
    """Imports within the package, those inside functions included: dotted name of each file -> those it imports.

    Args:
        planted: Lines to add to files, by path within the package, to show that a rule can fail.
    """
    graph = {name: set(imported) for name, imported in _package_graph().items()}
    for place, line in (planted or {}).items():
        graph[_module_name(place)] |= set(_imports(line, set(graph)))
    return graph


@cache
def _package_graph() -> Graph:
    files = {_module_name(path.relative_to(PACKAGE).as_posix()): path for path in PACKAGE.rglob("*.py")}
    return {name: set(_imports(path.read_text(), set(files))) - {name} for name, path in files.items()}


def _module_name(place: str) -> str:
    return place.removesuffix(".py").replace("/", ".").removesuffix(".__init__") or "__init__"


def _imports(text: str, known: set[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            candidates = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            candidates = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        else:
            continue
        inside = [name.removeprefix("mmrs_bench.") for name in candidates if name.startswith("mmrs_bench.")]
        yield from (name for name in inside if name in known)


def _part(name: str) -> str:
    """The key of `MAY_IMPORT` that governs a file."""
    names = name.split(".")
    if names[0] == "methods" and len(names) > 2 and names[1] != "toolkit":
        return "methods.FOLDER"
    for length in range(len(names), 0, -1):
        if ".".join(names[:length]) in MAY_IMPORT:
            return ".".join(names[:length])
    return "root"


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.") or (prefix == "root" and _part(name) == "root")


def arrows_back(graph: Graph) -> list[str]:
    """Imports that `MAY_IMPORT` does not allow."""
    found = []
    for name, imported in graph.items():
        part = _part(name)
        own = ".".join(name.split(".")[:2]) if part == "methods.FOLDER" else part
        own = name if own == "root" else own
        found += [
            f"{name} imports {other}"
            for other in sorted(imported)
            if not any(_within(other, prefix) for prefix in (*MAY_IMPORT[part], own))
        ]
    return found


def cycles(graph: Graph) -> list[str]:
    """One cycle for each group of files that import each other in a circle."""
    found: list[str] = []
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            found.append(" -> ".join([*trail[trail.index(name) :], name]))
        elif name not in done:
            for other in sorted(graph[name]):
                visit(other, [*trail, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return found


def networks_that_see_scenes(graph: Graph) -> list[str]:
    """Files with networks that import something of ``scenes``."""
    return [
        f"{name} imports {other}"
        for name, imported in graph.items()
        if _part(name) == "methods.FOLDER" and name.split(".")[-1] not in SEES_SCENES
        for other in sorted(imported)
        if _within(other, "scenes")
    ]


def commands_that_import_commands(graph: Graph) -> list[str]:
    """Commands that import another command."""
    return [
        f"{name} imports {other}"
        for name, imported in graph.items()
        if name.startswith("commands.")
        for other in sorted(imported - SHARED_BY_COMMANDS)
        if other.startswith("commands.")
    ]


RULES = {
    "layers": arrows_back,
    "cycles": cycles,
    "networks": networks_that_see_scenes,
    "commands": commands_that_import_commands,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rule(rule: str) -> None:
    assert RULES[rule](read_graph()) == []


@pytest.mark.parametrize(
    ("rule", "place", "line"),
    [
        ("layers", "scenes/scene.py", "from mmrs_bench.methods.base import Method"),
        ("layers", "scenes/scene.py", "from mmrs_bench.models import attention"),
        ("layers", "models/attention.py", "def late():\n    from mmrs_bench.scenes.scene import Scene"),
        ("layers", "models/attention.py", "from mmrs_bench.methods.base import Method"),
        ("layers", "methods/base.py", "from mmrs_bench.evaluation.cells import Cell"),
        ("layers", "methods/cnn/method.py", "from mmrs_bench.methods.clip.method import Clip"),
        ("layers", "methods/toolkit/training.py", "from mmrs_bench.methods.cnn.method import Cnn"),
        ("layers", "evaluation/run/runner.py", "from mmrs_bench.methods.cnn.method import Cnn"),
        ("layers", "evaluation/run/jobs.py", "from mmrs_bench.evaluation.report.tables import Table"),
        ("layers", "evaluation/report/tables.py", "from mmrs_bench.evaluation.run.jobs import Job"),
        ("layers", "evaluation/results/records.py", "from mmrs_bench.evaluation.run.jobs import Job"),
        ("layers", "evaluation/cells.py", "from mmrs_bench.commands.run import run"),
        ("layers", "evaluation/cells.py", "from mmrs_bench.api.results import Results"),
        ("layers", "api/running.py", "from mmrs_bench.commands.run import run"),
        ("layers", "errors.py", "from mmrs_bench.scenes.scene import Scene"),
        ("layers", "cli/__init__.py", "from mmrs_bench.commands.run import run"),
        ("layers", "doctor/files.py", "from mmrs_bench.evaluation.run.jobs import Job"),
        ("cycles", "errors.py", "from mmrs_bench.config import DataConfig"),
        ("cycles", "scenes/manifest.py", "def late():\n    from mmrs_bench.scenes.catalogue import load_scene"),
        ("networks", "methods/cnn/network.py", "from mmrs_bench.scenes.scene import Scene"),
        ("commands", "commands/results.py", "from mmrs_bench.commands.run import run"),
    ],
)
def test_a_planted_violation_is_found(rule: str, place: str, line: str) -> None:
    assert (PACKAGE / place).is_file()
    assert RULES[rule](read_graph({place: f"\n{line}\n"})) != []


def names_of_methods(text: str) -> set[str]:
    """Names of shipped methods that occur as a string in some code."""
    strings = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
    return strings & set(method_cards())


def test_the_evaluation_names_no_method() -> None:
    for path in (PACKAGE / "evaluation").rglob("*.py"):
        assert not names_of_methods(path.read_text()), path
    assert names_of_methods("x = 'bdgf'") == {"bdgf"}


def test_no_folder_has_too_many_files() -> None:
    for folder in (PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir())):
        files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= MOST_FILES, f"{folder.name} holds {len(files)} files"


def test_no_function_is_too_long() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                documentation = ast.get_docstring(node, clean=False) or ""
                lines = (node.end_lineno or 0) - node.lineno + 1 - documentation.count("\n")
                assert lines <= 80, f"{path.name}: {node.name} has {lines} lines"


def test_no_code_seeds_the_process() -> None:
    """Inside ``fork_rng`` a seed is restored; nothing else may touch the random state of the process."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert "np.random.seed" not in text, path
        assert "seed_everything" not in text, path
