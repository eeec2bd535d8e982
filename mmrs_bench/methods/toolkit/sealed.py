"""Safetensors files: atomic writing, reading, and checksums that are stored in their metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmrs_bench.errors import DataError
from mmrs_bench.io import atomic_write


def seal_of(key: str, tensors: Mapping[str, Tensor]) -> str:
    """Key and checksum (SHA-256 of the values, in the order of the names) of some tensors on the CPU."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"{key} {digest.hexdigest()}"


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (64 hex digits) of the safetensors file of some tensors on the CPU."""
    return hashlib.sha256(save(dict(tensors))).hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file."""
    content = save(dict(tensors), metadata)
    atomic_write(path, lambda file: file.write(content))


def read_tensors(path: Path, *, advice: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (memory-mapped) and metadata of a safetensors file.

    Raises:
        DataError: If it cannot be read; ``advice`` ends the message.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
            return tensors, opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())}); {advice}") from error


def write_sealed(path: Path, key: str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors with their `seal_of`."""
    write_tensors(path, tensors, {"seal": seal_of(key, tensors)})


def read_sealed(path: Path, key: str) -> dict[str, Tensor] | None:
    """The tensors that `write_sealed` wrote with a key; None if the file is absent, damaged or of another key."""
    try:
        tensors, metadata = read_tensors(path, advice="")
    except DataError:
        return None
    return tensors if metadata == {"seal": seal_of(key, tensors)} else None
