"""Times of the hot paths at the sizes of the papers, with random weights on a random scene.

A step is one optimiser step with its windows, as in a cell. Times are medians.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from mmrs_bench.config import ExecutionConfig, torch_threads
from mmrs_bench.doctor.part import Part, make_table
from mmrs_bench.evaluation.report.tables import Column, Value
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.bdgf.pretraining_module import MultimodalPretrainer
from mmrs_bench.methods.clip.module import LanguageAlignedClassifier, SceneEmbedding
from mmrs_bench.methods.clip.pretraining import MaskedDiffusionPretrainer
from mmrs_bench.methods.cnn.module import CnnModule
from mmrs_bench.methods.conformance import PIXELS, tiny_scene
from mmrs_bench.methods.msfmamba.module import MsfMambaModule
from mmrs_bench.methods.toolkit import training
from mmrs_bench.models.selective_scan import scan_backend, selective_scan
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule

CHANNELS, WINDOW = {"hsi": 63, "lidar": 1}, 11
#: Windows that are gathered together.
GATHERED = 128
#: Windows of a step, steps after the first, and repetitions of the scene's pixels in a prediction, by device.
BATCH = {"cpu": 8, "cuda": 128}
STEPS = {"cpu": 3, "cuda": 20}
REPEATS = {"cpu": 1, "cuda": 100}
PRECISIONS = ("32-true", "bf16-mixed")

Row = dict[str, Value]


def time_paths(device: str, folder: Path) -> Part:
    """Time the hot paths.

    Args:
        device: ``cpu`` or ``cuda``.
        folder: An empty folder for the trainings.
    """
    data = SceneDataModule(tiny_scene(CHANNELS), shots=2, split="official-v1", window=WINDOW, device=device)
    sizes: dict[str, Any] = {"channels": data.channels, "window": WINDOW}
    classes: dict[str, Any] = {"num_classes": data.num_classes}
    steps: dict[str, Callable[[], Any]] = {
        "DiffCLIP stage 1, step": lambda: MaskedDiffusionPretrainer(**sizes),
        "BDGF stage 1, step": lambda: MultimodalPretrainer(**sizes),
        "MSFMamba, step": lambda: MsfMambaModule(**sizes, **classes),
    }
    predictions: dict[str, Callable[[], Any]] = {
        "CNN, scene": lambda: CnnModule(data.channels, data.num_classes),
        "DiffCLIP, scene": lambda: LanguageAlignedClassifier(**sizes, **classes, class_names=data.class_names),
    }
    with torch_threads(1):  # as each worker of a run
        rows = [_row("windows", "float32", *_gather(data, device), "windows"), _scan_row(device)]
    for name, build in steps.items():
        for precision in PRECISIONS:
            rows.append(_row(name, precision, *_steps(build, data, device, precision, folder), "windows"))
    for name, build in predictions.items():
        rows.append(_row(name, "32-true", *_prediction(build, data, device, folder), "pixels"))
    columns = (
        Column("path", "path", fixed=True),
        Column("precision", "precision"),
        Column("count", "at once", "number"),
        Column("milliseconds", "ms", "number", 1),
        Column("rate", "per second", "size"),
        Column("unit", "of"),
    )
    return Part("timing", make_table(f"Times on {device}" + ", one thread" * (device == "cpu"), columns, rows))


def _row(path: str, precision: str, count: int, seconds: float, unit: str) -> Row:
    return {
        "path": path,
        "precision": precision,
        "count": count,
        "milliseconds": 1000 * seconds,
        "rate": count / seconds,
        "unit": unit,
    }


def _gather(data: SceneDataModule, device: str) -> tuple[int, float]:
    """Windows of a batch, and seconds for them."""
    gatherer = data.gatherer(torch.device(device))
    pixels = torch.from_numpy(np.resize(PIXELS, GATHERED)).to(device)
    return len(pixels), _median_seconds(lambda: gatherer.gather(pixels), device)


def _scan_row(device: str) -> Row:
    """Forward and backward pass of a scan along windows of 11 x 11, 128 channels and 16 states."""
    batch, channels, states, length = 64, 128, 16, WINDOW * WINDOW
    generator = torch_generator("doctor", "scan")
    shapes = [(batch, channels, length)] * 2 + [(batch, states, length)] * 2
    u, delta, b, c = (torch.randn(shape, generator=generator) for shape in shapes)
    a = -torch.arange(1.0, states + 1).repeat(channels, 1)
    values = (u, functional.softplus(delta - 3), a, b, c, torch.ones(channels))
    inputs = [value.to(device).requires_grad_() for value in values]

    def run() -> None:
        y = selective_scan(*inputs)
        torch.autograd.grad(y, inputs, torch.ones_like(y))

    return _row(f"selective scan ({scan_backend(device)})", "float32", batch, _median_seconds(run, device), "windows")


def _steps(
    build: Callable[[], Any], data: SceneDataModule, device: str, precision: str, folder: Path
) -> tuple[int, float]:
    """Windows of a step, and seconds for it."""
    batch, steps = BATCH[device], STEPS[device]
    clock = _Clock(device)
    context = _context(device, precision, folder, clock)
    module = training.initialised(build, context, "doctor")
    pixels = np.resize(data.query, batch * (1 + steps))
    loader = data.shuffled_dataloader(("doctor",), pixels, data.scene.labels[pixels] - 1, batch_size=batch)
    training.fit(module, training.Loaders(loader), context, stage="timing", epochs=1)
    return batch, clock.seconds(1 + steps)


def _prediction(build: Callable[[], Any], data: SceneDataModule, device: str, folder: Path) -> tuple[int, float]:
    """Pixels of the scene, and seconds for them."""
    clock = _Clock(device)
    context = _context(device, "32-true", folder, clock)
    module = training.initialised(build, context, "doctor").eval()
    embeds = isinstance(module, LanguageAlignedClassifier)
    callbacks, inputs = ([SceneEmbedding(data)], dict) if embeds else ([], data.add_windows)
    loader = data.pixel_dataloader(np.tile(PIXELS, REPEATS[device]), add_inputs=inputs)
    first = data.pixel_dataloader(PIXELS[:8], add_inputs=inputs)
    training.predict(module, first, _context(device, "32-true", folder), callbacks=callbacks)
    start = perf_counter()
    training.predict(module, loader, context, callbacks=callbacks)
    return len(loader.dataset), clock.times[-1] - start  # type: ignore[arg-type]


class _Clock:
    """Callback for stage progress; records the time of each call after the work of the device."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.times: list[float] = []

    def __call__(self, stage: str, share: float) -> None:
        _wait_for(self._device)
        self.times.append(perf_counter())

    def seconds(self, steps: int) -> float:
        """Median time of the steps after the first of so many."""
        return median(np.diff(self.times[:steps]).tolist())


def _context(
    device: str, precision: str, folder: Path, progress: Callable[[str, float], None] = RunContext.progress
) -> RunContext:
    execution = ExecutionConfig.of(device=device, precision=precision, logger=())
    return RunContext(0, 0, folder, execution, progress)


def _median_seconds(run: Callable[[], object], device: str, rounds: int = 5) -> float:
    """Median time of a function after a first call."""
    times = []
    for _ in range(1 + rounds):
        start = perf_counter()
        run()
        _wait_for(device)
        times.append(perf_counter() - start)
    return median(times[1:])


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
