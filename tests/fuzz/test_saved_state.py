"""Damaged files of fitted methods and checkpoints: the error of the reader, or the state that was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.method_helpers import fitted, make, small_data
from helpers.mutations import check_message, mutated_bytes
from hypothesis import strategies as st

from mmrs_bench.errors import BenchError, ConfigError, DataError
from mmrs_bench.methods.toolkit.checkpoints import usable_checkpoint

Fuzz = Any


@pytest.mark.parametrize("name", ["majority", "nearest-prototype", "svm", "cnn"])
def test_saved_methods(name: str, fuzz: Fuzz, tmp_path: Path) -> None:
    data = small_data()
    folder = tmp_path / "saved"
    folder.mkdir()
    method = fitted(name, tmp_path / "fit", data)
    method.save(folder)
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    expected = method.predict(data, data.query[:200])
    state = {key: tensor.clone() for key, tensor in method.module.state_dict().items()} if name == "cnn" else {}

    def check(change: tuple[str, bytes]) -> None:
        for file, content in {**files, change[0]: change[1]}.items():
            (folder / file).write_bytes(content)
        other: Any = make(name, tmp_path / "load")
        try:
            other.load(folder)
        except (ConfigError, DataError) as error:
            check_message(error, folder.name)
            return
        if name == "cnn":
            found = other.module.state_dict()
            assert all(torch.equal(found[key], tensor) for key, tensor in state.items())
        else:
            assert np.array_equal(other.predict(data, data.query[:200]), expected)

    fuzz(
        check, st.sampled_from(sorted(files)).flatmap(lambda file: st.tuples(st.just(file), mutated_bytes(files[file])))
    )


def test_checkpoints(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    names = ("optimizer_states", "lr_schedulers", "callbacks", "loops", "epoch", "global_step")
    torch.save({"state_dict": {"w": torch.arange(6.0)}, **dict.fromkeys(names, 0)}, path)

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            found = usable_checkpoint(path)
        except BenchError as error:  # pragma: no cover
            raise AssertionError("a damaged checkpoint is set aside") from error
        assert (found is None) == (not path.exists())

    fuzz(check, mutated_bytes(path.read_bytes()))
