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


class SampleRandom:
    """Random numbers of the samples of a batch, from the stream of an address (see `derive_seed`).

    In distributed training a process draws the numbers of all parts of a batch and keeps those of its own part. So the
    numbers of a sample do not depend on the number of processes. All parts have the same size.

    Args:
        address: Address of the stream.
        device: Device of the numbers.
        part: Index of this process's part of the batch.
        parts: Number of parts.
    """

    def __init__(self, *address: str | int, device: str = "cpu", part: int = 0, parts: int = 1) -> None:
        self.device = device
        self._generator = torch_generator(*address, device=device)
        self._part, self._parts = part, parts

    def integers(self, high: int, b: int, *shape: int) -> torch.Tensor:
        """Uniform integers (b, *shape) in 0..high-1, int64."""
        import torch

        size = (b * self._parts, *shape)
        return self._own(torch.randint(high, size, generator=self._generator, device=self.device), b)

    def uniform(self, b: int, *shape: int) -> torch.Tensor:
        """Uniform numbers (b, *shape) in [0, 1), float32."""
        import torch

        return self._own(torch.rand(b * self._parts, *shape, generator=self._generator, device=self.device), b)

    def normal(self, b: int, *shape: int) -> torch.Tensor:
        """Standard normal numbers (b, *shape), float32."""
        import torch

        return self._own(torch.randn(b * self._parts, *shape, generator=self._generator, device=self.device), b)

    def _own(self, values: torch.Tensor, b: int) -> torch.Tensor:
        return values[self._part * b : (self._part + 1) * b]
