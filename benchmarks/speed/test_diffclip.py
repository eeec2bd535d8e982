"""DiffCLIP at its released sizes: a step of its pretraining (batch 128) and the classification of a scene of 166 x 600.

Windows of 11 x 11, 63 + 1 bands, 8 heads, width 128, 4 + 3 blocks, 70 % masked; float32 and bfloat16, two threads. The
bound of each is one large matrix product with the same number of operations and the same precision, so the numbers in
brackets are ratios to torch's peak. In float32 the bound is not strict, because torch's product uses MKL and our linear
layers use oneDNN. Goals on two idle cores: 1.2 s per step in float32 and 0.7 s in bfloat16; 450 and 900 pixels/s with
readout ``class``.

The sample has 2,048 of the scene's 99,600 pixels. Embedding pixels and class texts is done once for the scene; its
time is measured separately, and added to the printed pixels/s in proportion to the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.clip.config import DiffClipConfig
from mmrs_bench.methods.clip.masked_vit import SINUSOID_WIDTH, Readout
from mmrs_bench.methods.clip.module import LanguageAlignedClassifier, SceneEmbedding
from mmrs_bench.methods.clip.pretraining import MaskedDiffusionPretrainer, visible_count
from mmrs_bench.scenes.windows import WindowGatherer, build_canvas

HEIGHT, WIDTH, SIDE, BATCH, SAMPLE = 166, 600, 11, 128, 2_048
CHANNELS = {"hsi": 63, "lidar": 1}
CLASSES = ["apple trees", "buildings", "ground", "woods", "vineyard", "roads"]
CONFIG = DiffClipConfig(**resolve_config(method_card("diffclip"), "default", "paper"))
N, V, D = SIDE**2, visible_count(SIDE, CONFIG.mask_ratio), CONFIG.width
HIDDEN = int(D * CONFIG.mlp_ratio)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
precisions = pytest.mark.parametrize("precision", PRECISIONS)
readouts = pytest.mark.parametrize("readout", ["class", "tokens"])


def block_products(tokens: int) -> int:
    """Multiplications of a block for one sequence: its four linear layers, scores, and their weighted values."""
    return tokens * (4 * D * D + 2 * D * HIDDEN) + 2 * tokens**2 * D


def step_operations() -> int:
    """Multiplications and additions in the matrices of one step.

    Each multiplication of the forward pass has one in the gradient of each of its two factors, except in the first
    layers, because pixels and times need no gradient. The released code embeds masked pixels too: 137.7e9 operations.
    """
    first = sum(V * channels * D + SINUSOID_WIDTH * D for channels in CHANNELS.values())
    forward = first
    for channels in CHANNELS.values():
        second = V * D * D + D * D
        encoder = V * D * D + CONFIG.depth * block_products(1 + V)
        decoder = (1 + V) * D * D + CONFIG.decoder_depth * block_products(1 + N) + N * (2 * D * D + D * channels)
        forward += second + encoder + decoder
    return 2 * BATCH * (3 * forward - first)


def pixel_operations(readout: str) -> int:
    """Multiplications and additions in the matrices for one classified pixel, once the scene is embedded."""
    time, head = SINUSOID_WIDTH * D + D * D, D * D
    if readout == "tokens":
        return 2 * len(CHANNELS) * (time + CONFIG.depth * block_products(1 + N) + 3 * head)
    query, key, value, proj = 4 * [D * D]
    last = query + key + 2 * (1 + N) * CONFIG.heads * D + value + proj + 2 * D * HIDDEN
    return 2 * len(CHANNELS) * (time + (CONFIG.depth - 1) * block_products(1 + N) + last + head)


@pytest.fixture(scope="module", autouse=True)
def _two_threads() -> Iterator[None]:
    """The goals are for two cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def autocast(precision: str) -> torch.autocast:
    """The context of a step with Lightning's precisions ``32-true`` and ``bf16-mixed``."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


@pytest.fixture(scope="module")
def gatherer() -> WindowGatherer:
    rng = np.random.default_rng(0)
    images = {name: rng.standard_normal((HEIGHT, WIDTH, c), dtype=np.float32) for name, c in CHANNELS.items()}
    return WindowGatherer(build_canvas(images, SIDE), CHANNELS, SIDE)


def random_pixels(count: int) -> Tensor:
    return torch.randperm(HEIGHT * WIDTH, generator=torch.Generator().manual_seed(0))[:count]


def measure_bound(benchmark: BenchmarkFixture, operations: int, precision: str) -> None:
    """Time a matrix product with this number of operations."""
    side = 4096
    kind = PRECISIONS[precision]
    square, other = torch.ones(side, side, dtype=kind), torch.ones(side, round(operations / 2 / side**2), dtype=kind)
    benchmark.pedantic(torch.mm, (square, other), rounds=3, warmup_rounds=1)


@precisions
def test_step(benchmark: BenchmarkFixture, gatherer: WindowGatherer, precision: str) -> None:
    """Masks, noise, forward, backward and Adam."""
    benchmark.group = f"pretraining step, {precision}"
    torch.manual_seed(0)
    pretrainer = MaskedDiffusionPretrainer(CHANNELS, SIDE)
    pretrainer.log_dict = lambda *values, **options: None  # type: ignore[method-assign]
    trainer = {"max_epochs": 1, "current_epoch": 0, "global_step": 0, "world_size": 1, "global_rank": 0}
    pretrainer.trainer = cast(Any, SimpleNamespace(**trainer))
    optimizer = cast(torch.optim.Optimizer, pretrainer.configure_optimizers()["optimizer"])
    pixel = random_pixels(BATCH)
    batch = {"pixel": pixel, "windows": gatherer.gather(pixel)}

    def step() -> float:
        optimizer.zero_grad()
        with autocast(precision):
            loss = pretrainer.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    first = step()
    assert benchmark.pedantic(step, rounds=5, warmup_rounds=1) < first


@precisions
def test_bound_of_step(benchmark: BenchmarkFixture, precision: str) -> None:
    benchmark.group = f"pretraining step, {precision}"
    measure_bound(benchmark, step_operations(), precision)


@readouts
@precisions
def test_pixels(
    benchmark: BenchmarkFixture,
    gatherer: WindowGatherer,
    readout: Readout,
    precision: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    benchmark.group = f"{SAMPLE} pixels by readout {readout}, {precision}"
    torch.manual_seed(0)
    classifier = LanguageAlignedClassifier(CHANNELS, len(CLASSES), SIDE, class_names=CLASSES, readout=readout).eval()
    plugin = SimpleNamespace(forward_context=lambda: autocast(precision), convert_input=lambda pixels: pixels)
    trainer: Any = SimpleNamespace(precision_plugin=plugin)
    callback = SceneEmbedding(cast(Any, SimpleNamespace(gatherer=lambda device: gatherer)))
    pixels = random_pixels(SAMPLE)

    def classify() -> Tensor:
        with autocast(precision):
            return torch.cat([classifier.predict_step({"pixel": part}, 0) for part in pixels.split(BATCH)])

    with torch.inference_mode():
        embedding = shortest(lambda: callback.on_predict_start(trainer, classifier))
        expected = classify()
        assert torch.equal(benchmark.pedantic(classify, rounds=3), expected)
    if benchmark.enabled:
        a_pixel = benchmark.stats.stats.min / SAMPLE + embedding / (HEIGHT * WIDTH)
        with capsys.disabled():
            print(f"\n{readout}, {precision}: {1 / a_pixel:.0f} pixels/s; the scene was embedded in {embedding:.2f} s")


def shortest(work: Callable[[], object]) -> float:
    """Seconds of the shortest of three runs."""
    seconds = []
    for _ in range(3):
        start = perf_counter()
        work()
        seconds.append(perf_counter() - start)
    return min(seconds)


@readouts
@precisions
def test_bound_of_pixels(benchmark: BenchmarkFixture, readout: str, precision: str) -> None:
    benchmark.group = f"{SAMPLE} pixels by readout {readout}, {precision}"
    measure_bound(benchmark, SAMPLE * pixel_operations(readout), precision)
