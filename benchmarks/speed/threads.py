"""What a second thread gains: trainings and predictions in float32 with two threads, beside the same with one.

Meant for `make speed`, which sets the variables of workers: how long OpenMP threads wait actively decides much.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import bdgf
import diffclip
import msfmamba
import torch
from scenes import CLASSES, WINDOW, batch, gatherer
from work import Run, Work, without_gradients

from mmrs_bench.config import torch_threads
from mmrs_bench.methods.msfmamba.module import MsfMambaModule

PREDICTED = 512


def works() -> Iterator[Work]:
    for work in chain(bdgf.works(), diffclip.works(), msfmamba.works()):
        if "step" in work.name and "bfloat16" not in work.name:
            yield compared(work.method, work.name, work.ours)
    yield compared("BDGF", f"branches on {PREDICTED} pixels", branches())
    yield compared("DiffCLIP", f"{diffclip.SAMPLE} pixels", diffclip.classify("float32", diffclip.SAMPLE))
    yield compared("MSFMamba", f"{PREDICTED} pixels", msf_mamba())


def branches() -> Run:
    learner = bdgf.untrained().eval()
    inputs: dict[str, Any] = batch(gatherer(bdgf.CHANNELS), PREDICTED)
    shapes = [(PREDICTED, count, WINDOW, WINDOW) for count in learner.denoiser.feature_channels]
    inputs["features"] = [torch.randn(shape) for shape in shapes]
    return without_gradients(lambda: learner.predict_step(inputs, 0))


def msf_mamba() -> Run:
    module = MsfMambaModule(msfmamba.CHANNELS, len(CLASSES), WINDOW).eval()
    inputs: dict[str, Any] = batch(gatherer(msfmamba.CHANNELS), PREDICTED)
    return without_gradients(lambda: module.predict_step(inputs, 0))


def compared(method: str, name: str, run: Run) -> Work:
    two, one = in_threads(run, 2), in_threads(run, 1)
    return Work(method, f"{name}: two threads / one", two, reference=one)


def in_threads(run: Run, count: int) -> Run:
    def running() -> object:
        with torch_threads(count):
            return run()

    return running
