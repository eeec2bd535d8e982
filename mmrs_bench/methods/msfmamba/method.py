"""MSFMamba: a hyperspectral and a second modality through spatial, spectral and fusion selective scans.

Reference: MSFMamba (Gao et al. 2025); sizes and optimisation as released where the settings name it.
Deviation: the last epoch is scored on every query pixel; the released code scores the epoch that is best on the test
    set, and drops its last, smaller batch. Training windows get one of all eight symmetries of the square, not flips
    only. Images are normalised by the protocol.
Deviation: by default batches are an eighth of the released size, the learning rate falls from ten times the released
    one to 0, and there are more epochs: the released 40 steps on a small support set hardly change the weights. The
    variant ``release`` has the released optimisation.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmrs_bench.methods.base import MethodConfig
from mmrs_bench.methods.msfmamba.module import MsfMambaModule
from mmrs_bench.methods.toolkit.network_method import NetworkMethod


class MsfMambaConfig(MethodConfig):
    """Settings of `MsfMamba`.

    Attributes:
        components: Largest number of principal components of the HSI, each with unit variance, that replace its bands;
            None keeps the bands.
        width, layers, states, expand: Sizes, see `mmrs_bench.methods.msfmamba.network.MSFMamba`.
        symmetries: Whether training windows get a random symmetry of the square.
        epochs, batch_size: Passes over the support, and largest number of windows of a step.
        learning_rate, schedule: See `mmrs_bench.methods.msfmamba.module.MsfMambaModule`.
    """

    components: int | None = Field(ge=1)
    width: int = Field(ge=1)
    layers: int = Field(ge=1)
    states: int = Field(ge=1)
    expand: float = Field(gt=0)
    symmetries: bool
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    schedule: Literal["cosine", "constant"]


class MsfMamba(NetworkMethod):
    """MSFMamba, trained from scratch."""

    Config = MsfMambaConfig
    Module = MsfMambaModule
    name = "msfmamba"
    title = "MSFMamba"
