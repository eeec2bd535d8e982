"""MFT: tokens of an HSI, and a class token made of the second modality, in a small transformer.

Reference: Multimodal Fusion Transformer (Roy et al. 2023); sizes and optimisation as released, epochs as in the
    paper.
Deviation: the last epoch is scored; the released code scores the state that is best on the test set, which it checks
    every 50 steps. Images are normalised by the protocol.
"""

from __future__ import annotations

from pydantic import Field

from mmrs_bench.methods.mft.module import MftModule
from mmrs_bench.methods.toolkit.network_method import NetworkMethod
from mmrs_bench.methods.toolkit.supervised import SupervisedConfig


class MftConfig(SupervisedConfig):
    """Settings of `Mft`; most are those of `SupervisedConfig`.

    Attributes:
        width, dropout: See `mmrs_bench.methods.mft.network.MFT`.
    """

    width: int = Field(ge=8, multiple_of=8)
    dropout: float = Field(ge=0, lt=1)


class Mft(NetworkMethod):
    """MFT, trained from scratch."""

    Config = MftConfig
    Module = MftModule
    name = "mft"
    title = "MFT"
