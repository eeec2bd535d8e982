"""Checkpoints of ADM in the format of OpenAI's guided-diffusion: found, opened safely, converted once, shared.

A checkpoint is converted on first use and kept in ``<cache>/adm`` as safetensors, which is read memory-mapped: all
networks of a process, and all processes of a machine, look at the same pages.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from zipfile import BadZipFile, is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmrs_bench.errors import DataError
from mmrs_bench.io import atomic_write, content_hash, file_sha256
from mmrs_bench.methods.unidiff.adm import ADM_64, IMAGE_CHANNELS, AdmConfig, build_adm
from mmrs_bench.models.weights import weights_named
from mmrs_bench.paths import cache_root

#: The entry of ``data_manifests/weights.yaml`` that `ADM_64` is built for.
ADM_64_WEIGHTS = "adm-imagenet-64"

#: Raised when the way from a checkpoint to our weights changes, so that no old conversion is read again.
CONVERSION_FORMAT = 1

#: Keys that a message names at most.
MOST_NAMED = 3

#: Layers of a residual block: ours to the original's.
_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
#: Layers of an attention block: ours to the original's, and the third of the original's rows that is ours.
_ATTENTION = {
    "group_norm": ("norm", None),
    "to_q": ("qkv", 0),
    "to_k": ("qkv", 1),
    "to_v": ("qkv", 2),
    "to_out.0": ("proj_out", None),
}
#: The other released models by channels and number of input blocks (1 + levels * blocks + levels - 1).
_RELEASED = {(256, 15): "128x128", (256, 18): "256x256", (256, 21): "512x512"}

#: What torch raises on files that are cut off, damaged or of another kind.
_LOAD_FAULTS = (
    AssertionError,
    AttributeError,
    BadZipFile,
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)


class _Origin(NamedTuple):
    """Where a tensor of ours comes from.

    Attributes:
        key: The original's key.
        shape: The original's shape.
        third: Which third of its rows ours is; None for all.
        ours: Our shape.
    """

    key: str
    shape: tuple[int, ...]
    third: int | None
    ours: tuple[int, ...]


def checkpoint_file() -> Path:
    """Where `ADM_64`'s checkpoint is looked for: ``<cache>/weights/64x64_diffusion.pt``."""
    return cache_root() / "weights" / weights_named(ADM_64_WEIGHTS).file


def pretrained_weights(config: AdmConfig = ADM_64, file: Path | None = None) -> Mapping[str, Tensor]:
    """The weights of a checkpoint under our names: loaded once per process, memory-mapped, shared.

    For `mmrs_bench.methods.unidiff.adm.adm_with_weights`. Nobody may change them in place. The file's hash and that of the
    conversion are checked at the first call for a file (about two seconds a gigabyte), not at later ones.

    Args:
        config: The network that the checkpoint is of.
        file: A checkpoint of guided-diffusion; None takes `checkpoint_file`, which must have the hash that
            ``data_manifests/weights.yaml`` states, if it states one.

    Returns:
        All tensors of `build_adm`'s ``state_dict``, float32, on the CPU.

    Raises:
        DataError: If there is no such file, with the command that fetches it, or as `load_original`.
        BenchError: If the conversion cannot be kept.
    """
    return _pretrained(config, file.expanduser().absolute() if file else None, cache_root())


@cache
def _pretrained(config: AdmConfig, file: Path | None, _root: Path) -> Mapping[str, Tensor]:
    path = file or checkpoint_file()
    sha256 = _identify(path, named=file is not None)
    key = content_hash({"format": CONVERSION_FORMAT, "config": asdict(config), "sha256": sha256})
    kept = cache_root() / "adm" / f"{key}.safetensors"
    weights = _read(kept, sha256, key)
    if weights is None:
        converted = convert_adm(load_original(path, config), config)
        content = save(converted, {"seal": _seal(sha256, key, converted)})
        atomic_write(kept, lambda opened: opened.write(content))
        weights = _read(kept, sha256, key)
    if weights is None:
        raise DataError(f"{kept}: does not read as it was written; check the disk, then run the command again")
    return MappingProxyType(weights)


def load_original(path: Path, config: AdmConfig) -> dict[str, Tensor]:
    """Open a checkpoint of guided-diffusion, memory-mapped where its format permits, without running what is in it.

    Args:
        path: A file that ``torch.save`` wrote of a ``state_dict``.
        config: The network that it is of.

    Returns:
        Tensors by the original's keys, on the CPU.

    Raises:
        DataError: If the file is absent, cut off, or no ``state_dict``; holds objects other than tensors, which are
            not unpickled; is of another network; or has values that are NaN or infinite.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # what torch warns of there is an error below
            # Files from before torch 1.6 are no zip archives, and cannot be mapped.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}; put the checkpoint of guided-diffusion there") from error
    except _LOAD_FAULTS as error:
        raise DataError(
            f"{path}: is no whole checkpoint of torch.save with nothing but tensors in it ({type(error).__name__}): "
            "cut off, of another kind, or with objects that could run code, of which nothing was run; fetch it again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise DataError(f"{path}: holds a {type(state).__name__}, expected a dict of tensors by name; fetch it again")
    if fault := _fault(state, config):
        raise DataError(f"{path}: {fault}")
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise DataError(f"{path}: {key} has values that are NaN or infinite; fetch the checkpoint again")
    return state


def convert_adm(state_dict: Mapping[str, Tensor], config: AdmConfig) -> dict[str, Tensor]:
    """Weights under guided-diffusion's names to weights under ours, without copying what is in float32 already.

    Args:
        state_dict: Tensors by the original's keys (see `original_shapes`).
        config: The network that they are of.

    Returns:
        The ``state_dict`` of `build_adm`, float32.

    Raises:
        DataError: If keys are missing or unknown, or shapes differ; the message names them, and the other ADM that it
            looks like.

    Deviation: takes attention's queries, keys and values for the thirds of the original's rows, as with its flag
        ``use_new_attention_order``, which `ADM_64` was trained with. The older order, head by head, has the same keys
        and shapes and cannot be told from it.
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
    """Keys of a guided-diffusion ``state_dict`` of this network, and the tensors' shapes."""
    return {origin.key: origin.shape for origin in _origins(config).values()}


@cache
def _origins(config: AdmConfig) -> Mapping[str, _Origin]:
    """Where each of our tensors comes from, by its name."""
    with torch.device("meta"):
        ours = {name: tuple(tensor.shape) for name, tensor in build_adm(config).state_dict().items()}
    origins = {}
    for layer, original, third in _layers(config):
        for kind in ("weight", "bias"):
            shape = ours.get(f"{layer}.{kind}")
            if shape is None:  # a residual block that keeps its width has no shortcut, an embedding no bias
                continue
            there = shape if third is None else (3 * shape[0], *shape[1:])
            if ".attentions." in layer and len(shape) == 2:
                there = (*there, 1)  # linear layers of tokens are convolutions there
            origins[f"{layer}.{kind}"] = _Origin(f"{original}.{kind}", there, third, shape)
    return MappingProxyType(origins)


def _layers(config: AdmConfig) -> Iterator[tuple[str, str, int | None]]:
    """Each layer of ours, the original's, and the third of it that ours is."""
    for ours, original in _blocks(config):
        if ".attentions." in ours:
            yield from ((f"{ours}.{own}", f"{original}.{its}", third) for own, (its, third) in _ATTENTION.items())
        elif "block" in ours:
            yield from ((f"{ours}.{own}", f"{original}.{its}", None) for own, its in _RESIDUAL.items())
        else:
            yield ours, original, None


def _blocks(config: AdmConfig) -> Iterator[tuple[str, str]]:
    """Each residual block, attention and single layer of ours, and the original's.

    The original counts all blocks of the encoder, and all of the decoder, through; attention and resampling come after
    the residual block, the decoder's resampling in the same block as the level's last.
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


def _fault(state: Mapping[str, object], config: AdmConfig) -> str:
    """Why a state dict is not this network's; empty if it is."""
    expected = original_shapes(config)
    differing = [
        f"{key} is {found}, expected {[*shape]}"
        for key, shape in expected.items()
        if key in state and (found := _content(state[key])) != str([*shape])
    ]
    faults = [
        f"{len(keys)} {what} ({', '.join(keys[:MOST_NAMED])}{', ...' if len(keys) > MOST_NAMED else ''})"
        for what, keys in (
            ("keys missing", [key for key in expected if key not in state]),
            ("unknown keys", [key for key in state if key not in expected]),
            ("tensors of another shape", differing),
        )
        if keys
    ]
    if not faults:
        return ""
    return (
        f"is not the ADM of {config.base_channels} channels at {config.image_size} x {config.image_size} pixels with "
        f"{config.classes} classes: {'; '.join(faults)}{_resemblance(state, config)}. Use the checkpoint of that ADM"
    )


def _content(value: object) -> str:
    """A tensor's shape, or what there is in place of a tensor of real numbers."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return str([*value.shape]) if value.is_floating_point() else f"of {value.dtype}"


def _resemblance(state: Mapping[str, object], config: AdmConfig) -> str:
    """Which other network a state dict looks like, in words that follow its faults; empty if it may be this one."""
    encoder = {key.split(".")[1] for key in state if key.startswith("input_blocks.")}
    if not encoder:
        return "; it is no ADM under guided-diffusion's names"
    if not any(key.startswith("output_blocks.") for key in state):
        return "; it looks like a classifier of guided-diffusion, which has no decoder"
    traits = []
    time, entry = state.get("time_embed.0.weight"), state.get("input_blocks.0.0.weight")
    if isinstance(time, Tensor) and isinstance(entry, Tensor) and time.ndim == 2 and entry.ndim == 4:
        size = time.shape[1], len(encoder)
        if size != (config.base_channels, len(config.multipliers) * (config.blocks + 1)):
            traits.append(_RELEASED.get(size, f"{size[0]} channels, {size[1]} input blocks"))
        if entry.shape[1] != IMAGE_CHANNELS:
            traits.append(f"one that reads {entry.shape[1]} channels (an upsampler)")
    if "label_emb.weight" not in state:
        traits.append("unconditional (no label_emb)")
    return f"; it looks like another ADM: {', '.join(traits)}" if traits else ""


def _identify(path: Path, *, named: bool) -> str:
    """The hash of a checkpoint; an error that teaches if it is absent, or has another hash than stated."""
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


def _seal(sha256: str, key: str, weights: Mapping[str, Tensor]) -> str:
    """What a conversion says about itself: the hash of its source, its key, and the hash of its content.

    Holds only if neither file nor content was exchanged or damaged.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name} {[*weights[name].shape]} ".encode())
        digest.update(weights[name].reshape(-1).view(torch.uint8).numpy().data)
    return f"{sha256} {key} {digest.hexdigest()}"


def _read(kept: Path, sha256: str, key: str) -> dict[str, Tensor] | None:
    """A conversion, memory-mapped, or None if it is absent or not whole (it is then made again)."""
    if not kept.is_file():
        return None
    try:
        with safe_open(kept, framework="pt") as opened:
            seal = (opened.metadata() or {}).get("seal")
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError):
        return None
    return weights if seal == _seal(sha256, key, weights) else None
