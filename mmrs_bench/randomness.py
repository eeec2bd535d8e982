"""Random streams with addresses: the address of a stream states its purpose, and determines its numbers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(*address: str | int) -> int:
    """A 63-bit seed from an address such as ``("support", draw, class_id)``.

    Equal addresses give equal seeds on every machine; different addresses give independent streams.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in address)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def numpy_generator(*address: str | int) -> np.random.Generator:
    """A NumPy generator for this address (see `derive_seed`)."""
    return np.random.Generator(np.random.PCG64(derive_seed(*address)))


def torch_generator(*address: str | int, device: str = "cpu") -> torch.Generator:
    """A torch generator for this address (see `derive_seed`) on ``device``."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(*address))
