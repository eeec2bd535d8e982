"""A network with known features, and the feature cache around it."""

# Child processes import this file first, and mmrs_bench has to be imported before lightning (_torchvision_guard.py).
import mmrs_bench  # noqa: F401  # isort: skip

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit.feature_cache import FeatureStore, load_or_extract

Tensors = dict[str, torch.Tensor]

ADDRESS = {"scene": "tiny-r1", "network": "0123", "timesteps": [50, 150]}
SHAPES = {"fine": (2, 3), "coarse": (), "deep": (5,)}  # 24 bytes a row in half precision
ROW_BYTES = 24


def features(rows: Any) -> Tensors:
    """Float32 values that differ in every row, level and place."""
    values = torch.as_tensor(np.asarray(rows), dtype=torch.float32)
    return {
        "deep": torch.sin(values[:, None] + torch.arange(5) / 7),
        "fine": torch.cos(values[:, None, None] * 3 + torch.arange(6).reshape(2, 3) / 7),
        "coarse": -values / 3,
    }


class Network:
    """Records the rows that it computes."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, rows: Any) -> Tensors:
        self.calls.append(rows.tolist())
        return features(rows)

    @property
    def rows(self) -> list[int]:
        return [row for call in self.calls for row in call]


def never(rows: Any) -> Tensors:
    raise AssertionError("computed again")


def cell(seed: int = 0, draw: int = 0, **options: Any) -> RunContext:
    return RunContext(seed=seed, draw=draw, work_dir=Path("never used"), **options)


def extract(
    rows: Sequence[int],
    compute: Callable[[Any], Any],
    *,
    address: dict[str, Any] = ADDRESS,
    shapes: Any = SHAPES,
    segment: int = 4,
    **options: Any,
) -> FeatureStore:
    return load_or_extract(address, np.array(rows, np.int64), shapes, compute, cell(**options), segment=segment)


def cache() -> Path:
    return Path(os.environ["MMRS_BENCH_CACHE"]) / "features"


def segments() -> list[Path]:
    """Oldest first."""
    return sorted(cache().rglob("*.h5"), key=lambda path: path.stat().st_mtime_ns)


def leftovers() -> list[Path]:
    return list(cache().rglob(".*"))


def check(store: FeatureStore, rows: Sequence[int]) -> None:
    found = store.read(np.array(rows, np.int64))
    expected = features(np.array(rows, np.int64))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert (tensor.dtype, tensor.device.type) == (torch.float16, "cpu")
        assert torch.equal(tensor, expected[name].half()), name
