"""MSFMamba with budget ``paper`` on 30 + 1 channels: a step with 16 windows, and the prediction of 128 windows.

The bound is one large matrix product with as many operations as its convolutions and products, plus its scans.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from scenes import CLASSES, WINDOW, batch, gatherer
from work import Work, products_and_scans, stepper, without_gradients

from mmrs_bench.methods.msfmamba.module import MsfMambaModule

CHANNELS = {"hsi": 30, "lidar": 1}
TRAINED, PREDICTED = 16, 128


def works() -> Iterator[Work]:
    windows = gatherer(CHANNELS)
    torch.manual_seed(0)
    module = MsfMambaModule(CHANNELS, len(CLASSES), WINDOW)
    step = stepper(module.train(), batch(windows, TRAINED))
    inputs: dict[str, Any] = batch(windows, PREDICTED)
    predict = without_gradients(lambda: module.eval().predict_step(inputs, 0))
    yield Work("MSFMamba", f"step of {TRAINED} windows", step, products_and_scans(step, backward=True), 2.0)
    yield Work("MSFMamba", f"{PREDICTED} pixels", predict, products_and_scans(predict, backward=False), 2.0)
