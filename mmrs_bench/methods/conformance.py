"""What every method must hold to, tried out on a tiny scene in seconds.

`check` runs a method's card under budget ``smoke`` and reports one finding per promise of
`mmrs_bench.methods.base.Method`. It needs no data and no GPU.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mmrs_bench.config import BudgetName, DataConfig, MethodSpec
from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.base import Method, RunContext, method_class
from mmrs_bench.methods.catalogue import resolve_config
from mmrs_bench.randomness import numpy_generator
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.scene import IntArray, Scene
from mmrs_bench.scenes.splits.support import official_pixels

BUDGET: BudgetName = "smoke"
HEIGHT, WIDTH, CLASSES, SHOTS, WINDOW = 20, 22, 3, 2, 11
#: One to three modalities, odd and even channel counts.
MODALITIES: tuple[dict[str, int], ...] = ({"hsi": 7}, {"hsi": 5, "lidar": 1}, {"hsi": 6, "sar": 3, "dsm": 1})
#: Files that hold data and no code.
DATA_FILES = {".npz", ".npy", ".json", ".safetensors", ".txt", ".csv", ".yaml"}


class Finding(NamedTuple):
    """The outcome of one check: ``fault`` is empty where the method holds to it."""

    check: str
    fault: str


def check(card: MethodSpec) -> list[Finding]:
    """Try everything that a method promises.

    Args:
        card: The method's card.

    Returns:
        One finding per check. Checks that need a fitted method are left out if the method does not get that far;
        why is then the fault of ``learns from 1, 2 and 3 modalities``.
    """
    with tempfile.TemporaryDirectory() as folder:
        trial = _Trial(card, Path(folder))
        findings = [
            _finding("the card names every setting, and valid ones", trial.settings),
            _finding("an unknown setting is refused", trial.unknown_setting),
            _finding("learns from 1, 2 and 3 modalities", trial.modalities),
        ]
        if any(finding.fault for finding in findings):
            return findings
        findings += [
            _finding("one whole target per pixel", trial.targets),
            _finding("predicting again changes nothing", trial.predict_again),
            _finding("a prediction does not depend on the other pixels asked for", trial.other_pixels),
            _finding("fitting again changes nothing", trial.fit_again),
            _finding("labels of query pixels change nothing", trial.label_budget),
            _finding("saved and loaded it predicts the same", trial.save_and_load),
            _finding("the process's random state is left alone", trial.random_state),
            _finding("progress is a share between 0 and 1", trial.progress),
            _finding("trainable parameters are some of all parameters", trial.parameters),
        ]
        return findings


def _finding(title: str, run: Callable[[], str]) -> Finding:
    try:
        return Finding(title, run())
    except Exception as error:  # noqa: BLE001 - whatever the method under test raises is the finding
        return Finding(title, f"raised {type(error).__name__}: {error}")


def tiny_scene(modalities: Mapping[str, int]) -> Scene:
    """A scene of `HEIGHT` x `WIDTH` pixels with three classes in blocks, mostly labelled.

    Its official split has exactly `SHOTS` train pixels per class, so that the support set does not hang on how the
    other pixels are labelled.

    Args:
        modalities: Channels by modality.
    """
    rng = numpy_generator("conformance", *modalities)
    rows, columns = np.divmod(np.arange(HEIGHT * WIDTH), WIDTH)
    labels = (rows // 5 + columns // 6) % CLASSES + 1
    labels[rng.random(labels.size) < 0.1] = 0
    images = {}
    for name, channels in modalities.items():
        means = rng.normal(size=(CLASSES + 1, channels))
        values = means[labels] + 0.5 * rng.normal(size=(labels.size, channels))
        images[name] = values.astype(np.float32).reshape(HEIGHT, WIDTH, channels)
    train = np.concatenate([rng.permutation(np.flatnonzero(labels == k))[:SHOTS] for k in range(1, CLASSES + 1)])
    test = np.setdiff1d(np.flatnonzero(labels), train)
    truth = labels.reshape(HEIGHT, WIDTH).astype(np.int64)
    return Scene(_manifest(modalities), images, truth, (np.sort(train), test))


def _manifest(modalities: Mapping[str, int]) -> Manifest:
    return Manifest.model_validate(
        {
            "schema": 1,
            "id": "conformance",
            "revision": "r1",
            "title": "Scene of the conformance tests",
            "height": HEIGHT,
            "width": WIDTH,
            "modalities": [
                {"name": name, "sensor": "none", "bands": bands, **({"rgb_bands": [2, 1, 0]} if name == "hsi" else {})}
                for name, bands in modalities.items()
            ],
            "classes": [{"id": k, "name": f"class {k}", "color": f"#{k:06x}"} for k in range(1, CLASSES + 1)],
            "generator": {"layout": "conformance"},
            "terms": "none",
            "citation": "none",
        }
    )


def scramble_query(scene: Scene, attempt: int) -> Scene:
    """The scene with the labels of its test pixels permuted; train pixels keep theirs."""
    _, test = official_pixels(scene)
    labels = scene.labels.copy()
    labels[test] = numpy_generator("scramble", attempt).permutation(labels[test])
    return replace(scene, ground_truth=labels.reshape(scene.ground_truth.shape))


class _Trial:
    """One method under test; every check returns its fault, or nothing."""

    def __init__(self, card: MethodSpec, folder: Path) -> None:
        self._card, self._folder = card, folder
        self._fits = 0
        self._reported: list[float] = []

    # Helpers

    def _build(self, **changes: Any) -> Method:
        self._fits += 1
        work_dir = self._folder / str(self._fits)
        work_dir.mkdir()
        context = RunContext(
            seed=0, draw=0, work_dir=work_dir, progress=lambda stage, done: self._reported.append(done)
        )
        config = {**resolve_config(self._card, "default", BUDGET), **changes}
        return method_class(self._card)(config, context)

    def _data(self, scene: Scene) -> SceneDataModule:
        config = DataConfig(
            split="official-v1", shots=SHOTS, window=WINDOW, selection=self._card.selections[0], normalisation="zscore"
        )
        return SceneDataModule(scene, config)

    def _fit(self, scene: Scene) -> tuple[Method, SceneDataModule]:
        method, data = self._build(), self._data(scene)
        method.pretrain(data)
        method.fit(data)
        return method, data

    @cached_property
    def _scene(self) -> Scene:
        return tiny_scene(MODALITIES[1])

    @cached_property
    def _fitted(self) -> tuple[Method, SceneDataModule]:
        return self._fit(self._scene)

    @cached_property
    def _fitted_to_most(self) -> tuple[Method, SceneDataModule]:
        return self._fit(tiny_scene(MODALITIES[2]))

    @cached_property
    def _prediction(self) -> IntArray:
        method, data = self._fitted
        return method.predict(data, self._pixels)

    @property
    def _pixels(self) -> IntArray:
        return np.arange(HEIGHT * WIDTH)

    # Checks

    def settings(self) -> str:
        known = method_class(self._card).Config.model_fields
        missing = sorted(set(known) - set(self._card.config))
        if missing:
            return f"the card does not give {', '.join(missing)}; its config lists every setting with its default"
        for variant in self._card.variants:
            for budget in ("smoke", "quick", "paper"):
                method_class(self._card).Config.model_validate(resolve_config(self._card, variant, budget))
        return ""

    def unknown_setting(self) -> str:
        try:
            self._build(no_such_setting=1)
        except ConfigError:
            return ""
        return "a setting that does not exist was accepted; set extra='forbid' as MethodConfig does"

    def modalities(self) -> str:
        fitted = [self._fitted, self._fitted_to_most]
        with suppress(ConfigError):  # what fuses modalities may refuse a single one, in a line for its user
            fitted.insert(0, self._fit(tiny_scene(MODALITIES[0])))
        for method, data in fitted:
            fault = _target_fault(method.predict(data, data.query), data.query)
            if fault:
                return f"with {data.channels}: {fault}"
        return ""

    def targets(self) -> str:
        few = self._pixels[:0]
        method, data = self._fitted
        return _target_fault(self._prediction, self._pixels) or _target_fault(method.predict(data, few), few)

    def predict_again(self) -> str:
        method, data = self._fitted
        return _difference(self._prediction, method.predict(data, self._pixels))

    def other_pixels(self) -> str:
        method, data = self._fitted
        some = self._pixels[::-7]
        return _difference(self._prediction[some], method.predict(data, some))

    def fit_again(self) -> str:
        method, data = self._fit(self._scene)
        return _difference(self._prediction, method.predict(data, self._pixels))

    def label_budget(self) -> str:
        support = self._data(self._scene).support
        # The order of the support within a class hangs on all labels, so scramble until it comes out the same.
        scenes = (scramble_query(self._scene, attempt) for attempt in range(1000))
        scrambled = next(scene for scene in scenes if np.array_equal(self._data(scene).support, support))
        method, data = self._fit(scrambled)
        fault = _difference(self._prediction, method.predict(data, self._pixels))
        return f"{fault} after the labels of the query pixels were permuted: the method has read them" if fault else ""

    def save_and_load(self) -> str:
        # Three modalities, not in the order of the alphabet: the order is what is lost most easily.
        method, data = self._fitted_to_most
        folder = self._folder / "saved"
        folder.mkdir()
        method.save(folder)
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix not in DATA_FILES:
                return f"{path.name} may hold code; save {', '.join(sorted(DATA_FILES))}"
            if path.suffix == ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    _ = [arrays[name] for name in arrays.files]
        loaded = self._build()
        loaded.load(folder)
        return _difference(method.predict(data, self._pixels), loaded.predict(data, self._pixels))

    def random_state(self) -> str:
        # Moved on first: a method that seeds alike in every fit has left its state behind already.
        random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002
        before = _global_states()
        method, data = self._fit(self._scene)
        method.predict(data, data.query)
        changed = [name for name, state in _global_states().items() if state != before[name]]
        return f"{', '.join(changed)} changed; use mmrs_bench.randomness" if changed else ""

    def progress(self) -> str:
        outside = [done for done in self._reported if not 0 <= done <= 1]
        return f"{outside[0]} was reported" if outside else ""

    def parameters(self) -> str:
        counts = self._fitted[0].parameter_counts()
        return "" if 0 <= counts.trainable <= counts.total else f"{counts}"


def _target_fault(prediction: Any, pixels: IntArray) -> str:
    if not isinstance(prediction, np.ndarray) or prediction.dtype != np.int64 or prediction.shape != pixels.shape:
        found = f"{prediction.dtype} {prediction.shape}" if isinstance(prediction, np.ndarray) else type(prediction)
        return f"predict returned {found}, expected an int64 array {pixels.shape}"
    outside = prediction[(prediction < 0) | (prediction >= CLASSES)]
    return f"target {outside[0]} is outside 0..{CLASSES - 1}" if outside.size else ""


def _difference(one: IntArray, other: IntArray) -> str:
    different = np.count_nonzero(one != other)
    return f"{different} of {one.size} predictions differ" if different else ""


def _global_states() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - the global state is what is watched
    return {
        "random": random.getstate(),
        "numpy.random": (numpy_state["state"]["key"].tobytes(), numpy_state["state"]["pos"]),
        "torch": torch.random.get_rng_state().numpy().tobytes(),
    }
