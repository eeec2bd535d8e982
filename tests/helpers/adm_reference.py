"""A slow forward pass of ADM under guided-diffusion's names, for comparison.

Written from the published architecture (Dhariwal & Nichol 2021, section 3) with functions of torch; the computation
shares no code with the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mmrs_bench.methods.unidiff.adm import AdmConfig
from mmrs_bench.methods.unidiff.adm_checkpoint import original_shapes

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


class UsedState(dict[str, Tensor]):
    """A state dict that logs which of its tensors are used."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__(state)
        self.used: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.used.add(key)
        return super().__getitem__(key)


def random_state(config: AdmConfig, seed: int = 0) -> dict[str, Tensor]:
    """Random weights for which activations neither vanish nor grow, and every layer has an effect."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in original_shapes(config).items():
        values = torch.randn(shape, generator=g)
        if key.endswith(".bias"):
            values = 0.3 * values
        elif len(shape) == 1:
            values = 1 + 0.3 * values
        elif key != "label_emb.weight":
            values = values / math.sqrt(math.prod(shape[1:]))
        state[key] = values
    return state


halve = partial(F.avg_pool2d, kernel_size=2)
double = partial(F.interpolate, scale_factor=2, mode="nearest")


def group_norm(state: dict[str, Tensor], name: str, h: Tensor) -> Tensor:
    return F.group_norm(h, 32, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)


def conv(state: dict[str, Tensor], name: str, h: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(h, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)


def linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


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


def reference(
    state: dict[str, Tensor], config: AdmConfig, x: Tensor, timesteps: Tensor, labels: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """The output of the original, block by block, and the activations of the decoder's blocks.

    Without labels, the embedding of the timestep is the only condition.
    """
    half = config.base_channels // 2
    angles = [[t * math.exp(-math.log(10_000) * i / half) for i in range(half)] for t in timesteps.tolist()]
    sinusoid = torch.tensor([[math.cos(a) for a in row] + [math.sin(a) for a in row] for row in angles])
    e = linear(state, "time_embed.2", F.silu(linear(state, "time_embed.0", sinusoid)))
    if labels is not None:
        e = e + state["label_emb.weight"][labels]

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
    skipped, decoder, period, levels = [h], list[Tensor](), config.blocks + 1, len(config.multipliers)
    for n in range(1, levels * period):
        h = block(f"input_blocks.{n}", h, halve, lambda _, n=n: n % period == 0)
        skipped.append(h)
    h = block("middle_block", h, halve, lambda _: False)
    for n in range(levels * period):
        h = block(f"output_blocks.{n}", torch.cat([h, skipped.pop()], dim=1), double, lambda m: m > 0)
        decoder.append(h)
    return conv(state, "out.2", F.silu(group_norm(state, "out.0", h))), decoder
