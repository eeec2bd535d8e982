"""S2ENet: two convolutional streams that enhance each other in space and in channels.

Reference: S2ENet (Fang et al. 2022); sizes as released, and optimisation where the settings name it.
Deviation: images are normalised by the protocol, whose windows have a side of 11; the released code scales each channel
    to 0 to 1 and cuts windows of 7. Training windows get one of all eight symmetries of the square; the released code
    leaves out the two transpositions.
Deviation: by default the HSI is reduced to 30 components, batches are a quarter of the released size, and the learning
    rate falls from ten times the released one to 0. The variant ``release`` has the released optimisation.
"""

from __future__ import annotations

from mmrs_bench.methods.s2enet.module import S2ENetModule
from mmrs_bench.methods.toolkit.network_method import NetworkMethod
from mmrs_bench.methods.toolkit.supervised import SupervisedConfig


class S2ENetMethod(NetworkMethod):
    """S2ENet, trained from scratch."""

    Config = SupervisedConfig
    Module = S2ENetModule
    name = "s2enet"
    title = "S2ENet"
