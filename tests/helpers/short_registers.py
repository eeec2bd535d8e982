"""Kernels as they are compiled for CPUs whose registers hold 8 float32 numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

START = """
import llvmlite.binding as binding
features = binding.get_host_cpu_features()
features.update({name: False for name in features if name.startswith("avx512")})
binding.get_host_cpu_features = lambda: features
from mmrs_bench.models import _lanes
assert _lanes.LANES == 8
"""


def run_with_short_registers(code: str, cache: Path) -> None:
    """Run code in a process of its own; ``cache`` is an empty folder for the compiled kernels."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", START + code], check=True, env=environment)
