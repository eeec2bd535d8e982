"""MIViT: scales of an HSI and of other modalities, fused by oriented attention, in a transformer.

Reference: MIViT (Zhang et al. 2024); architecture, losses and their weights as released.
Deviation: the last epoch is scored; the released code keeps the epoch that is best on the test set. Training windows
    get one of the eight symmetries of the square. All classes have as many labels, so that the released weights of the
    classes are 1.
Deviation: windows have the protocol's side, and their scales are near 1/3, 2/3 and 1 of it; the released ones are 8, 16
    and 24, whose pixel is not in the centre.
Deviation: by default, the HSI is reduced to 30 components, channels are normalised by the protocol and decoded without
    a sigmoid, with a weight that fits their larger variance, batches are smaller, the learning rate is ten times the
    released one and falls to 0, and there are fewer epochs. The variant ``release`` has the released inputs and
    optimisation.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from mmrs_bench.methods.mivit.module import MivitModule
from mmrs_bench.methods.toolkit.network_method import NetworkMethod
from mmrs_bench.methods.toolkit.supervised import SupervisedConfig
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray


class MivitConfig(SupervisedConfig):
    """Settings of `Mivit`.

    Attributes:
        width, depth, dropout, part_weight, distillation_weight, reconstruction_weight, redundancy_weight: See
            `mmrs_bench.methods.mivit.module.MivitModule`.
        unit: Whether channels are scaled to 0 to 1, as released, other than the protocol's normalisation.
    """

    width: int = Field(ge=2, multiple_of=2)
    depth: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    unit: bool
    part_weight: float = Field(ge=0)
    distillation_weight: float = Field(ge=0)
    reconstruction_weight: float = Field(ge=0)
    redundancy_weight: float = Field(ge=0)


class Mivit(NetworkMethod):
    """MIViT, trained from scratch."""

    Config = MivitConfig
    Module = MivitModule
    name = "mivit"
    title = "MIViT"

    module: MivitModule

    def inputs(self, data: SceneDataModule) -> SceneDataModule:
        """See `NetworkMethod.inputs`; with ``unit``, every channel has values from 0 to 1."""
        data = super().inputs(data)
        return data.with_normalisation("minmax") if self.config.unit else data

    def predict_without(self, data: SceneDataModule, pixels: IntArray, missing: Sequence[str]) -> IntArray:
        """See `Method.predict_without`; without the HSI, or with it only, the classifier of what is left predicts."""
        left = {name == "hsi" for name in data.modalities if name not in missing}
        self.module.only = (0 if left == {True} else 1) if len(left) == 1 else None
        try:
            return super().predict_without(data, pixels, missing)
        finally:
            self.module.only = None
