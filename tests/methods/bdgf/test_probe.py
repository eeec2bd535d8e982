"""The linear probe of BDGF: its pretraining is that of bdgf, and its layer is scikit-learn's logistic regression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.method_helpers import fitted, small_data
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.bdgf.config import DenoisingConfig
from mmrs_bench.methods.bdgf.probe import means
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.toolkit.probes.linear import fitted_probe
from mmrs_bench.paths import cache_root
from mmrs_bench.randomness import numpy_generator


@pytest.mark.parametrize("budget", ["smoke", "quick", "paper"])
def test_the_settings_of_the_pretraining_are_those_of_bdgf(budget: str) -> None:
    ours, theirs = (resolve_config(method_card(name), "default", budget) for name in ("bdgf-probe", "bdgf"))  # type: ignore[arg-type]
    for name in (*DenoisingConfig.model_fields, "components", "timesteps"):
        assert ours[name] == theirs[name], name


def test_bdgf_and_its_probe_share_one_pretraining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "cache"))
    data = small_data()
    probe = fitted("bdgf-probe", tmp_path, data)
    fitted("bdgf", tmp_path, data, epochs=1)
    assert len(list((cache_root() / "pretraining").glob("*.safetensors"))) == 1
    assert (probe.predict(data, data.query) == data.query_targets).mean() > 0.5


@pytest.mark.parametrize("classes", [2, 4])
def test_the_layer_equals_scikit_learn(classes: int, tmp_path: Path) -> None:
    targets = np.repeat(np.arange(classes), 5)
    features = numpy_generator("probe").normal(size=(len(targets), 6)) * 3 + targets[:, None] + 7
    context = RunContext(0, 0, tmp_path)
    weight, bias = fitted_probe(features, targets, folds=5, costs=(0.5,), context=context)
    scaler = StandardScaler().fit(features)
    expected = LogisticRegression(C=0.5).fit(scaler.transform(features), targets)
    found = (torch.from_numpy(features).float() @ weight.T + bias).softmax(dim=1)
    np.testing.assert_allclose(found, expected.predict_proba(scaler.transform(features)), atol=1e-3)


def test_means_equal_slow_loops() -> None:
    level = torch.from_numpy(numpy_generator("level").normal(size=(2, 3, 7, 7)))
    found = means([level])
    for n in range(2):
        for place, inner in enumerate((slice(2, 5), slice(1, 6), slice(0, 7))):
            for d in range(3):
                assert float(found[n, 3 * place + d]) == pytest.approx(
                    float(level[n, d, inner, inner].mean()), abs=1e-6
                )
