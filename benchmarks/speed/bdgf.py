"""BDGF with budget ``quick`` on 10 + 1 channels: pretraining step, features, step of the branches, prediction.

The bound is one large matrix product with as many operations as the convolutions, products and attentions of the work;
for the branches also the scans of the Mamba branch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from scenes import CLASSES, WINDOW, batch, gatherer
from work import Run, Work, operations, product, products_and_scans, stepper, without_gradients

from mmrs_bench.methods.bdgf.config import BdgfConfig
from mmrs_bench.methods.bdgf.features import EXTRACTION_BATCH
from mmrs_bench.methods.bdgf.module import GuidedLearner
from mmrs_bench.methods.bdgf.pretraining_module import MultimodalPretrainer
from mmrs_bench.methods.catalogue import method_card, resolve_config

CHANNELS = {"hsi": 10, "lidar": 1}
CONFIG = BdgfConfig(**resolve_config(method_card("bdgf"), "default", "quick"))
DENOISER = {name: getattr(CONFIG, name) for name in ("base", "multipliers", "blocks")}


def untrained() -> GuidedLearner:
    """The branches, without a denoiser."""
    sizes: dict[str, Any] = {**DENOISER, "width": CONFIG.width}
    return GuidedLearner(CHANNELS, len(CLASSES), WINDOW, **sizes, timesteps=CONFIG.timesteps, branches=CONFIG.branches)


def works() -> Iterator[Work]:
    windows = gatherer(CHANNELS)

    def work(name: str, run: Run) -> Work:
        return Work("BDGF", name, run, product(operations(run)), 1.5)

    torch.manual_seed(0)
    pretrainer = MultimodalPretrainer(CHANNELS, WINDOW, **DENOISER)
    yield work("pretraining step", stepper(pretrainer, batch(windows, CONFIG.pretrain_batch)))
    learner = untrained()
    learner.use_denoiser(pretrainer.denoiser)
    many: dict[str, Any] = batch(windows, EXTRACTION_BATCH)
    features = learner.features(many["windows"])
    yield work(f"features of {EXTRACTION_BATCH} pixels", lambda: learner.features(many["windows"]))
    few: dict[str, Any] = batch(windows, CONFIG.batch_size)
    few["features"] = [level[: CONFIG.batch_size] for level in features]
    more: dict[str, Any] = batch(windows, CONFIG.unlabelled_windows)
    few["unlabelled"] = {**more, "features": [level[: CONFIG.unlabelled_windows] for level in features]}
    step = stepper(learner.train(), few)
    yield Work("BDGF", "step of three branches", step, products_and_scans(step, backward=True), 1.5)
    learner.eval()
    given = {**many, "features": features}
    predict = without_gradients(lambda: learner.predict_step(given, 0))
    name = f"branches on {EXTRACTION_BATCH} pixels"
    yield Work("BDGF", name, predict, products_and_scans(predict, backward=False), 1.5)
