"""mmrs-bench: few-shot land-cover classification with multimodal remote sensing, on one honest protocol."""

from mmrs_bench import _torchvision_guard
from mmrs_bench.version import __version__

_torchvision_guard.install()

__all__ = ["__version__"]
