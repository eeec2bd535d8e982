"""Conformance tests: whether a method keeps the promises of `mmrs_bench.methods.base.Method`.

They run a method's card with budget ``smoke`` on a tiny scene. They need no data and no GPU.
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
from mmrs_bench.methods.setting_files import usable_config
from mmrs_bench.randomness import numpy_generator
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.scene import IntArray, Scene
from mmrs_bench.scenes.splits.support import official_pixels

BUDGET: BudgetName = "smoke"
HEIGHT, WIDTH, SHOTS, WINDOW = 20, 22, 2, 11
#: Names that a file of class vectors probably contains.
CLASS_NAMES = ("Grass", "Trees", "Road")
CLASSES = len(CLASS_NAMES)
#: Channels by modality of the scenes: one to three modalities, odd and even numbers of channels.
MODALITIES: tuple[dict[str, int], ...] = ({"hsi": 7}, {"hsi": 5, "lidar": 1}, {"hsi": 6, "sar": 3, "dsm": 1})
PIXELS = np.arange(HEIGHT * WIDTH)
#: Suffixes of files that hold data and no code.
DATA_FILES = {".npz", ".npy", ".json", ".safetensors", ".txt", ".csv", ".yaml"}


class Finding(NamedTuple):
    """The result of one check; ``fault`` is empty if the method passed."""

    check: str
    fault: str


def check(card: MethodSpec, path: str = "", variant: str = "default") -> list[Finding]:
    """Run all checks of a method.

    Args:
        card: The method's card.
        path: Path of the card, where relative paths in it start; empty for shipped and installed methods.
        variant: The variant that is checked.

    Returns:
        One finding per check. If one of the first three checks fails, the others are left out.

    Raises:
        ConfigError: If the card has no such variant.
    """
    resolve_config(card, variant, BUDGET)
    with tempfile.TemporaryDirectory() as folder:
        trial = _Trial(card, path, variant, Path(folder))
        findings = [
            _finding("the card lists every setting with a valid value", trial.settings),
            _finding("unknown settings are refused", trial.unknown_setting),
            _finding("1, 2 and 3 modalities can be fitted", trial.modalities),
        ]
        if any(finding.fault for finding in findings):
            return findings
        findings += [
            _finding("every pixel gets one integer target", trial.targets),
            _finding("repeated predictions are equal", trial.predict_again),
            _finding("a prediction does not depend on the other pixels", trial.other_pixels),
            _finding("repeated fits are equal", trial.fit_again),
            _finding("query labels are not used", trial.label_budget),
            _finding("confidence is a probability of the same targets", trial.confidence),
            _finding("a missing modality does not change predictions", trial.missing_modality),
            _finding("a saved and loaded method predicts the same", trial.save_and_load),
            _finding("the random state of the process is unchanged", trial.random_state),
            _finding("progress is between 0 and 1", trial.progress),
            _finding("trainable parameters are at most all parameters", trial.parameters),
        ]
        return findings


def _finding(title: str, run: Callable[[], str]) -> Finding:
    try:
        return Finding(title, run())
    except Exception as error:  # noqa: BLE001 - any exception of the tested method is a finding
        return Finding(title, f"raised {type(error).__name__}: {error}")


def tiny_scene(modalities: Mapping[str, int]) -> Scene:
    """A scene of `HEIGHT` x `WIDTH` pixels with three classes in blocks, mostly labelled.

    Its official split has exactly `SHOTS` train pixels per class, so that the support set does not depend on the
    labels of the other pixels.

    Args:
        modalities: Channels by modality.
    """
    rng = numpy_generator("conformance", *modalities)
    rows, columns = np.divmod(PIXELS, WIDTH)
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
    colours = {"hsi": {"rgb_bands": [2, 1, 0]}}
    return Manifest.model_validate(
        {
            "schema": 1,
            "id": "conformance",
            "revision": "r1",
            "title": "Scene of the conformance tests",
            "height": HEIGHT,
            "width": WIDTH,
            "modalities": [
                {"name": name, "sensor": "none", "bands": bands, **colours.get(name, {})}
                for name, bands in modalities.items()
            ],
            "classes": [{"id": k, "name": name, "color": f"#{k:06x}"} for k, name in enumerate(CLASS_NAMES, 1)],
            "generator": {"layout": "conformance"},
            "terms": "none",
            "citation": "none",
        }
    )


def scramble_query(scene: Scene, attempt: int) -> Scene:
    """The scene with permuted labels of its test pixels."""
    _, test = official_pixels(scene)
    labels = scene.labels.copy()
    labels[test] = numpy_generator("scramble", attempt).permutation(labels[test])
    return replace(scene, ground_truth=labels.reshape(scene.ground_truth.shape))


class _Trial:
    """The checks of one method; each returns the fault, or an empty text."""

    def __init__(self, card: MethodSpec, path: str, variant: str, folder: Path) -> None:
        self._card, self._path, self._variant, self._folder = card, path, variant, folder
        self._methods = 0
        self._progress: list[float] = []

    # Helpers

    def _config(self, variant: str, budget: BudgetName) -> dict[str, Any]:
        return usable_config(resolve_config(self._card, variant, budget), self._path or self._card.name)

    def _build(self, **changes: Any) -> Method:
        self._methods += 1
        work_dir = self._folder / str(self._methods)
        work_dir.mkdir()
        context = RunContext(0, 0, work_dir, progress=lambda stage, share: self._progress.append(share))
        return method_class(self._card)({**self._config(self._variant, BUDGET), **changes}, context)

    def _data(self, scene: Scene) -> SceneDataModule:
        selection = self._card.selections[0]
        return SceneDataModule(scene, DataConfig(split="official-v1", shots=SHOTS, window=WINDOW, selection=selection))

    def _fit(self, scene: Scene) -> tuple[Method, SceneDataModule]:
        method, data = self._build(), self._data(scene)
        method.pretrain(data)
        method.fit(data)
        return method, data

    def _difference(self, method: Method, data: SceneDataModule, *, pixels: IntArray = PIXELS) -> str:
        """How many predictions of a method differ from those of the first fit."""
        return _difference(self._prediction[pixels], method.predict(data, pixels))

    @cached_property
    def _scene(self) -> Scene:
        return tiny_scene(MODALITIES[1])

    @cached_property
    def _fitted(self) -> tuple[Method, SceneDataModule]:
        return self._fit(self._scene)

    @cached_property
    def _fitted_to_three(self) -> tuple[Method, SceneDataModule]:
        return self._fit(tiny_scene(MODALITIES[2]))

    @cached_property
    def _prediction(self) -> IntArray:
        method, data = self._fitted
        return method.predict(data, PIXELS)

    # Checks

    def settings(self) -> str:
        config = method_class(self._card).Config
        missing = sorted(config.model_fields.keys() - self._card.config.keys())
        if missing:
            return f"the card does not list {', '.join(missing)}; its config contains every setting"
        for variant in self._card.variants:
            for budget in ("smoke", "quick", "paper"):
                config.model_validate(self._config(variant, budget))
        return ""

    def unknown_setting(self) -> str:
        try:
            self._build(no_such_setting=1)
        except ConfigError:
            return ""
        return "an unknown setting was accepted; set extra='forbid' as MethodConfig does"

    def modalities(self) -> str:
        fitted = [self._fitted, self._fitted_to_three]
        with suppress(ConfigError):  # a method may require two modalities
            fitted.insert(0, self._fit(tiny_scene(MODALITIES[0])))
        for method, data in fitted:
            fault = _target_fault(method.predict(data, data.query), data.query)
            if fault:
                return f"with {data.channels}: {fault}"
        return ""

    def targets(self) -> str:
        method, data = self._fitted
        none = PIXELS[:0]
        return _target_fault(self._prediction, PIXELS) or _target_fault(method.predict(data, none), none)

    def predict_again(self) -> str:
        return self._difference(*self._fitted)

    def other_pixels(self) -> str:
        return self._difference(*self._fitted, pixels=PIXELS[::-7])

    def fit_again(self) -> str:
        return self._difference(*self._fit(self._scene))

    def confidence(self) -> str:
        method, data = self._fitted
        targets, confidence = method.predict_with_confidence(data, PIXELS)
        if fault := _difference(self._prediction, targets):
            return f"{fault} from those of predict"
        if confidence is None:
            return ""
        if confidence.dtype != np.float32 or confidence.shape != PIXELS.shape:
            return f"the confidence is {confidence.dtype} {confidence.shape}, expected float32 {PIXELS.shape}"
        if not (np.isfinite(confidence).all() and confidence.min() > 0 and confidence.max() <= 1.0001):
            return f"the confidence spans {confidence.min()}..{confidence.max()}, expected more than 0 and at most 1"
        return ""

    def label_budget(self) -> str:
        support = self._data(self._scene).support
        # The order of the support set within a class depends on all labels, so find a permutation that keeps it.
        scenes = (scramble_query(self._scene, attempt) for attempt in range(1000))
        scrambled = next(scene for scene in scenes if np.array_equal(self._data(scene).support, support))
        fault = self._difference(*self._fit(scrambled))
        return f"{fault} after the labels of the query pixels were permuted; the method uses them" if fault else ""

    def missing_modality(self) -> str:
        method, data = self._fitted
        for name in data.modalities:
            images = dict(self._scene.images)
            order = numpy_generator("missing", name).permutation(PIXELS)
            images[name] = images[name].reshape(PIXELS.size, -1)[order].reshape(images[name].shape)
            other = self._data(replace(self._scene, images=images))
            targets = method.predict_without(data, PIXELS, (name,))
            fault = _target_fault(targets, PIXELS) or _difference(
                targets, method.predict_without(other, PIXELS, (name,))
            )
            if fault:
                return f"without {name}: {fault}" + ("; its values were read" if "differ" in fault else "")
        return self._difference(method, data)

    def save_and_load(self) -> str:
        # The three modalities are not in alphabetical order, so a method that loses their order fails.
        method, data = self._fitted_to_three
        folder = self._folder / "saved"
        folder.mkdir()
        method.save(folder)
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix not in DATA_FILES:
                return f"{path.name} may contain code; save {', '.join(sorted(DATA_FILES))}"
            if path.suffix == ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    _ = [arrays[name] for name in arrays.files]
        loaded = self._build()
        loaded.load(folder)
        return _difference(method.predict(data, PIXELS), loaded.predict(data, PIXELS))

    def random_state(self) -> str:
        # Advance the state first: a method that always sets the same seed has set it in the earlier fits.
        random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002
        before = _global_states()
        method, data = self._fit(self._scene)
        method.predict(data, data.query)
        changed = [name for name, state in _global_states().items() if state != before[name]]
        return f"{', '.join(changed)} changed; use mmrs_bench.randomness" if changed else ""

    def progress(self) -> str:
        outside = [share for share in self._progress if not 0 <= share <= 1]
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
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - reads the global state
    return {
        "random": random.getstate(),
        "numpy.random": (numpy_state["state"]["key"].tobytes(), numpy_state["state"]["pos"]),
        "torch": torch.random.get_rng_state().numpy().tobytes(),
    }
