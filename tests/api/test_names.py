"""The names of `mmrs_bench`: imported at their first access."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import mmrs_bench
from mmrs_bench.config import ExecutionConfig
from mmrs_bench.evaluation.cells import Suite
from mmrs_bench.evaluation.run.session import check_and_run, run_cells


def loaded_modules(code: str) -> set[str]:
    """The top-level packages that a Python has imported after some code."""
    script = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_import_loads_no_other_package() -> None:
    script = "import site"  # packages that every Python of this environment loads
    new = loaded_modules("import mmrs_bench") - loaded_modules(script) - {"mmrs_bench"}
    assert {name for name in new if name not in sys.stdlib_module_names} == set()


def test_lists_and_results_load_neither_torch_nor_matplotlib() -> None:
    code = "import mmrs_bench\nmmrs_bench.run, mmrs_bench.load_results\nmmrs_bench.list_methods().to('md')"
    assert not loaded_modules(code) & {"torch", "lightning", "sklearn", "scipy", "matplotlib", "pandas", "torchmetrics"}


@pytest.mark.parametrize("name", mmrs_bench.__all__)
def test_every_name_exists_and_is_documented(name: str) -> None:
    assert name in dir(mmrs_bench)
    assert name == "__version__" or inspect.getdoc(getattr(mmrs_bench, name))


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(mmrs_bench.__file__).read_text())
    (block,) = (n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    assert seen == {name: f"mmrs_bench.{module}" for name, module in mmrs_bench._MODULES.items()}
    assert {*seen, "__version__"} == set(mmrs_bench.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'mmrs_bench' has no attribute 'rum'"):
        _ = mmrs_bench.rum  # type: ignore[attr-defined]


def test_run_has_the_options_and_defaults_of_the_command() -> None:
    defaults = {name: p.default for name, p in inspect.signature(mmrs_bench.run).parameters.items()}
    suite = Suite()
    assert Suite.of({name: defaults[name] for name in Suite.__dataclass_fields__}) == suite
    execution = ExecutionConfig()
    assert (defaults["device"], defaults["precision"]) == (execution.device, execution.precision)
    for function in (check_and_run, run_cells):
        for name, parameter in inspect.signature(function).parameters.items():
            if name in defaults and parameter.default is not parameter.empty:
                assert defaults[name] == parameter.default, name
