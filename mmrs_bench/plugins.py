"""Other packages: files that they register by entry point, and optional ones with the command that installs them."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from mmrs_bench.errors import ConfigError
from mmrs_bench.paths import CHECKOUT

#: Extras of the package (``pyproject.toml``) by the optional package that they install.
EXTRAS = {
    "mamba_ssm": "cuda",
    "mlflow": "loggers",
    "numba": "fast",
    "rasterio": "geo",
    "ray": "ray",
    "submitit": "slurm",
    "wandb": "loggers",
}


def entry_point_paths(group: str) -> list[tuple[str, Path]]:
    """Names and paths of the entry points of a group, sorted by name.

    Raises:
        ConfigError: If an entry point cannot be loaded, its value is not a ``pathlib.Path``, or its name is not unique.
    """
    return list(_entry_point_paths(group, tuple(sys.path)))


@cache
def _entry_point_paths(group: str, _search_path: tuple[str, ...]) -> tuple[tuple[str, Path], ...]:
    """Read the metadata of all installed packages once, because that takes 10 ms."""
    found: dict[str, Path] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)):
        package = entry.dist.name if entry.dist else "an installed package"
        where = f"{package}: entry point {entry.name!r} ({entry.value}) of group {group}"
        try:
            path = entry.load()
        except Exception as error:  # any code may run at an import
            fault = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{where} cannot be loaded ({fault}); fix the package or uninstall it") from error
        if not isinstance(path, Path):
            raise ConfigError(f"{where} is {type(path).__name__}, expected the pathlib.Path of a YAML file")
        if entry.name in found:
            raise ConfigError(f"{where} has the name of another one; uninstall one of the two packages")
        found[entry.name] = path
    return tuple(found.items())


def missing_package(package: str) -> str:
    """The fault and its remedy if an optional package of `EXTRAS` is not installed; otherwise an empty text."""
    if find_spec(package) is not None:
        return ""
    return f"the package {package} is not installed; install it with: {install_command(EXTRAS[package])}"


def import_optional(package: str, purpose: str) -> ModuleType:
    """Import an optional package of `EXTRAS`.

    Args:
        package: Name of the package.
        purpose: What needs it, for the message.

    Raises:
        ConfigError: If it is not installed or cannot be imported.
    """
    try:
        return import_module(package)
    except ImportError as error:
        broken = f"the package {package} cannot be imported ({error}); install another version of it"
        raise ConfigError(f"{purpose}: {missing_package(package) or broken}") from error


def install_command(extra: str, *, checkout: Path | None = CHECKOUT) -> str:
    """Shell command that installs an extra into the environment of this process.

    Args:
        extra: Name of the extra.
        checkout: The checkout that the code runs from; None for an installed package.
    """
    # The package of the extra cuda is compiled against the installed torch.
    install = "pip install --no-build-isolation" if extra == "cuda" else "pip install"
    if checkout is None:
        return f'{install} "mmrs-bench[{extra}]"'
    made_by_setup = Path(sys.prefix).resolve() == (checkout / ".venv").resolve()
    if made_by_setup and extra != "cuda":
        return f'make setup EXTRAS="dev,{extra}"'
    return f'{install} --editable "{checkout}[{extra}]"'
