"""ADM: against a slow reference under the original's names; the converter's strictness; unsafe and damaged files.

The reference is written from the published architecture (Dhariwal & Nichol 2021, section 3) on a state dict under the
names of guided-diffusion, in plain operations; it shares nothing with the package.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import shlex
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pooch
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.unidiff import adm_checkpoint
from mmrs_bench.methods.unidiff.adm import ADM_64, ADM_TINY, AdmConfig, adm_with_weights, build_adm, zero_last_layers
from mmrs_bench.methods.unidiff.adm_checkpoint import (
    ADM_64_WEIGHTS,
    checkpoint_file,
    convert_adm,
    load_original,
    original_shapes,
    pretrained_weights,
)
from mmrs_bench.models.weights import weights_named

#: Two levels with attention below one without, as in ADM_64; two and three heads.
SMALL = AdmConfig(
    base_channels=32,
    multipliers=(1, 2, 3),
    blocks=2,
    attention_resolutions=(8, 4),
    head_channels=32,
    classes=7,
    image_size=16,
)
#: Attention in the middle and at the lowest level only; levels that keep their width; no variance.
PLAIN = replace(SMALL, multipliers=(1, 1, 2), blocks=1, attention_resolutions=(4,), learned_sigma=False)
#: Attention at the first level, too.
DENSE = replace(SMALL, multipliers=(1, 2), blocks=1, attention_resolutions=(16, 8), head_channels=16)


# The original: names and shapes


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
    """Values for which activations neither vanish nor grow, and no layer is without effect."""
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


def empty_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors without memory."""
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


# The original: what it computes


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
        share = scores / scores.sum(dim=2, keepdim=True)  # (b, asking token, told token)
        heads.append(v[:, own] @ share.transpose(1, 2))
    told = state[f"{name}.proj_out.weight"][:, :, 0] @ torch.cat(heads, dim=1) + state[f"{name}.proj_out.bias"][:, None]
    return (tokens + told).reshape(h.shape)


def reference(state: dict[str, Tensor], config: AdmConfig, x: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
    """The original's output, block by block in the order of its names."""
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


# The converted network is the original


@pytest.mark.parametrize("config", [SMALL, PLAIN, DENSE], ids=["small", "plain", "dense"])
@torch.no_grad()
def test_the_converted_network_computes_what_the_original_does(config: AdmConfig) -> None:
    state = random_state(config)
    unet = adm_with_weights(config, convert_adm(state, config))
    x = torch.randn(4, 3, config.image_size, config.image_size, generator=torch.Generator().manual_seed(1))
    outputs = []
    for steps, labels in (([0, 1, 300, 999], [0, 3, 3, 6]), ([999, 500, 20, 0], [6, 0, 1, 2])):
        t, y = torch.tensor(steps), torch.tensor(labels)
        expected = reference(state, config, x, t, y)
        found = unet(x, t, class_labels=y).sample
        assert found.shape == (4, 6 if config.learned_sigma else 3, config.image_size, config.image_size)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        outputs.append(found)
    assert 0.1 < float(outputs[0].std()) < 10, "so that the tolerance means something"
    assert (outputs[0] - outputs[1]).abs().amax(dim=(1, 2, 3)).min() > 0.05, "time and class do matter"


def test_the_order_of_the_heads_rows_matters_to_the_reference() -> None:
    """Else equal outputs would not show that queries, keys and values are where they belong."""
    state, x = random_state(SMALL), torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    t = y = torch.tensor([5])
    c = 96
    before = reference(state, SMALL, x, t, y)
    for name in ("weight", "bias"):  # the older order: each head's queries, keys and values beside each other
        rows = state[f"middle_block.1.qkv.{name}"]
        state[f"middle_block.1.qkv.{name}"] = rows.unflatten(0, (3, c // 32, 32)).transpose(0, 1).reshape(rows.shape)
    assert (reference(state, SMALL, x, t, y) - before).abs().max() > 1e-2


def test_the_original_of_adm_64_has_the_published_tensors() -> None:
    shapes = original_of(ADM_64)
    assert sum(math.prod(shape) for shape in shapes.values()) == 295_904_454
    assert original_shapes(ADM_64) == shapes
    known = {
        "label_emb.weight": (1000, 768),
        "input_blocks.0.0.weight": (192, 3, 3, 3),
        "input_blocks.4.0.in_layers.2.weight": (192, 192, 3, 3),  # the first that halves the side
        "input_blocks.5.1.qkv.weight": (1152, 384, 1),
        "input_blocks.15.1.proj_out.bias": (768,),
        "middle_block.1.qkv.weight": (2304, 768, 1),
        "output_blocks.3.2.emb_layers.1.weight": (1536, 768),  # the first that doubles it
        "output_blocks.15.0.skip_connection.weight": (192, 384, 1, 1),
        "out.2.weight": (6, 192, 3, 3),
    }
    assert {key: shapes[key] for key in known} == known
    assert "input_blocks.3.1.qkv.weight" not in shapes


@pytest.mark.parametrize(("config", "count"), [(ADM_64, 295_904_454), (ADM_TINY, 6_340_486)])
def test_the_network_has_the_stated_parameters_and_all_come_from_the_original(config: AdmConfig, count: int) -> None:
    with torch.device("meta"):
        unet = build_adm(config)
    assert sum(parameter.numel() for parameter in unet.parameters()) == count
    # Too small a difference for the comparison of outputs.
    assert {module.eps for module in unet.modules() if isinstance(module, torch.nn.GroupNorm)} == {1e-5}
    converted = convert_adm(empty_state(original_of(config)), config)
    assert {name: t.shape for name, t in converted.items()} == {name: t.shape for name, t in unet.state_dict().items()}


def test_half_precision_becomes_single() -> None:
    state = {key: tensor.half() for key, tensor in random_state(DENSE).items()}
    converted = convert_adm(state, DENSE)
    assert {tensor.dtype for tensor in converted.values()} == {torch.float32}
    assert torch.equal(converted["conv_in.weight"], state["input_blocks.0.0.weight"].float())


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    unet = build_adm(replace(DENSE, dropout=0.5))
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([3])
    with torch.no_grad():
        once, again = (unet(x, t, class_labels=t).sample for _ in range(2))
        assert not torch.equal(once, again)
        once, again = (unet.eval()(x, t, class_labels=t).sample for _ in range(2))
        assert torch.equal(once, again)


def test_before_a_training_from_scratch_every_branch_ends_in_zero() -> None:
    unet = build_adm(DENSE).eval()
    zero_last_layers(unet)
    residual, attending = unet.down_blocks[1].resnets[0], unet.down_blocks[1].attentions[0]
    with torch.no_grad():
        h, t = torch.randn(1, 64, 8, 8), torch.tensor([3])
        assert torch.equal(attending(h), h)
        narrow = torch.randn(1, 32, 8, 8)
        assert torch.equal(residual(narrow, torch.randn(1, 128)), residual.conv_shortcut(narrow))
        assert not unet(torch.randn(1, 3, 16, 16), t, class_labels=t).sample.any()
    zeros = [name for name, p in unet.named_parameters() if name.endswith("weight") and not p.any()]
    assert len(zeros) == 1 + 10 + 7, "the output, 10 residual and 7 attention blocks"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_channels": 48}, "48 channels at 16 x 16 pixels; use multiples of 32"),
        ({"head_channels": 48}, "of head_channels 48"),
        ({"attention_resolutions": (32,)}, r"not all sides of a level; choose from \(16, 8, 4\)"),
        ({"image_size": 18}, "cannot be halved 2 times"),
        ({"multipliers": ()}, "at least one multiplier"),
        ({"blocks": 0}, "must be positive"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **changes)


# Many networks on one backbone


def test_a_network_shares_all_weights_but_its_own() -> None:
    weights = convert_adm(random_state(DENSE), DENSE)
    before = {name: weight.clone() for name, weight in weights.items()}
    own = ["class_embedding.weight", "up_blocks.1.resnets.0.time_emb_proj.bias"]
    unet, other = adm_with_weights(DENSE, weights, own=own), adm_with_weights(DENSE, weights)
    assert [name for name, p in unet.named_parameters() if p.requires_grad] == own
    assert not any(p.requires_grad for p in other.parameters())
    assert not unet.training
    shared = {name for name, p in unet.named_parameters() if p.data_ptr() == weights[name].data_ptr()}
    assert shared == weights.keys() - set(own)
    optimizer = torch.optim.SGD((p for p in unet.parameters() if p.requires_grad), lr=1.0)
    t = torch.tensor([3])
    unet(torch.randn(1, 3, 16, 16), t, class_labels=t).sample.square().mean().backward()
    optimizer.step()
    assert all(torch.equal(weights[name], before[name]) for name in weights)
    changed = {name for name, p in unet.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(own)


def test_what_is_not_of_the_network_is_refused() -> None:
    weights = convert_adm(random_state(DENSE), DENSE)
    with pytest.raises(ValueError, match="class_embeddin and 0 more"):
        adm_with_weights(DENSE, weights, own=["class_embeddin"])
    with pytest.raises(ValueError, match="other names or shapes"):
        adm_with_weights(SMALL, weights)


# Strictness


def missing(state: dict[str, Tensor]) -> None:
    del state["middle_block.1.qkv.bias"]


def extra(state: dict[str, Tensor]) -> None:
    state["input_blocks.1.0.skip_connection.weight"] = torch.zeros(32, 32, 1, 1)


def transposed(state: dict[str, Tensor]) -> None:
    state["middle_block.1.qkv.weight"] = state["middle_block.1.qkv.weight"].transpose(0, 1)


def broadcastable(state: dict[str, Tensor]) -> None:
    state["out.0.bias"] = state["out.0.bias"][:1]


def whole_numbers(state: dict[str, Tensor]) -> None:
    state["out.0.bias"] = state["out.0.bias"].long()


def unconditional(state: dict[str, Tensor]) -> None:
    del state["label_emb.weight"]


def other_names(state: dict[str, Tensor]) -> None:
    converted = convert_adm(state, SMALL)
    state.clear()
    state.update(converted)


FAULTS: dict[str, tuple[Callable[[dict[str, Tensor]], None], str]] = {
    "missing": (missing, r"1 keys missing \(middle_block.1.qkv.bias\)\. "),
    "extra": (extra, r"1 unknown keys \(input_blocks.1.0.skip_connection.weight\)\. "),
    "transposed": (transposed, r"qkv.weight is \[96, 288, 1\], expected \[288, 96, 1\]\)\. "),
    "broadcastable": (broadcastable, r"out.0.bias is \[1\], expected \[32\]"),
    "whole numbers": (whole_numbers, r"out.0.bias is of torch.int64, expected \[32\]"),
    "unconditional": (unconditional, r"missing \(label_emb.weight\); it looks like another ADM: unconditional"),
    "other names": (other_names, "no ADM under guided-diffusion's names"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_state_dict_that_is_not_the_networks_is_refused_in_one_line(fault: str, tmp_path: Path) -> None:
    damage, message = FAULTS[fault]
    state = random_state(SMALL)
    damage(state)
    with pytest.raises(DataError, match=message) as caught:
        convert_adm(state, SMALL)
    assert "\n" not in str(caught.value)
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(DataError, match=message) as caught:
        load_original(tmp_path / "x.pt", SMALL)
    assert str(caught.value).startswith(str(tmp_path / "x.pt"))


def test_all_faults_are_told_at_once() -> None:
    state = random_state(SMALL)
    for damage in (missing, extra, broadcastable):
        damage(state)
    with pytest.raises(DataError, match=r"1 keys missing .* 1 unknown keys .* 1 tensors of another shape"):
        convert_adm(state, SMALL)


#: OpenAI's other models: the hyperparameters of the paper's appendix.
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "256": ({"base": 256, "multipliers": (1, 1, 2, 2, 4, 4), "blocks": 2, "size": 256}, "another ADM: 256x256. "),
    "256 unconditional": (
        {"base": 256, "multipliers": (1, 1, 2, 2, 4, 4), "blocks": 2, "size": 256, "classes": None},
        r"another ADM: 256x256, unconditional \(no label_emb\)",
    ),
    "128": ({"base": 256, "multipliers": (1, 1, 2, 3, 4), "blocks": 2, "size": 128}, "another ADM: 128x128. "),
    "512": (
        {"base": 256, "multipliers": (0.5, 1, 1, 2, 2, 4, 4), "blocks": 2, "size": 512},
        "another ADM: 512x512. ",
    ),
    "upsampler": (
        {"multipliers": (1, 1, 2, 2, 4, 4), "blocks": 2, "size": 256, "inputs": 6},
        r"192 channels, 18 input blocks, one that reads 6 channels \(an upsampler\)",
    ),
    "64 unconditional": ({"classes": None}, r"another ADM: unconditional \(no label_emb\)\. "),
    "no learned sigma": ({"outputs": 3}, r"out.2.weight is \[3, 192, 3, 3\], expected \[6, 192, 3, 3\]"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_adm_is_recognised(other: str) -> None:
    changes, message = OTHERS[other]
    with pytest.raises(DataError, match=message) as caught:
        convert_adm(empty_state(original_of(ADM_64, **changes)), ADM_64)
    assert "is not the ADM of 192 channels at 64 x 64 pixels with 1000 classes" in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_a_classifier_is_recognised() -> None:
    shapes = {k: s for k, s in original_of(ADM_64, classes=None).items() if not k.startswith("output_blocks")}
    with pytest.raises(DataError, match="looks like a classifier of guided-diffusion"):
        convert_adm(empty_state(shapes), ADM_64)


# Files


class Malicious:
    """Unpickling it runs a command."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {shlex.quote(str(self.witness))}",)


def raw_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Malicious(path.with_name("witness"))))


def archived_pickle(path: Path) -> None:
    torch.save({**random_state(DENSE), "out.2.bias": Malicious(path.with_name("witness"))}, path)


def old_pickle(path: Path) -> None:
    torch.save({"x": Malicious(path.with_name("witness"))}, path, _use_new_zipfile_serialization=False)


def cut(path: Path, kept: float, *, zipped: bool = True) -> None:
    torch.save(random_state(DENSE), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])


def not_a_number(path: Path) -> None:
    state = random_state(DENSE)
    state["middle_block.1.qkv.bias"][3] = torch.nan
    torch.save(state, path)


FILE_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "malicious": (raw_pickle, "could run code, of which nothing was run"),
    "malicious in an archive": (archived_pickle, "could run code, of which nothing was run"),
    "malicious in the old format": (old_pickle, "could run code, of which nothing was run"),
    "cut at its end": (lambda path: cut(path, 0.999), "no whole checkpoint"),
    "cut in the middle": (lambda path: cut(path, 0.5), "no whole checkpoint"),
    "cut at its start": (lambda path: cut(path, 0.001), "no whole checkpoint"),
    "cut, old format": (lambda path: cut(path, 0.5, zipped=False), "no whole checkpoint"),
    "cut early, old format": (lambda path: cut(path, 0.001, zipped=False), "no whole checkpoint"),
    "empty": (lambda path: path.write_bytes(b""), "no whole checkpoint"),
    "a web page": (lambda path: path.write_text("<html>404</html>" * 9), "no whole checkpoint"),
    "a folder": (lambda path: path.mkdir(), "no whole checkpoint"),
    "safetensors": (lambda path: save_file(random_state(DENSE), path), "no whole checkpoint"),
    "a list": (lambda path: torch.save([torch.ones(2)], path), "holds a list, expected a dict of tensors by name"),
    "a tensor": (lambda path: torch.save(torch.ones(2), path), "holds a Tensor, expected a dict"),
    "numbers for names": (lambda path: torch.save({1: torch.ones(2)}, path), "expected a dict of tensors by name"),
    "a training's state": (lambda path: torch.save({"model": random_state(DENSE)}, path), "no ADM under guided-diff"),
    "text for a tensor": (
        lambda path: torch.save({**random_state(DENSE), "out.2.bias": "none"}, path),
        r"out.2.bias is a str, expected \[6\]",
    ),
    "NaN": (not_a_number, "middle_block.1.qkv.bias has values that are NaN or infinite"),
}


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_a_file_that_is_not_the_checkpoint_is_refused_in_one_line_and_nothing_of_it_is_run(
    fault: str, tmp_path: Path
) -> None:
    write, message = FILE_FAULTS[fault]
    path = tmp_path / "x.pt"
    write(path)
    with pytest.raises(DataError, match=message) as caught:
        load_original(path, DENSE)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_whatever_damage_a_file_has_the_error_is_ours(zipped: bool, tmp_path: Path) -> None:
    path, random = tmp_path / "x.pt", Random(0)
    torch.save({"out.0.bias": torch.ones(2)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for _ in range(100):
        damaged = bytearray(whole[: random.randrange(1, 2 * len(whole))])
        for _ in range(random.choice((1, 2, 5))):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        path.write_bytes(damaged)
        with pytest.raises(DataError):
            load_original(path, DENSE)


def test_the_malicious_files_would_run_code(tmp_path: Path) -> None:
    """Else the test above could not fail."""
    for write in (raw_pickle, archived_pickle, old_pickle):
        write(tmp_path / "x.pt")
        if write is raw_pickle:
            pickle.loads((tmp_path / "x.pt").read_bytes())  # noqa: S301 - what the test is about
        else:
            torch.load(tmp_path / "x.pt", weights_only=False)
        (tmp_path / "witness").unlink()


@pytest.mark.parametrize("zipped", [True, False])
def test_both_formats_of_torch_are_read(zipped: bool, tmp_path: Path) -> None:
    state = random_state(DENSE)
    torch.save(OrderedDict(state), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    loaded = load_original(tmp_path / "x.pt", DENSE)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


# Kept and shared


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "small.pt"
    torch.save(random_state(DENSE), path)
    return path


def conversions() -> list[Path]:
    return sorted((checkpoint_file().parents[1] / "adm").glob("*"))


def test_a_checkpoint_is_converted_once_and_loaded_once_per_process(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = convert_adm(random_state(DENSE), DENSE)
    first = pretrained_weights(DENSE, checkpoint)
    assert first.keys() == expected.keys()
    assert all(torch.equal(first[name], expected[name]) for name in expected)
    (kept,) = conversions()
    assert load_file(kept).keys() == expected.keys()
    assert pretrained_weights(DENSE, checkpoint) is first, "shared within a process"
    adm_checkpoint._pretrained.cache_clear()  # as in another process
    monkeypatch.setattr(adm_checkpoint, "load_original", lambda *_: pytest.fail("converted again"))
    again = pretrained_weights(DENSE, checkpoint)
    assert again is not first
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    with pytest.raises(TypeError):
        again["conv_in.bias"] = torch.zeros(32)  # type: ignore[index]


@pytest.mark.skipif(sys.platform != "linux", reason="the list of mapped files is Linux's")
def test_networks_on_a_checkpoint_look_at_the_mapped_file(checkpoint: Path) -> None:
    pretrained_weights(DENSE, checkpoint)
    adm_checkpoint._pretrained.cache_clear()
    weights = pretrained_weights(DENSE, checkpoint)
    (kept,) = conversions()
    mapped = [
        line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if kept.name in line
    ]
    ranges = [range(int(start, 16), int(end, 16)) for start, end in mapped]
    unet = adm_with_weights(DENSE, weights, own=["conv_out.bias"])
    private = {n for n, p in unet.named_parameters() if not any(p.data_ptr() in part for part in ranges)}
    assert private == {"conv_out.bias"}


def test_the_conversion_names_its_source(checkpoint: Path) -> None:
    pretrained_weights(DENSE, checkpoint)
    (kept,) = conversions()
    with safe_open(kept, framework="pt") as opened:
        assert opened.metadata()["seal"].split()[0] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()


def test_another_checkpoint_is_another_conversion(checkpoint: Path) -> None:
    first = pretrained_weights(DENSE, checkpoint)
    torch.save(random_state(DENSE, seed=1), checkpoint)
    adm_checkpoint._pretrained.cache_clear()
    assert not torch.equal(pretrained_weights(DENSE, checkpoint)["conv_in.bias"], first["conv_in.bias"])
    assert len(conversions()) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty"])
def test_a_damaged_conversion_is_made_again(damage: str, checkpoint: Path) -> None:
    expected = {name: weight.clone() for name, weight in pretrained_weights(DENSE, checkpoint).items()}
    (kept,) = conversions()
    whole = kept.read_bytes()
    kept.unlink()
    if damage == "foreign":
        other = checkpoint.with_name("other.pt")
        torch.save(random_state(DENSE, seed=1), other)
        pretrained_weights(DENSE, other)
        (foreign,) = conversions()
        foreign.rename(kept)
    else:
        last = bytes([whole[-1] ^ 1])
        kept.write_bytes({"cut": whole[:-7], "flipped": whole[:-1] + last, "empty": b""}[damage])
    adm_checkpoint._pretrained.cache_clear()
    found = pretrained_weights(DENSE, checkpoint)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert kept.read_bytes() == whole


def test_a_refused_checkpoint_leaves_nothing_behind(checkpoint: Path) -> None:
    with pytest.raises(DataError, match="is not the ADM of 32 channels"):
        pretrained_weights(SMALL, checkpoint)
    assert not conversions()


# The real checkpoint


def test_without_the_checkpoint_the_error_says_where_it_is_and_what_to_run() -> None:
    with pytest.raises(DataError) as caught:
        pretrained_weights()
    entry = weights_named(ADM_64_WEIGHTS)
    message = str(caught.value)
    assert entry.url == "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/64x64_diffusion.pt"
    assert f"expected {checkpoint_file()}" in message
    assert f"Fetch it with: {entry.fetch} ({entry.url}, sha256 not stated by its publisher)" in message
    assert "\n" not in message


def test_the_command_fetches_the_address_to_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    entry, asked = weights_named(ADM_64_WEIGHTS), []
    monkeypatch.setattr(pooch, "retrieve", lambda *given, **named: asked.append((given, named)))
    python, flag, code = shlex.split(entry.fetch)
    assert (python, flag) == ("python", "-c")
    exec(code, {})  # noqa: S102 - the command of our own file
    place = {"fname": entry.file, "path": checkpoint_file().parent, "progressbar": True}
    assert asked == [((entry.url, entry.sha256), place)]
    assert checkpoint_file().name == entry.file


def test_a_named_file_that_is_absent_is_told(tmp_path: Path) -> None:
    for attempt in (pretrained_weights, lambda config, path: load_original(path, config)):
        with pytest.raises(DataError, match=f"there is no file {tmp_path / 'none.pt'}"):
            attempt(DENSE, tmp_path / "none.pt")


def test_a_stated_hash_is_demanded_of_the_published_file_only(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = weights_named(ADM_64_WEIGHTS).model_copy(update={"sha256": "0" * 64})
    monkeypatch.setattr(adm_checkpoint, "weights_named", lambda _: stated)
    assert pretrained_weights(DENSE, checkpoint)
    checkpoint_file().parent.mkdir(parents=True)
    checkpoint.rename(checkpoint_file())
    with pytest.raises(DataError, match=f"expected {'0' * 64}; delete the file and fetch it again with: python"):
        pretrained_weights(DENSE)


def test_a_checkpoint_that_is_not_in_the_list_is_told() -> None:
    with pytest.raises(ConfigError, match="unknown checkpoint 'adm-imagenet': did you mean adm-imagenet-64"):
        weights_named("adm-imagenet")
