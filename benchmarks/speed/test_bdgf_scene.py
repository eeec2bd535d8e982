"""BDGF classifies a part of a scene of Houston2013's size (349 x 1905 pixels, 3 + 1 channels) with budget ``quick``.

Features are extracted and classified batch by batch, one thread, as in the class map of a scene. The bound is one large
matrix product with as many operations as the convolutions, products and attentions of denoiser and branches.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmrs_bench.methods.bdgf.config import BdgfConfig
from mmrs_bench.methods.bdgf.features import EXTRACTION_BATCH
from mmrs_bench.methods.bdgf.module import GuidedLearner
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.scenes.windows import WindowGatherer, build_canvas

HEIGHT, WIDTH, SIDE, CLASSES = 349, 1905, 11, 15
CHANNELS = {"hsi": 3, "lidar": 1}
SAMPLE = 8 * EXTRACTION_BATCH
CONFIG = BdgfConfig(**resolve_config(method_card("bdgf"), "default", "quick"))


@pytest.fixture(scope="module", autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def learner() -> GuidedLearner:
    names = ("base", "multipliers", "blocks", "timesteps", "branches", "width", "reach")
    torch.manual_seed(0)
    made = GuidedLearner(CHANNELS, CLASSES, SIDE, **{name: getattr(CONFIG, name) for name in names})
    made.use_denoiser(made.denoiser)
    return made.eval()


@pytest.fixture(scope="module")
def gatherer() -> WindowGatherer:
    rng = np.random.default_rng(0)
    images = {name: rng.standard_normal((HEIGHT, WIDTH, c), dtype=np.float32) for name, c in CHANNELS.items()}
    return WindowGatherer(build_canvas(images, SIDE), CHANNELS, SIDE)


def classify(learner: GuidedLearner, gatherer: WindowGatherer, pixels: Tensor) -> Tensor:
    """Targets of pixels, whose features are stored in half precision as by the runner."""
    targets = []
    for part in pixels.split(EXTRACTION_BATCH):
        windows = gatherer.gather(part)
        features = [level.half() for level in learner.features(windows)]
        targets.append(learner.predict_step({"windows": windows, "features": features}, 0))
    return torch.cat(targets)


@pytest.mark.benchmark(group=f"{SAMPLE} pixels of a scene by BDGF")
def test_pixels(
    benchmark: BenchmarkFixture, learner: GuidedLearner, gatherer: WindowGatherer, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = torch.arange(SAMPLE)
    assert len(benchmark.pedantic(classify, (learner, gatherer, pixels), rounds=3, warmup_rounds=1)) == SAMPLE
    if benchmark.enabled:
        minutes = benchmark.stats.stats.min / SAMPLE * HEIGHT * WIDTH / 60
        with capsys.disabled():
            print(f"\nBDGF, quick: {minutes:.1f} min for a scene of {HEIGHT} x {WIDTH} pixels")


@pytest.mark.benchmark(group=f"{SAMPLE} pixels of a scene by BDGF")
def test_bound_of_pixels(benchmark: BenchmarkFixture, learner: GuidedLearner, gatherer: WindowGatherer) -> None:
    with FlopCounterMode(display=False) as counter:
        classify(learner, gatherer, torch.arange(EXTRACTION_BATCH))
    operations = counter.get_total_flops() * SAMPLE // EXTRACTION_BATCH
    side = 4096
    factors = torch.ones(side, side), torch.ones(side, round(operations / 2 / side**2))
    benchmark.pedantic(torch.mm, factors, rounds=3, warmup_rounds=1)
    benchmark.extra_info["operations"] = operations
