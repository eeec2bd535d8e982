"""Template of a method without a network: majority of the nearest support pixels."""

import numpy as np
from pydantic import Field
from sklearn.neighbors import KNeighborsClassifier

from mmrs_bench.methods.base import Method, MethodConfig


class MyPlainConfig(MethodConfig):
    """Settings; their defaults are in the card."""

    neighbours: int = Field(ge=1)


class MyPlainMethod(Method):
    """Nearest support pixels."""

    Config = MyPlainConfig

    def fit(self, data):
        """Keep features (n, f) and targets (n,) of the support pixels."""
        self.features, self.targets = data.features(data.support), data.support_targets

    def predict(self, data, pixels):
        """Targets (n,) int64 of pixels (n,)."""
        if pixels.size == 0:
            return pixels
        return self._classifier().predict(data.features(pixels))

    def _classifier(self):
        return KNeighborsClassifier(self.config.neighbours).fit(self.features, self.targets)

    def save(self, folder):
        """Write data without code."""
        np.savez(folder / "support.npz", features=self.features, targets=self.targets)

    def load(self, folder):
        """Read what `save` wrote."""
        with np.load(folder / "support.npz", allow_pickle=False) as arrays:
            self.features, self.targets = arrays["features"], arrays["targets"]
