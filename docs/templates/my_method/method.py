"""Template of a method with a network and pretraining."""

from pydantic import Field

from mmrs_bench.methods.toolkit.network_method import NetworkMethod
from mmrs_bench.methods.toolkit.pretraining import PretrainingConfig, pretrain_on_windows

from .network import Pretraining, Training


class MyConfig(PretrainingConfig):
    """Settings; their defaults are in the card."""

    width: int = Field(ge=1)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    symmetries: bool
    learning_rate: float = Field(gt=0)


class MyMethod(NetworkMethod):
    """Window encoder, pretrained on unlabelled windows."""

    Config = MyConfig
    Module = Training
    name = "my-method"
    title = "My method"

    def pretrain(self, data):
        """Pretrain the encoder on unlabelled windows, or load it from the cache."""
        self.pretrained = pretrain_on_windows(
            lambda seed: Pretraining(data.channels, width=self.config.width, learning_rate=self.config.pretrain_rate),
            data,
            self.context,
            config=self.config,
            settings=("width", *PretrainingConfig.model_fields),
            method=self.name,
            version=1,
        )

    def create(self, data):
        """Start from the pretrained encoder."""
        super().create(data)
        self.module.network.encoder.load_state_dict(self.pretrained.network.encoder.state_dict())
