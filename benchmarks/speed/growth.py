"""How the cost of each method grows with pixels, scene, bands, window, shots and classes, budget ``smoke``.

    python benchmarks/speed/growth.py [--methods cnn bdgf] [--out docs/images/growth]

Random scenes with 2 LiDAR bands. One setting changes at a time; the others stay at their defaults. Times are
processor seconds of one thread for pretraining, training and prediction together, so other programs disturb them
little. Writes a JSON file and a figure, and prints the exponents b of cost ~ size^b between the smallest and the
largest value.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from time import process_time
from typing import NamedTuple

import jsonargparse
import numpy as np
import torch
from matplotlib.figure import Figure

from mmrs_bench.config import DataConfig, ExecutionConfig
from mmrs_bench.evaluation.report.curves import line_style
from mmrs_bench.methods.base import RunContext, method_class
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.paths import CACHE_VARIABLE
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.scene import Scene

METHODS = (
    "nearest-prototype",
    "svm",
    "svm-emp",
    "rf",
    "rf-spatial",
    "cnn",
    "msfmamba",
    "clip",
    "diffclip",
    "bdgf",
    "unidiff-tiny",
)

#: Bands of the pseudo-RGB.
COLOURS = {"hsi": {"rgb_bands": [2, 1, 0]}}


class Sizes(NamedTuple):
    """The sizes of a cell; the others stay at these defaults."""

    pixels: int = 1000
    scene: int = 96 * 96
    bands: int = 32
    window: int = 11
    shots: int = 4
    classes: int = 6


AXES: dict[str, tuple[int, ...]] = {
    "pixels": (500, 1000, 4000),
    "scene": (64 * 64, 96 * 96, 192 * 192),
    "bands": (8, 32, 128),
    "window": (11, 13, 17),
    "shots": (1, 4, 16),
    "classes": (3, 6, 12),
}
LABELS = {"pixels": "predicted pixels", "scene": "pixels of the scene", "window": "side of the window"}


def main(methods: tuple[str, ...] = METHODS, out: str = "docs/images/growth") -> None:
    """Measure.

    Args:
        methods: Methods.
        out: JSON file and figure, without suffix.
    """
    torch.set_num_threads(1)
    costs: dict[str, dict[str, list[float]]] = {}
    for method in methods:
        seconds(method, Sizes())  # imports, compiled code
        middle = seconds(method, Sizes())
        costs[method] = {}
        for axis, values in AXES.items():
            default = getattr(Sizes(), axis)
            costs[method][axis] = [
                middle if value == default else seconds(method, Sizes(**{axis: value})) for value in values
            ]
        exponents = {axis: f"{exponent(AXES[axis], costs[method][axis]):.2f}" for axis in AXES}
        print(f"| {method} | {middle:.1f} | " + " | ".join(exponents.values()) + " |", flush=True)
    Path(f"{out}.json").write_text(json.dumps({"axes": AXES, "seconds": costs}, indent=1) + "\n")
    figure(costs).savefig(f"{out}.png", dpi=110)


def seconds(method: str, sizes: Sizes) -> float:
    """Processor seconds of one cell; nothing is cached."""
    card = method_card(method)
    config = DataConfig(shots=sizes.shots, window=sizes.window)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE_VARIABLE] = str(Path(folder) / "cache")
        context = RunContext(0, 0, Path(folder), ExecutionConfig.of(device="cpu", logger=()))
        start = process_time()
        made = method_class(card)(resolve_config(card, "default", "smoke"), context)
        data = SceneDataModule(random_scene(sizes), config)
        made.pretrain(data)
        made.fit(data)
        made.predict(data, np.resize(np.arange(sizes.scene), sizes.pixels))
        return process_time() - start


def random_scene(sizes: Sizes) -> Scene:
    """A square scene with classes in blocks of 8 x 8 pixels."""
    rng = np.random.default_rng(sizes)
    side = math.isqrt(sizes.scene)
    rows, columns = np.divmod(np.arange(side * side), side)
    labels = (rows // 8 * (side // 8) + columns // 8) % sizes.classes + 1
    images = {}
    for name, channels in {"hsi": sizes.bands, "lidar": 2}.items():
        means = rng.normal(size=(sizes.classes + 1, channels))
        values = means[labels] + 0.5 * rng.normal(size=(labels.size, channels))
        images[name] = values.astype(np.float32).reshape(side, side, channels)
    counts = np.bincount(labels, minlength=sizes.classes + 1)[1:]
    manifest = {
        "schema": 1,
        "id": "growth",
        "revision": "r1",
        "title": "Random scene",
        "height": side,
        "width": side,
        "modalities": [
            {"name": name, "sensor": "random", "bands": image.shape[2], **COLOURS.get(name, {})}
            for name, image in images.items()
        ],
        "classes": [
            {"id": k + 1, "name": f"class {k}", "color": f"#{k + 1:06x}", "count": int(count)}
            for k, count in enumerate(counts)
        ],
        "generator": {"layout": "growth"},
        "terms": "Simulated.",
        "citation": "None.",
    }
    return Scene(Manifest.model_validate(manifest), images, labels.reshape(side, side).astype(np.int64), None)


def exponent(sizes: tuple[int, ...], costs: list[float]) -> float:
    """b of cost ~ size^b between the first and the last size."""
    return math.log(costs[-1] / costs[0]) / math.log(sizes[-1] / sizes[0])


def figure(costs: dict[str, dict[str, list[float]]]) -> Figure:
    """Seconds against each size."""
    drawn = Figure(figsize=(11, 7), layout="constrained")
    axes = drawn.subplots(2, 3, sharey=True)
    for panel, (axis, values) in zip(axes.flat, AXES.items(), strict=True):
        for number, (method, found) in enumerate(costs.items()):
            panel.errorbar(values, found[axis], label=method, **line_style(number))
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xticks(values, [f"{value:,}" for value in values])
        panel.minorticks_off()
        panel.set_xlabel(LABELS.get(axis, axis))
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in axes[:, 0]:
        panel.set_ylabel("processor seconds")
    drawn.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    return drawn


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
