"""Makes a CUDA build of torchvision importable together with a CPU build of torch.

PyPI's torchvision is built for CUDA. With a CPU build of torch its import raises ``operator torchvision::nms does not
exist``, and lightning and other packages cannot be imported either. An import hook declares the schemas of the two
missing operators, which this package never calls, when torchvision is first imported.

``main``, which ``make setup`` runs, installs the hook at each start of Python in an
environment with such a pair, so that lightning can also be imported before this package.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import sysconfig
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_keep_alive: list[Any] = []  # a torch.library.Library removes its schemas when it is garbage-collected


def _version_text(package: str) -> str:
    """Text of an installed package's ``version.py``, read without an import; empty if there is none."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return ""
    path = Path(spec.origin).with_name("version.py")
    return path.read_text() if path.is_file() else ""


def needed(torch_version: str, torchvision_version: str) -> bool:
    """Whether torch is a CPU build and torchvision a CUDA build, according to the texts of their ``version.py``."""
    torch_is_cpu = re.search(r"^cuda\b[^=\n]*=\s*None", torch_version, re.MULTILINE) is not None
    return torch_is_cpu and "+cu" in torchvision_version


def mismatched() -> bool:
    """Whether the installed torchvision needs this module."""
    return needed(_version_text("torch"), _version_text("torchvision"))


def declare_schemas() -> None:
    """Declare the operators that torchvision needs on import, unless they exist."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            library.define(schema)  # type: ignore[no-untyped-call]
    _keep_alive.append(library)


class _Finder(MetaPathFinder):
    """Declares the schemas when torchvision is first imported, then removes itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            declare_schemas()
        return None


def install() -> bool:
    """Install the import hook if it is needed; return whether it is."""
    if "torchvision" in sys.modules or not mismatched():
        return False
    sys.meta_path.insert(0, _Finder())
    return True


#: Read by Python at each start, after the files of editable installations, because files are read in sorted order.
_STARTUP_FILE = "zz_mmrs_bench_torchvision.pth"
_STARTUP_LINE = "import importlib.util; importlib.util.find_spec('mmrs_bench') and __import__('mmrs_bench')\n"


def startup_file(site_packages: Path) -> Path:
    """The file that `install_at_startup` writes."""
    return site_packages / _STARTUP_FILE


def install_at_startup(site_packages: Path) -> str:
    """Install the import hook at each start of Python if it is needed, and remove that again if not.

    Args:
        site_packages: Folder of the environment's packages.

    Returns:
        What was done, in one line.
    """
    file = startup_file(site_packages)
    if mismatched():
        file.write_text(_STARTUP_LINE)
        return f"torchvision is built for CUDA and torch is not: {file} makes them work together"
    file.unlink(missing_ok=True)
    return "torch and torchvision match"


def main() -> None:
    """Call `install_at_startup` for this environment, and print what was done."""
    sys.stdout.write(f"{install_at_startup(Path(sysconfig.get_path('purelib')))}\n")
