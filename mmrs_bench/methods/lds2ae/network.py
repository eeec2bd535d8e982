"""The classifier of LDS2AE: the shared encoder of all modalities and a linear head.

Letters: b batch, c channels, n pixels of a window, m modalities, d width, k classes.

Reference: LDS2AE (Qu et al. 2024), fine-tuning; head as released.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmrs_bench.models.masked_diffusion.transformer import HEAD_STD, Readout, TokenEncoder


class SharedClassifier(TokenEncoder):
    """From clean windows to logits; takes tokenizers and encoder of the first stage.

    Args:
        channels: Channels by modality.
        side: Window side in pixels.
        num_classes: k.
        width: d.
        readout: Tokens that the head reads, see `mmrs_bench.models.masked_diffusion.transformer.Readout`; class tokens
            as released.
        sizes: The other arguments of `TokenEncoder`.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        side: int,
        num_classes: int,
        *,
        width: int,
        readout: Readout,
        **sizes: Any,
    ) -> None:
        super().__init__(channels, side, width=width, **sizes)
        self.readout = readout
        self.head = nn.Linear(len(channels) * (1 if readout == "class" else 3) * width, num_classes)
        if readout == "class":
            nn.init.trunc_normal_(self.head.weight, std=HEAD_STD)

    def forward(self, embedded: Mapping[str, Tensor], timesteps: Tensor) -> Tensor:
        """Embedded pixels of whole windows (b, n, d) by modality and timesteps (b,) -> logits (b, k)."""
        return self.head(self.read(embedded, timesteps, self.readout))  # type: ignore[no-any-return]
