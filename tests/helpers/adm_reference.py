"""ADM under guided-diffusion's names, for comparison: names and shapes of its tensors, and a slow forward pass.

Written from the published architecture (Dhariwal & Nichol 2021, section 3) in plain operations; it shares no code with
the package.
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


def original(
    base: int,
    multipliers: tuple[float, ...],
    blocks: int,
    attention: tuple[int, ...],
    classes: int | None,
    size: int,
    outputs: int = 6,
    inputs: int = 3,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of guided-diffusion's state dict of an ADM with resampling in residual blocks."""
    found: dict[str, tuple[int, ...]] = {}
    time = 4 * base

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
    c = int(multipliers[0] * base)
    layer("input_blocks.0.0", c, inputs, 3, 3)
    handed, n, side = [c], 1, size
    for level, multiplier in enumerate(multipliers):
        if level:
            residual(f"input_blocks.{n}.0", c, c)  # halves the side
            handed.append(c)
            n, side = n + 1, side // 2
        for _ in range(blocks):
            d = int(multiplier * base)
            residual(f"input_blocks.{n}.0", c, d)
            c = d
            if side in attention:
                attend(f"input_blocks.{n}.1", c)
            handed.append(c)
            n += 1
    residual("middle_block.0", c, c)
    attend("middle_block.1", c)
    residual("middle_block.2", c, c)
    n = 0
    for level in reversed(range(len(multipliers))):
        for block in range(blocks + 1):
            d = int(multipliers[level] * base)
            residual(f"output_blocks.{n}.0", c + handed.pop(), d)
            c, last = d, 1
            if side in attention:
                attend(f"output_blocks.{n}.1", c)
                last = 2
            if level and block == blocks:
                residual(f"output_blocks.{n}.{last}", c, c)  # doubles the side
                side *= 2
            n += 1
    layer("out.0", c)
    layer("out.2", outputs, c, 3, 3)
    assert not handed
    return found


def original_of(config: AdmConfig, **changes: Any) -> dict[str, tuple[int, ...]]:
    sizes = {
        "base": config.base_channels,
        "multipliers": config.multipliers,
        "blocks": config.blocks,
        "attention": config.attention_resolutions,
        "classes": config.classes,
        "size": config.image_size,
        "outputs": 6 if config.learned_sigma else 3,
    }
    return original(**{**sizes, **changes})


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
    b, c = h.shape[:2]
    groups = h.reshape(b, 32, -1)
    mean = groups.mean(dim=2, keepdim=True)
    variance = ((groups - mean) ** 2).mean(dim=2, keepdim=True)
    unit = ((groups - mean) / (variance + 1e-5).sqrt()).reshape(h.shape)
    scale, shift = (state[f"{name}.{kind}"].reshape(1, c, *[1] * (h.ndim - 2)) for kind in ("weight", "bias"))
    return unit * scale + shift


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def conv(state: dict[str, Tensor], name: str, h: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(h, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)


def linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def halve(h: Tensor) -> Tensor:
    corners = [h[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return sum(corners[1:], corners[0]) / 4


def double(h: Tensor) -> Tensor:
    return h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def residual_block(
    state: dict[str, Tensor], name: str, h: Tensor, e: Tensor, resample: Callable[[Tensor], Tensor] = lambda h: h
) -> Tensor:
    inner = resample(silu(group_norm(state, f"{name}.in_layers.0", h)))
    inner = conv(state, f"{name}.in_layers.2", inner)
    film = linear(state, f"{name}.emb_layers.1", silu(e))[:, :, None, None]
    d = inner.shape[1]
    inner = group_norm(state, f"{name}.out_layers.0", inner) * (1 + film[:, :d]) + film[:, d:]
    inner = conv(state, f"{name}.out_layers.3", silu(inner))
    h = resample(h)
    return inner + (conv(state, f"{name}.skip_connection", h) if f"{name}.skip_connection.weight" in state else h)


def attention_block(state: dict[str, Tensor], name: str, h: Tensor, head_channels: int) -> Tensor:
    b, c, side, _ = h.shape
    tokens = h.reshape(b, c, side * side)
    weight, bias = state[f"{name}.qkv.weight"][:, :, 0], state[f"{name}.qkv.bias"]
    qkv = weight @ group_norm(state, f"{name}.norm", tokens) + bias[:, None]
    q, k, v = qkv[:, :c], qkv[:, c : 2 * c], qkv[:, 2 * c :]
    heads = []
    for start in range(0, c, head_channels):
        own = slice(start, start + head_channels)
        scores = torch.exp(q[:, own].transpose(1, 2) @ k[:, own] / math.sqrt(head_channels))
        share = scores / scores.sum(dim=2, keepdim=True)  # (b, query, key)
        heads.append(v[:, own] @ share.transpose(1, 2))
    out = state[f"{name}.proj_out.weight"][:, :, 0] @ torch.cat(heads, dim=1) + state[f"{name}.proj_out.bias"][:, None]
    return (tokens + out).reshape(h.shape)


def reference(state: dict[str, Tensor], config: AdmConfig, x: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
    """The output of the original, block by block."""
    half = config.base_channels // 2
    angles = [[t * math.exp(-math.log(10_000) * i / half) for i in range(half)] for t in timesteps.tolist()]
    sinusoid = torch.tensor([[math.cos(a) for a in row] + [math.sin(a) for a in row] for row in angles])
    e = linear(state, "time_embed.2", silu(linear(state, "time_embed.0", sinusoid))) + state["label_emb.weight"][labels]

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
    handed, period, levels = [h], config.blocks + 1, len(config.multipliers)
    for n in range(1, levels * period):
        h = block(f"input_blocks.{n}", h, halve, lambda _, n=n: n % period == 0)
        handed.append(h)
    h = block("middle_block", h, halve, lambda _: False)
    for n in range(levels * period):
        h = block(f"output_blocks.{n}", torch.cat([h, handed.pop()], dim=1), double, lambda m: m > 0)
    return conv(state, "out.2", silu(group_norm(state, "out.0", h)))
