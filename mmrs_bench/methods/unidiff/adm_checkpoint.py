"""Checkpoints of ADM in the format of OpenAI's guided-diffusion: safe loading and conversion.

A checkpoint is converted on first use. The converted file in ``<cache>/adm`` is memory-mapped, so that all networks and
processes share the same memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from zipfile import is_zipfile

import torch
from torch import Tensor

from mmrs_bench.errors import DataError
from mmrs_bench.io import content_hash, file_sha256
from mmrs_bench.methods.toolkit.sealed import read_sealed, write_sealed
from mmrs_bench.methods.unidiff.adm import ADM_64, AdmConfig, build_adm
from mmrs_bench.models.weights import weights_named
from mmrs_bench.paths import cache_root

#: The entry of ``data_manifests/weights.yaml`` for `ADM_64`.
ADM_64_WEIGHTS = "adm-imagenet-64"

#: Increment when the conversion changes, so that old converted files are ignored.
CONVERSION_FORMAT = 1

#: Largest number of faults that a message lists.
MAX_FAULTS = 4

#: Layers of a residual block: our names to the original names.
_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
#: Layers of an attention block: our names to the original names, and the third of the original rows that is ours.
_ATTENTION = {
    "group_norm": ("norm", None),
    "to_q": ("qkv", 0),
    "to_k": ("qkv", 1),
    "to_v": ("qkv", 2),
    "to_out.0": ("proj_out", None),
}


#: Hashes of files, computed once in a process.
_sha256 = cache(file_sha256)


class Backbone(NamedTuple):
    """A network before its adaptation."""

    network: AdmConfig
    weights: Mapping[str, Tensor]  # on the CPU; they must not be changed in place
    name: str  # contains a hash of the weights or of their file


class _Origin(NamedTuple):
    """The original of one of our tensors."""

    key: str
    shape: tuple[int, ...]
    third: int | None  # which third of the original rows is ours; None for all rows
    ours: tuple[int, ...]  # our shape


def checkpoint_file() -> Path:
    """Path of the checkpoint of `ADM_64`: ``<cache>/weights/64x64_diffusion.pt``."""
    return weights_named(ADM_64_WEIGHTS).path


def imagenet_backbone(network: AdmConfig, file: Path | None = None) -> Backbone:
    """OpenAI's checkpoint, or one of this format; see `pretrained_weights`."""
    return Backbone(
        network, pretrained_weights(network, file), f"{ADM_64_WEIGHTS} {_sha256(file or checkpoint_file())}"
    )


def pretrained_weights(config: AdmConfig = ADM_64, file: Path | None = None) -> Mapping[str, Tensor]:
    """The ``state_dict`` of `build_adm` from a checkpoint: float32, memory-mapped and shared within a process.

    The tensors must not be changed in place.

    Args:
        config: Sizes of the network.
        file: A checkpoint of guided-diffusion; None takes `checkpoint_file`, whose hash must be the one in
            ``data_manifests/weights.yaml``, if there is one.

    Raises:
        DataError: If the file is absent (with the command that fetches it), or see `load_original`.
        BenchError: If the converted file cannot be written.
    """
    return _pretrained(config, file.expanduser().absolute() if file else None, cache_root())


@cache
def _pretrained(config: AdmConfig, file: Path | None, _root: Path) -> Mapping[str, Tensor]:
    path = file or checkpoint_file()
    sha256 = _identify(path, named=file is not None)
    key = content_hash({"format": CONVERSION_FORMAT, "config": asdict(config), "sha256": sha256})
    converted = cache_root() / "adm" / f"{key}.safetensors"
    weights = read_sealed(converted, key)
    if weights is None:
        write_sealed(converted, key, convert_adm(load_original(path, config), config))
        weights = read_sealed(converted, key)
    if weights is None:
        raise DataError(f"{converted}: cannot be read back; check the disk, then run the command again")
    return MappingProxyType(weights)


def load_original(path: Path, config: AdmConfig) -> dict[str, Tensor]:
    """Load a checkpoint of guided-diffusion without executing code in it, memory-mapped if its format permits.

    Args:
        path: A ``state_dict`` written by ``torch.save``.
        config: Sizes of the network.

    Raises:
        DataError: If the file is absent, truncated, no ``state_dict`` of tensors, of another network, or not finite.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # faults are reported below
            # Files of torch before 1.6 are not zip archives and cannot be memory-mapped.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}; put the checkpoint of guided-diffusion there") from error
    except Exception as error:  # torch raises many types for damaged files
        raise DataError(
            f"{path}: is not a complete checkpoint of tensors only ({type(error).__name__}); it may be truncated, of "
            "another format, or contain code, which was not executed; delete it and fetch it again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise DataError(
            f"{path}: contains a {type(state).__name__}, expected a dict of tensors by name; fetch it again"
        )
    if fault := _fault(state, config):
        raise DataError(f"{path}: {fault}")
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise DataError(f"{path}: {key} has values that are NaN or infinite; fetch the checkpoint again")
    return state


def convert_adm(state_dict: Mapping[str, Tensor], config: AdmConfig) -> dict[str, Tensor]:
    """Convert weights from the names of guided-diffusion to ours; tensors in float32 are not copied.

    Raises:
        DataError: If keys are missing or unknown, or shapes differ.

    Deviation: assumes that the original rows of attention are queries, keys and values, as with the flag
        ``use_new_attention_order``, which `ADM_64` was trained with. The older order, head by head, has the same keys
        and shapes and cannot be detected.
    """
    if fault := _fault(state_dict, config):
        raise DataError(f"state dict: {fault}")
    converted = {}
    for name, (key, _, third, shape) in _origins(config).items():
        tensor = state_dict[key].detach()
        part = tensor if third is None else tensor.chunk(3)[third]
        converted[name] = part.reshape(shape).float().contiguous()
    return converted


def original_shapes(config: AdmConfig) -> dict[str, tuple[int, ...]]:
    """Shapes in a guided-diffusion ``state_dict`` of this network, by key."""
    return {origin.key: origin.shape for origin in _origins(config).values()}


@cache
def _origins(config: AdmConfig) -> Mapping[str, _Origin]:
    """The origin of each of our tensors, by its name."""
    with torch.device("meta"):
        ours = {name: tuple(tensor.shape) for name, tensor in build_adm(config).state_dict().items()}
    origins = {}
    for layer, original, third in _layers(config):
        for kind in ("weight", "bias"):
            shape = ours.get(f"{layer}.{kind}")
            if shape is None:  # residual blocks of constant width have no shortcut, embeddings no bias
                continue
            there = shape if third is None else (3 * shape[0], *shape[1:])
            if ".attentions." in layer and len(shape) == 2:
                there = (*there, 1)  # the original has convolutions in place of linear layers
            origins[f"{layer}.{kind}"] = _Origin(f"{original}.{kind}", there, third, shape)
    return MappingProxyType(origins)


def _layers(config: AdmConfig) -> Iterator[tuple[str, str, int | None]]:
    """Our name of each layer, the original name, and the third of the original rows."""
    for ours, original in _blocks(config):
        if ".attentions." in ours:
            yield from ((f"{ours}.{own}", f"{original}.{its}", third) for own, (its, third) in _ATTENTION.items())
        elif "block" in ours:
            yield from ((f"{ours}.{own}", f"{original}.{its}", None) for own, its in _RESIDUAL.items())
        else:
            yield ours, original, None


def _blocks(config: AdmConfig) -> Iterator[tuple[str, str]]:
    """Our name of each residual block, attention and single layer, and the original name.

    The original numbers all blocks of the encoder, and all of the decoder, consecutively. A block is a residual block,
    then its attention; upsampling is part of the last block of a level.
    """
    attends = [side in config.attention_resolutions for side in config.sides]
    last = len(attends) - 1
    yield from (("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"))
    yield from (("class_embedding", "label_emb"), ("conv_in", "input_blocks.0.0"))
    for level in range(last + 1):
        ours, first = f"down_blocks.{level}", 1 + level * (config.blocks + 1)
        for block in range(config.blocks):
            yield f"{ours}.resnets.{block}", f"input_blocks.{first + block}.0"
            if attends[level]:
                yield f"{ours}.attentions.{block}", f"input_blocks.{first + block}.1"
        if level < last:
            yield f"{ours}.downsamplers.0", f"input_blocks.{first + config.blocks}.0"
    yield from (("mid_block.resnets.0", "middle_block.0"), ("mid_block.attentions.0", "middle_block.1"))
    yield "mid_block.resnets.1", "middle_block.2"
    for level in range(last + 1):  # coarsest first
        ours, first, attending = f"up_blocks.{level}", level * (config.blocks + 1), attends[last - level]
        for block in range(config.blocks + 1):
            yield f"{ours}.resnets.{block}", f"output_blocks.{first + block}.0"
            if attending:
                yield f"{ours}.attentions.{block}", f"output_blocks.{first + block}.1"
        if level < last:
            yield f"{ours}.upsamplers.0", f"output_blocks.{first + config.blocks}.{1 + attending}"
    yield from (("conv_norm_out", "out.0"), ("conv_out", "out.2"))


def _fault(state: Mapping[str, Any], config: AdmConfig) -> str:
    """Why a state dict does not fit the network; empty if it does."""
    expected = original_shapes(config)
    faults = [f"{key} is missing" for key in expected if key not in state]
    faults += [f"{key} is unknown" for key in state if key not in expected]
    for key, shape in expected.items():
        value = state.get(key)
        if value is None:
            continue
        is_tensor = isinstance(value, Tensor)
        found = f"{value.dtype} {[*value.shape]}" if is_tensor else f"a {type(value).__name__}"
        if not is_tensor or not value.is_floating_point() or tuple(value.shape) != shape:
            faults.append(f"{key} is {found}, expected {[*shape]}")
    if not faults:
        return ""
    more = f" and {len(faults) - MAX_FAULTS} more faults" if len(faults) > MAX_FAULTS else ""
    return (
        f"is not the ADM of {config.base_channels} channels at {config.image_size} x {config.image_size} pixels with "
        f"{config.classes} classes: {', '.join(faults[:MAX_FAULTS])}{more}. Use the checkpoint of that ADM"
    )


def _identify(path: Path, *, named: bool) -> str:
    """The hash of a checkpoint, after checking that it exists and has the published hash."""
    entry = weights_named(ADM_64_WEIGHTS)
    if not path.is_file():
        if named:
            raise DataError(f"there is no file {path}; put the checkpoint of guided-diffusion there")
        raise DataError(
            f"{entry.title}: its checkpoint is not on this machine, expected {path}. Fetch it with: {entry.fetch} "
            f"({entry.describe()})"
        )
    sha256 = file_sha256(path)
    if not named and entry.sha256 and entry.sha256 != sha256:
        raise DataError(
            f"{path}: sha256 is {sha256}, expected {entry.sha256}; delete the file and fetch it again with: "
            f"{entry.fetch}"
        )
    return sha256
