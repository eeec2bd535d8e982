"""mmrs-bench: a benchmark for few-shot land-cover classification with multimodal remote sensing."""

from mmrs_bench import _torchvision_guard
from mmrs_bench.version import __version__

_torchvision_guard.install()

__all__ = ["__version__"]
