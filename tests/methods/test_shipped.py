"""All shipped methods without weights on a small scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.method_helpers import SHIPPED, fitted, make, small_data

from mmrs_bench.errors import DataError

ALL_PIXELS = np.arange(36 * 40)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.slow
def test_predictions_are_better_than_chance_and_the_same_after_loading(name: str, tmp_path: Path) -> None:
    data = small_data(5)
    method = fitted(name, tmp_path / "work", data, learns=True)
    prediction = method.predict(data, ALL_PIXELS)
    assert (prediction.dtype, prediction.shape) == (np.int64, ALL_PIXELS.shape)
    accuracy = (prediction[data.query] == data.query_targets).mean()
    assert accuracy > (0.5 if name != "majority" else 0.2)

    method.save(tmp_path / "saved")
    loaded = make(name, tmp_path / "other")
    loaded.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.predict(data, ALL_PIXELS), prediction)
    assert loaded.parameter_counts() == method.parameter_counts()


@pytest.mark.parametrize("name", SHIPPED)
def test_loading_from_an_empty_folder_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fit and save"):
        make(name, tmp_path).load(tmp_path)
