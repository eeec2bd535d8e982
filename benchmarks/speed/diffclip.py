"""DiffCLIP at its released sizes: a step of its pretraining, and pixels of a scene by the default readout.

Windows of 11 x 11, 63 + 1 bands, 8 heads, width 128, 4 + 3 blocks, 70 % masked. The bound is one large matrix product
with the same number of operations and the same precision. Pixels are embedded once for a scene; that time is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import torch
from scenes import CLASSES, WINDOW, batch, gatherer, pixels
from work import PRECISIONS, Work, autocast, product, stepper, without_gradients

from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.clip.config import DiffClipConfig
from mmrs_bench.methods.clip.module import LanguageAlignedClassifier, SceneEmbedding
from mmrs_bench.methods.clip.pretraining import MaskedDiffusionPretrainer
from mmrs_bench.methods.toolkit.masked_diffusion.stage import visible_count
from mmrs_bench.models.masked_diffusion.transformer import SINUSOID_WIDTH

BATCH, SAMPLE = 128, 512
CHANNELS = {"hsi": 63, "lidar": 1}
CONFIG = DiffClipConfig(**resolve_config(method_card("diffclip"), "default", "paper"))
N, V, D = WINDOW**2, visible_count(WINDOW, CONFIG.mask_ratio), CONFIG.width
HIDDEN = int(D * CONFIG.mlp_ratio)


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


def pixel_operations() -> int:
    """Multiplications and additions in the matrices for one classified pixel, once the scene is embedded."""
    return 2 * len(CHANNELS) * (SINUSOID_WIDTH * D + D * D + CONFIG.depth * block_products(1 + N) + 3 * D * D)


def classify(precision: str, at_once: int = BATCH) -> Any:
    """Classifies SAMPLE pixels of a scene that is embedded already."""
    torch.manual_seed(0)
    windows = gatherer(CHANNELS)
    classifier = LanguageAlignedClassifier(CHANNELS, len(CLASSES), WINDOW, class_names=CLASSES).eval()
    plugin = SimpleNamespace(forward_context=lambda: autocast(precision), convert_input=lambda values: values)
    callback = SceneEmbedding(cast(Any, SimpleNamespace(gatherer=lambda device: windows)))
    without_gradients(
        lambda: callback.on_predict_start(cast(Any, SimpleNamespace(precision_plugin=plugin)), classifier)
    )()
    chosen = pixels(SAMPLE)

    def run() -> torch.Tensor:
        with autocast(precision):
            return torch.cat([classifier.predict_step({"pixel": part}, 0) for part in chosen.split(at_once)])

    return without_gradients(run)


def works() -> Iterator[Work]:
    inputs = batch(gatherer(CHANNELS), BATCH)
    for precision, goal in zip(PRECISIONS, (1.25, 2.0), strict=True):
        torch.manual_seed(0)
        step = stepper(MaskedDiffusionPretrainer(CHANNELS, WINDOW), inputs, precision)
        yield Work(
            "DiffCLIP", f"pretraining step, {precision}", step, product(step_operations(), precision), goal, rounds=5
        )
    for precision, goal in zip(PRECISIONS, (1.15, 2.5), strict=True):
        bound = product(SAMPLE * pixel_operations(), precision)
        yield Work("DiffCLIP", f"{SAMPLE} pixels, {precision}", classify(precision), bound, goal, rounds=5)
