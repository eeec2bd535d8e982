"""ADM under guided-diffusion's names, for comparison: names and shapes of its tensors, and a slow forward pass.

Written from the published architecture (Dhariwal & Nichol 2021, section 3) with functions of torch; it shares no code
with the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmrs_bench.methods.unidiff.adm import AdmConfig

#: Two levels with attention below one without, like ADM_64; two and three heads.
SMALL = AdmConfig(
    base_channels=32,
    multipliers=(1, 2, 3),
    blocks=2,
    attention_resolutions=(8, 4),
    head_channels=32,
    classes=7,
    image_size=16,
)
#: Attention in the middle and at the lowest level only; levels of the same width; no variance.
PLAIN = replace(SMALL, multipliers=(1, 1, 2), blocks=1, attention_resolutions=(4,), learned_sigma=False)
#: Attention at all levels.
DENSE = replace(SMALL, multipliers=(1, 2), blocks=1, attention_resolutions=(16, 8), head_channels=16)


def original_of(config: AdmConfig, **changes: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of guided-diffusion's state dict of an ADM.

    Args:
        config: Sizes of the network.
        changes: Other sizes: ``base``, ``multipliers``, ``blocks``, ``size``, ``classes`` (None: unconditional),
            ``inputs`` and ``outputs`` (channels).
    """
    base, blocks = changes.get("base", config.base_channels), changes.get("blocks", config.blocks)
    multipliers = changes.get("multipliers", config.multipliers)
    side, attention = changes.get("size", config.image_size), config.attention_resolutions
    classes, time = changes.get("classes", config.classes), 4 * base
    found: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int) -> None:
        found[f"{name}.weight"] = shape
        found[f"{name}.bias"] = shape[:1]

    def residual(name: str, c: int, d: int) -> None:
        layer(f"{name}.in_layers.0", c)
        layer(f"{name}.in_layers.2", d, c, 3, 3)
        layer(f"{name}.emb_layers.1", 2 * d, time)
        layer(f"{name}.out_layers.0", d)
        layer(f"{name}.out_layers.3", d, d, 3, 3)
        if c != d:
            layer(f"{name}.skip_connection", d, c, 1, 1)

    def attend(name: str, c: int) -> None:
        layer(f"{name}.norm", c)
        layer(f"{name}.qkv", 3 * c, c, 1)
        layer(f"{name}.proj_out", c, c, 1)

    layer("time_embed.0", time, base)
    layer("time_embed.2", time, time)
    if classes is not None:
        found["label_emb.weight"] = (classes, time)
    c = multipliers[0] * base
    layer("input_blocks.0.0", c, changes.get("inputs", 3), 3, 3)
    skipped, n = [c], 1
    for level, multiplier in enumerate(multipliers):
        if level:
            residual(f"input_blocks.{n}.0", c, c)  # downsampling
            skipped.append(c)
            n, side = n + 1, side // 2
        for _ in range(blocks):
            residual(f"input_blocks.{n}.0", c, multiplier * base)
            c = multiplier * base
            if side in attention:
                attend(f"input_blocks.{n}.1", c)
            skipped.append(c)
            n += 1
    residual("middle_block.0", c, c)
    attend("middle_block.1", c)
    residual("middle_block.2", c, c)
    n = 0
    for level in reversed(range(len(multipliers))):
        for block in range(blocks + 1):
            d = multipliers[level] * base
            residual(f"output_blocks.{n}.0", c + skipped.pop(), d)
            c = d
            if side in attention:
                attend(f"output_blocks.{n}.1", c)
            if level and block == blocks:
                residual(f"output_blocks.{n}.{1 + (side in attention)}", c, c)  # upsampling
                side *= 2
            n += 1
    layer("out.0", c)
    layer("out.2", changes.get("outputs", 6 if config.learned_sigma else 3), c, 3, 3)
    assert not skipped
    return found


def random_state(config: AdmConfig, seed: int = 0) -> dict[str, Tensor]:
    """Random weights for which activations neither vanish nor grow, and every layer has an effect."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in original_of(config).items():
        values = torch.randn(shape, generator=g)
        if key.endswith(".bias"):
            values = 0.3 * values
        elif len(shape) == 1:
            values = 1 + 0.3 * values
        elif key != "label_emb.weight":
            values = values / math.sqrt(math.prod(shape[1:]))
        state[key] = values
    return state


def empty_state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors on torch's device ``meta``."""
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def group_norm(state: dict[str, Tensor], name: str, h: Tensor) -> Tensor:
    return F.group_norm(h, 32, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)


def conv(state: dict[str, Tensor], name: str, h: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(h, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)


def linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def halve(h: Tensor) -> Tensor:
    return F.avg_pool2d(h, 2)


def double(h: Tensor) -> Tensor:
    return F.interpolate(h, scale_factor=2, mode="nearest")


def residual_block(
    state: dict[str, Tensor], name: str, h: Tensor, e: Tensor, resample: Callable[[Tensor], Tensor] = lambda h: h
) -> Tensor:
    inner = resample(F.silu(group_norm(state, f"{name}.in_layers.0", h)))
    inner = conv(state, f"{name}.in_layers.2", inner)
    film = linear(state, f"{name}.emb_layers.1", F.silu(e))[:, :, None, None]
    d = inner.shape[1]
    inner = group_norm(state, f"{name}.out_layers.0", inner) * (1 + film[:, :d]) + film[:, d:]
    inner = conv(state, f"{name}.out_layers.3", F.silu(inner))
    h = resample(h)
    return inner + (conv(state, f"{name}.skip_connection", h) if f"{name}.skip_connection.weight" in state else h)


def attention_block(state: dict[str, Tensor], name: str, h: Tensor, head_channels: int) -> Tensor:
    b, c, side, _ = h.shape
    tokens = h.flatten(2)  # (b, c, n)
    qkv = F.conv1d(group_norm(state, f"{name}.norm", tokens), state[f"{name}.qkv.weight"], state[f"{name}.qkv.bias"])
    q, k, v = (part.unflatten(1, (-1, head_channels)) for part in qkv.chunk(3, dim=1))  # (b, heads, channels, n)
    shares = (q.transpose(2, 3) @ k / math.sqrt(head_channels)).softmax(dim=3)  # (b, heads, query, key)
    out = (v @ shares.transpose(2, 3)).reshape(b, c, side * side)
    out = F.conv1d(out, state[f"{name}.proj_out.weight"], state[f"{name}.proj_out.bias"])
    return (tokens + out).reshape(h.shape)


def reference(state: dict[str, Tensor], config: AdmConfig, x: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
    """The output of the original, block by block."""
    half = config.base_channels // 2
    angles = [[t * math.exp(-math.log(10_000) * i / half) for i in range(half)] for t in timesteps.tolist()]
    sinusoid = torch.tensor([[math.cos(a) for a in row] + [math.sin(a) for a in row] for row in angles])
    e = (
        linear(state, "time_embed.2", F.silu(linear(state, "time_embed.0", sinusoid)))
        + state["label_emb.weight"][labels]
    )

    def block(name: str, h: Tensor, resample: Callable[[Tensor], Tensor], resampling: Callable[[int], bool]) -> Tensor:
        m = 0
        while any(key.startswith(f"{name}.{m}.") for key in state):
            part = f"{name}.{m}"
            if f"{part}.qkv.weight" in state:
                h = attention_block(state, part, h, config.head_channels)
            elif resampling(m):
                h = residual_block(state, part, h, e, resample)
            else:
                h = residual_block(state, part, h, e)
            m += 1
        assert m
        return h

    h = conv(state, "input_blocks.0.0", x)
    skipped, period, levels = [h], config.blocks + 1, len(config.multipliers)
    for n in range(1, levels * period):
        h = block(f"input_blocks.{n}", h, halve, lambda _, n=n: n % period == 0)
        skipped.append(h)
    h = block("middle_block", h, halve, lambda _: False)
    for n in range(levels * period):
        h = block(f"output_blocks.{n}", torch.cat([h, skipped.pop()], dim=1), double, lambda m: m > 0)
    return conv(state, "out.2", F.silu(group_norm(state, "out.0", h)))
