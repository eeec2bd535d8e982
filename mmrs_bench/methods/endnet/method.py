"""EndNet: pixels of all modalities are encoded, fused and classified, and decoded from the fused features.

Reference: EndNet (Hong et al. 2020); sizes, losses and optimisation as released.
Deviation: any number of modalities, each with its own encoder and decoder; the released code has two.
Deviation: modalities are as they are in the scene; the paper replaces the LiDAR image by 21 morphological profiles.
Deviation: batches have a quarter of the released size, for more steps on few labels; not in the variant ``release``.
Deviation: all batches of an epoch have about the same size. The last epoch is scored; the released code reports the
    epoch, of every fifth, that is best on the test set.
"""

from __future__ import annotations

from pydantic import Field

from mmrs_bench.methods.endnet.module import EndNetModule
from mmrs_bench.methods.toolkit.network_method import NetworkMethod
from mmrs_bench.methods.toolkit.supervised import SupervisedConfig
from mmrs_bench.scenes.datamodule import SceneDataModule


class EndNetConfig(SupervisedConfig):
    """Settings of `EndNetMethod`: those of `SupervisedConfig`, and the following.

    Attributes:
        reconstruction: Factor of the errors of reconstruction in the loss.
    """

    reconstruction: float = Field(ge=0)


class EndNetMethod(NetworkMethod):
    """EndNet, trained from scratch."""

    Config = EndNetConfig
    Module = EndNetModule
    name = "endnet"
    title = "EndNet"

    def inputs(self, data: SceneDataModule) -> SceneDataModule:
        """See `NetworkMethod.inputs`; every channel from 0 to 1, which is what the decoders can reach."""
        return super().inputs(data).with_normalisation("minmax")
