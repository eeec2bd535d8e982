"""HCT: convolutions, then a transformer per modality whose class tokens attend to the other one.

Reference: HCT (Zhao et al. 2023); sizes as released, and optimisation where the settings name it.
Deviation: images are normalised by the protocol, and continued beyond their borders by reflection; the released code
    puts zeros there.
Deviation: by default batches are a quarter of the released size, training windows get one of all eight symmetries of
    the square, and the learning rate falls to 0. The variant ``release`` has the released optimisation.
"""

from __future__ import annotations

from pydantic import Field

from mmrs_bench.methods.hct.module import HctModule
from mmrs_bench.methods.toolkit.network_method import NetworkMethod
from mmrs_bench.methods.toolkit.supervised import SupervisedConfig


class HctConfig(SupervisedConfig):
    """Settings of `Hct`; most are those of `SupervisedConfig`.

    Attributes:
        dropout: See `mmrs_bench.methods.hct.network.HCT`.
    """

    dropout: float = Field(ge=0, lt=1)


class Hct(NetworkMethod):
    """HCT, trained from scratch."""

    Config = HctConfig
    Module = HctModule
    name = "hct"
    title = "HCT"
