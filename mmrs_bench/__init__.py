"""mmrs-bench: a benchmark for few-shot land-cover classification with multimodal remote sensing.

The names below are imported at their first access, so that ``import mmrs_bench`` is fast; docs/python.md shows them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmrs_bench import _torchvision_guard
from mmrs_bench.version import __version__

if TYPE_CHECKING:
    from mmrs_bench.api.catalogue import datamodule, list_methods, list_scenes, load_scene
    from mmrs_bench.api.models import load_pretrained
    from mmrs_bench.api.results import Results, load_results
    from mmrs_bench.api.running import run
    from mmrs_bench.api.tables import Tables
    from mmrs_bench.errors import BenchError

_torchvision_guard.install()

__all__ = [
    "BenchError",
    "Results",
    "Tables",
    "__version__",
    "datamodule",
    "list_methods",
    "list_scenes",
    "load_pretrained",
    "load_results",
    "load_scene",
    "run",
]

#: The module of each name.
_MODULES = {
    "BenchError": "errors",
    "Results": "api.results",
    "Tables": "api.tables",
    "datamodule": "api.catalogue",
    "list_methods": "api.catalogue",
    "list_scenes": "api.catalogue",
    "load_pretrained": "api.models",
    "load_results": "api.results",
    "load_scene": "api.catalogue",
    "run": "api.running",
}


if not TYPE_CHECKING:  # type checkers would take any name for one of this module

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
