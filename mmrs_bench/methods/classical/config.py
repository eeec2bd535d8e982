"""Settings that choose the features of a pixel."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.base import MethodConfig
from mmrs_bench.methods.classical.features import (
    FeatureExtractor,
    NeighbourhoodFeatures,
    StackFeatures,
    extended_profile,
)
from mmrs_bench.scenes.datamodule import SceneDataModule


class FeatureInput(MethodConfig):
    """Base of the features of a pixel."""

    def bound_to_scene(self) -> str:
        """See `mmrs_bench.methods.base.Method.bound_to_scene`."""
        return ""


class PixelInput(FeatureInput):
    """The normalised values of the pixel in all modalities."""

    kind: Literal["pixel"]

    def extractor(self, data: SceneDataModule) -> FeatureExtractor:
        """The feature extractor for a scene."""
        return StackFeatures(list(data.images.values()))


class NeighbourhoodInput(FeatureInput):
    """The pixel, and mean and standard deviation of its neighbourhoods, in all channels of all modalities.

    Attributes:
        sizes: Sides of the neighbourhoods in pixels.
    """

    kind: Literal["neighbourhood"]
    sizes: tuple[int, ...]

    @field_validator("sizes")
    @classmethod
    def _odd(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if not sizes or any(size < 3 or size % 2 == 0 for size in sizes):
            raise ValueError("neighbourhood sizes must be odd and at least 3")
        return sizes

    def extractor(self, data: SceneDataModule) -> FeatureExtractor:
        """The feature extractor for a scene.

        Raises:
            ConfigError: If a neighbourhood is larger than the protocol's window.
        """
        if max(self.sizes) > data.config.window:
            raise ConfigError(
                f"neighbourhood {max(self.sizes)} is larger than the protocol's window {data.config.window}; use a "
                f"window of at least {max(self.sizes)}, or smaller neighbourhoods in features.sizes"
            )
        return NeighbourhoodFeatures(list(data.images.values()), self.sizes)


class ProfileInput(FeatureInput):
    """An extended morphological profile, see `mmrs_bench.methods.classical.features.extended_profile`."""

    kind: Literal["profile"]
    components: int = Field(ge=1)
    variance: float = Field(gt=0, le=1)
    radii: tuple[Annotated[int, Field(ge=1)], ...]

    def bound_to_scene(self) -> str:
        """See `mmrs_bench.methods.base.Method.bound_to_scene`."""
        return "its features are profiles of the principal components of one scene"

    def extractor(self, data: SceneDataModule) -> FeatureExtractor:
        """The feature extractor for a scene."""
        images, missing = dict(data.images), "hsi" in data.absent
        if missing:  # the components are those of the training
            images["hsi"] = data.complete.images["hsi"]
        settings = (self.components, self.variance, self.radii)
        return StackFeatures([extended_profile(images, data.normalisation_pixels, *settings, without_hsi=missing)])


Input = Annotated[PixelInput | NeighbourhoodInput | ProfileInput, Field(discriminator="kind")]
