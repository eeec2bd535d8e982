"""Initial values of the networks of DiffCLIP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from torch import nn

from mmrs_bench.models.masked_diffusion.transformer import ImageEncoder, MaskedDiffusionTransformer, TokenEncoder

#: ``torch``: those of torch's layers, and mask tokens from N(0, 0.02); ``released``: see `use_released_values`.
InitialValues = Literal["torch", "released"]


def use_released_values(network: TokenEncoder) -> None:
    """Initialise a network of stage 1 or stage 2 as the released code does; random values come from torch's generator.

    Linear layers get Xavier-uniform weights and zero biases, the patch embedding Xavier-uniform weights, and mask
    tokens zeros. The 1 x 1 convolutions of the released code (stems, the bias of the patch embedding, the last layer of
    a decoder) keep torch's values, as does the bias of a head that reads class tokens.

    Reference: DiffCLIP, released code, which follows masked autoencoders (He et al. 2022).
    """
    for tokenizer in network.tokenizers.values():
        nn.init.xavier_uniform_(tokenizer.embed.weight)
        _xavier(tokenizer.time)
    _xavier(network.encoder)
    if isinstance(network, MaskedDiffusionTransformer):
        decoders: Iterable[Any] = network.decoders.values()
        for decoder in decoders:
            nn.init.zeros_(decoder.mask_token)
            for part in (decoder.input_projection, decoder.blocks, decoder.output_projection[:-1]):
                _xavier(part)
    if isinstance(network, ImageEncoder) and network.readout == "class":
        bound = network.head.in_features**-0.5
        nn.init.uniform_(network.head.bias, -bound, bound)


def _xavier(part: nn.Module) -> None:
    for layer in part.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
