"""Coupled CNNs: networks of single modalities that share layers, fused by features and by decisions.

Reference: Coupled CNNs (Hang et al. 2020); sizes, losses and optimisation as released.
Deviation: training windows get a random symmetry of the square; not in the variant ``release``.
Deviation: the principal components have unit variance; the released code does not scale them.
Deviation: all batches of an epoch have about the same size. The last epoch is scored; the released code keeps the
    state that is best on the test set.
"""

from __future__ import annotations

from pydantic import Field

from mmrs_bench.methods.coupled_cnn.module import CoupledCnnModule
from mmrs_bench.methods.toolkit.network_method import NetworkMethod
from mmrs_bench.methods.toolkit.supervised import SupervisedConfig


class CoupledCnnConfig(SupervisedConfig):
    """Settings of `CoupledCnn`: those of `SupervisedConfig`, and the following.

    Attributes:
        dropout: Share of values dropped behind each shared convolution.
        single_loss: Factor of the cross-entropy of each modality's output in the loss.
    """

    dropout: float = Field(ge=0, lt=1)
    single_loss: float = Field(ge=0)


class CoupledCnn(NetworkMethod):
    """Coupled CNNs, trained from scratch."""

    Config = CoupledCnnConfig
    Module = CoupledCnnModule
    name = "coupled-cnn"
    title = "Coupled CNNs"
