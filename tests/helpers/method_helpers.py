"""A small scene and shipped methods for the tests of methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from helpers.tiny import striped_map, tiny_scene, with_colours

from mmrs_bench.config import DataConfig
from mmrs_bench.methods.base import Method, MethodConfig, RunContext, method_class
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.scenes.datamodule import SceneDataModule

SHIPPED = (
    "majority",
    "nearest-prototype",
    "knn",
    "knn-spatial",
    "svm",
    "svm-spatial",
    "svm-emp",
    "rf",
    "rf-spatial",
    "label-propagation",
    "cnn",
    "clip",
    "diffclip",
    "diffclip-probe",
    "mae",
    "bdgf",
    "bdgf-cnn",
    "bdgf-mamba",
    "bdgf-transformer",
    "bdgf-probe",
    "msfmamba",
    "mft",
    "exvit",
    "endnet",
    "coupled-cnn",
    "s2enet",
    "hct",
    "lds2ae",
    "mivit",
    "unidiff-tiny",
    "geodiffnet-f-tiny",
)


def small_data(shots: int = 2, **settings: Any) -> SceneDataModule:
    """A noisy scene of 36 x 40 pixels with 4 classes, whose manifest names the bands of red, green and blue."""
    scene = tiny_scene(striped_map(36, 40), bands={"hsi": 5, "lidar": 2})
    return SceneDataModule(with_colours(scene), DataConfig(shots=shots, **settings))


@contextmanager
def refused(error: type[Exception], match: str) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Expect an error whose message is one line."""
    with pytest.raises(error, match=match) as caught:
        yield caught
    assert "\n" not in str(caught.value)


def other_value(config: MethodConfig, name: str, special: Mapping[str, Any]) -> Any:
    """Another valid value of a setting: that in ``special``, or a multiple or another option of its own."""
    value = getattr(config, name)
    if name in special:
        return special[name]
    if options := get_args(type(config).model_fields[name].annotation):
        return next(option for option in options if option != value)
    if isinstance(value, bool):
        return not value
    return value * 2 if isinstance(value, int) else value / 2 or 0.25


def make(
    name: str,
    folder: Path,
    *,
    draw: int = 0,
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda stage, done: None,
    **changes: Any,
) -> Method:
    """A shipped method with budget ``smoke`` and changed settings."""
    card = method_card(name)
    context = RunContext(seed=seed, draw=draw, work_dir=folder, progress=progress)
    return method_class(card)({**resolve_config(card, "default", "smoke"), **changes}, context)


def few_epochs(name: str) -> dict[str, int]:
    """Epochs of a method's trainings where it does not matter how well it learns."""
    smoke = resolve_config(method_card(name), "default", "smoke")
    return {key: min(value, 2) for key, value in smoke.items() if key.endswith("epochs")}


def fitted(name: str, folder: Path, data: SceneDataModule, *, learns: bool = False, **options: Any) -> Method:
    """`make`, pretrain and fit: with all epochs of the budget ``smoke`` if it has to learn, else with `few_epochs`."""
    method = make(name, folder, **({} if learns else few_epochs(name)) | options)
    method.pretrain(data)
    method.fit(data)
    return method
