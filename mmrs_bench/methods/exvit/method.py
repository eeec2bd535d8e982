"""ExViT: transformers over the pixels of each modality, then over those of all modalities.

Reference: Extended Vision Transformer (Yao et al. 2023); sizes and optimisation as released.
Deviation: the last epoch is scored; the released code reports the epoch that is best on the test set. Images are
    normalised by the protocol, and its windows have a side of 11 by default; the released code scales the bands of the
    HSI to 0 to 1, leaves the second modality as it is, and cuts windows of 13.
"""

from __future__ import annotations

from pydantic import Field

from mmrs_bench.methods.exvit.module import ExvitModule
from mmrs_bench.methods.toolkit.network_method import NetworkMethod
from mmrs_bench.methods.toolkit.supervised import SupervisedConfig


class ExvitConfig(SupervisedConfig):
    """Settings of `Exvit`; most are those of `SupervisedConfig`.

    Attributes:
        width, branch_blocks, fused_blocks, dropout: See `mmrs_bench.methods.exvit.network.ExViT`.
    """

    width: int = Field(ge=4, multiple_of=4)
    branch_blocks: int = Field(ge=0)
    fused_blocks: int = Field(ge=0)
    dropout: float = Field(ge=0, lt=1)


class Exvit(NetworkMethod):
    """ExViT, trained from scratch."""

    Config = ExvitConfig
    Module = ExvitModule
    name = "exvit"
    title = "ExViT"
