"""Linear probes: a logistic regression on features of a frozen network.

Letters: n windows, d features, k classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mmrs_bench.methods.base import MethodConfig, RunContext
from mmrs_bench.methods.toolkit.classification import ClassificationModule
from mmrs_bench.methods.toolkit.network_method import NetworkMethod
from mmrs_bench.methods.toolkit.tuning import best_by_cross_validation
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray

#: Largest number of steps of the logistic regression.
MOST_STEPS = 10_000


class ProbeConfig(MethodConfig):
    """Settings of a linear probe.

    Attributes:
        folds: Largest number of folds of the cross-validation; never more than shots.
        costs: Values of C, the inverse strength of the L2 penalty, to choose from, in order of preference.
    """

    folds: int = Field(ge=2)
    costs: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)


class ProbeModule(ClassificationModule, ABC):
    """A linear layer, ``network``, on `frozen_features` of a frozen network, which subclasses provide.

    The runner fits it with `use_probe`. With a trainer of your own, it learns by cross-entropy (Adam).
    """

    learning_rate = 0.01

    @abstractmethod
    def frozen_features(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Features (n, d) of windows (n, c, w, w) by modality, without gradient."""

    def features_of(self, batch: Mapping[str, Any]) -> Tensor:
        """Features (n, d) of a batch with ``windows``."""
        return self.frozen_features(self.windows_of(batch))

    def forward(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Logits (n, k) of windows (n, c, w, w) by modality."""
        return self._head(self.frozen_features(windows))

    def logits(self, batch: Mapping[str, Any]) -> Tensor:
        """Logits (n, k) of a batch with ``windows``."""
        return self._head(self.features_of(batch))

    def _head(self, features: Tensor) -> Tensor:
        weight: Any = self.network.weight
        return self.network(features.to(weight.dtype))  # type: ignore[no-any-return]

    def use_probe(self, weight: Tensor, bias: Tensor) -> None:
        """Copy a fitted weight (k, d) and bias (k,)."""
        self.network.load_state_dict({"weight": weight, "bias": bias})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam of the linear layer."""
        return torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)


class LinearProbe(NetworkMethod):
    """Base of the methods that fit a `ProbeModule`; a subclass also derives from the method that pretrains."""

    def fit(self, data: SceneDataModule) -> None:
        """See `mmrs_bench.methods.base.Method.fit`."""
        data = self.inputs(data)
        self.create(data)
        self.module.eval()
        loader, _ = self.prediction_inputs(data, data.support)
        with torch.no_grad():
            features = torch.cat([self.module.features_of(batch).float().cpu() for batch in loader])
        options = {"folds": self.config.folds, "costs": self.config.costs, "context": self.context}
        self.module.use_probe(*fitted_probe(features.double().numpy(), data.support_targets, **options))
        self.context.progress("training", 1.0)


def fitted_probe(
    features: NDArray[Any], targets: IntArray, *, folds: int, costs: Sequence[float], context: RunContext
) -> tuple[Tensor, Tensor]:
    """Weight (k, d) and bias (k,) of a logistic regression on standardised features (n, d), in float32.

    Args:
        features: Of the support.
        targets: (n,) in 0..k-1; each class occurs.
        folds: See `ProbeConfig`.
        costs: See `ProbeConfig`; C is chosen by cross-validation.
        context: Receives the progress.
    """

    def fit(cost: float, x: NDArray[Any], y: IntArray) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=cost, max_iter=MOST_STEPS)).fit(x, y)

    cost = best_by_cross_validation(costs, fit, features, targets, folds=folds, context=context)
    scaler, regression = (step for _, step in fit(cost, features, targets).steps)
    weight = torch.from_numpy(regression.coef_ / scaler.scale_)
    bias = torch.from_numpy(regression.intercept_) - weight @ torch.from_numpy(scaler.mean_)
    if len(weight) == 1:  # of two classes, scikit-learn has the logit of the second one
        weight, bias = (torch.cat([torch.zeros_like(part), part]) for part in (weight, bias))
    return weight.float(), bias.float()
