"""Checksums of tensors, which are stored beside them in safetensors files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def seal_of(key: str, tensors: Mapping[str, Tensor]) -> str:
    """Key and checksum (SHA-256 of the values, in the order of the names) of some tensors on the CPU."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"{key} {digest.hexdigest()}"
