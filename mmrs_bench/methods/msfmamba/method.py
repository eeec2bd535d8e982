"""MSFMamba: a hyperspectral and a second modality through spatial, spectral and fusion selective scans.

Reference: MSFMamba (Gao et al. 2025); sizes and optimisation as released where the settings name it.
Deviation: the last epoch is scored on every query pixel; the released code scores the epoch that is best on the test
    set, of whose pixels it leaves out the last, incomplete batch. Training windows get one of all eight symmetries of
    the square; the released code flips half of them along one axis. Images are normalised by the protocol.
Deviation: by default the network is narrower, batches are an eighth of the released size, the learning rate falls from
    ten times the released one to 0, and there are more epochs. The variants ``release`` have the released layout and
    optimisation.
Deviation: with fewer windows than ``batch_size``, ``release`` trains on all of them in one batch per epoch. The
    released loader drops this batch, so it takes no step and an untrained network is scored.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmrs_bench.methods.base import MethodConfig
from mmrs_bench.methods.msfmamba.module import MsfMambaModule
from mmrs_bench.methods.toolkit.network_method import NetworkMethod
from mmrs_bench.scenes.datamodule import SceneDataModule


class MsfMambaConfig(MethodConfig):
    """Settings of `MsfMamba`.

    Attributes:
        components: Largest number of principal components of the HSI, each with unit variance, that replace its bands;
            None keeps the bands.
        width, layers, states, expand: Sizes, see `mmrs_bench.methods.msfmamba.module.MsfMambaModule`.
        symmetries: Whether training windows get a random symmetry of the square.
        epochs, batch_size: Passes over the support, and largest number of windows of a step.
        drop_last: Whether the windows of the last, incomplete batch of an epoch are left out, as released, unless it is
            the only batch. Otherwise all batches of an epoch have about the same size.
        learning_rate, schedule: See `mmrs_bench.methods.msfmamba.module.MsfMambaModule`.
    """

    components: int | None = Field(ge=1)
    width: int | None = Field(ge=1)
    layers: int = Field(ge=1)
    states: int = Field(ge=1)
    expand: float = Field(gt=0)
    symmetries: bool
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    drop_last: bool
    learning_rate: float = Field(gt=0)
    schedule: Literal["cosine", "constant"]


class MsfMamba(NetworkMethod):
    """MSFMamba, trained from scratch."""

    Config = MsfMambaConfig
    Module = MsfMambaModule
    name = "msfmamba"
    title = "MSFMamba"

    def windows_per_epoch(self, data: SceneDataModule) -> int | None:
        """Those of whole batches, if ``drop_last`` and there is one."""
        whole = len(data.support) // self.config.batch_size * self.config.batch_size
        return whole if self.config.drop_last and whole else None
