"""Stage 1 of LDS2AE: masked diffusion in which each modality's decoder also reads the features of the others.

Letters: b batch, c channels, n pixels of a window, v visible pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.toolkit.masked_diffusion.stage import MaskedDiffusionStage
from mmrs_bench.models.diffusion import split_error
from mmrs_bench.models.masked_diffusion.transformer import VisibleTokens


class SharedSpecificPretrainer(MaskedDiffusionStage):
    """Predicts each clean window from its own visible pixels, which are noised, and from those of each other modality.

    L = loss of `MaskedDiffusionStage` + ``cross_weight`` * sum over ordered pairs of modalities of [mean error of
    visible pixels + ``masked_weight`` * mean error of masked pixels]. In a pair, the decoder of one modality reads the
    encoded pixels of the other one, at their places. Visible are the pixels that the predicted modality shows to its
    own decoder, as in the released code.

    Args:
        channels: Channels by modality.
        window: Window side in pixels.
        cross_weight: Weight of the predictions from other modalities; 0 leaves them out, as in the released loss.
        options: See `MaskedDiffusionStage`.

    Raises:
        ConfigError: See `MaskedDiffusionStage`, or if the weight is negative.
    """

    def __init__(
        self, channels: dict[str, int], window: int = 11, *, cross_weight: float = 0.1, **options: Any
    ) -> None:
        super().__init__(channels, window, **options)
        if cross_weight < 0:
            raise ConfigError(f"cross_weight is {cross_weight}; use 0 or a positive number")
        self.cross_weight = cross_weight

    def split_errors(
        self,
        clean: Mapping[str, Tensor],
        noised: Mapping[str, Tensor],
        timesteps: Tensor,
        visible: Mapping[str, VisibleTokens],
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """See `MaskedDiffusionStage.split_errors`; with the weighted errors of predictions from other modalities."""
        encoded, errors = self.network.encode(noised, timesteps, visible), {}
        for name, decoder in self.network.decoders.items():
            seen, masked = split_error(clean[name], decoder(encoded[name], visible[name].write), visible[name].write)
            others = [other for other in encoded if other != name and self.cross_weight]
            for other in others:
                predicted = decoder(encoded[other], visible[other].write)
                crossed = split_error(clean[name], predicted, visible[name].write)
                seen, masked = seen + self.cross_weight * crossed[0], masked + self.cross_weight * crossed[1]
            errors[name] = seen, masked
        return errors
