"""Progress of the prediction of classical methods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.method_helpers import fitted, small_data

from mmrs_bench.methods.classical import method as method_file


@pytest.mark.parametrize("name", ["nearest-prototype", "svm", "rf-spatial", "svm-emp"])
def test_a_large_prediction_is_reported_in_parts_that_do_not_change_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, reports = small_data(), []
    method = fitted(name, tmp_path, data, progress=lambda *report: reports.append(report))
    pixels = np.arange(data.scene.labels.size)
    whole = method.predict(data, pixels)
    reports.clear()
    monkeypatch.setattr(method_file, "CLASSIFIED", 100)
    np.testing.assert_array_equal(method.predict(data, pixels), whole)
    shares = [share for stage, share in reports if stage == "prediction"]
    assert len(shares) >= pixels.size / 100
    assert shares == sorted(set(shares))
    assert shares[-1] == 1.0
