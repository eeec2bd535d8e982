"""Data modules: loaders and windows, and their use with a plain Trainer."""

from __future__ import annotations

import mmrs_bench  # noqa: F401 - its torchvision guard comes before lightning

# isort: split
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.scene_loaders import drained, make, symmetries
from helpers.tiny import striped_map, tiny_scene

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.scenes import datamodule, scene_data
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import Scene

# Lightning's own use of torch's pytrees, with torch 2.9 and later.
pytestmark = pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return tiny_scene(striped_map(96, 112), bands={"hsi": 5, "lidar": 2})


@pytest.mark.parametrize("name", ["batch_size", "inference_batch", "windows_per_epoch"])
def test_a_batch_size_of_0_is_an_error(scene: Scene, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 0; use at least 1"):
        SceneDataModule(scene, **{name: 0})


# Loaders


def test_loaders_yield_every_pixel_once(scene: Scene) -> None:
    data, pixels = make(scene, shots=7), np.array([5, 3, 900, 3])
    np.testing.assert_array_equal(drained(data.predict_dataloader()), data.query)
    np.testing.assert_array_equal(drained(data.scene_dataloader()), np.arange(96 * 112))
    np.testing.assert_array_equal(np.sort(drained(data.unlabelled_dataloader())), np.arange(96 * 112))
    np.testing.assert_array_equal(drained(data.pixel_dataloader(pixels)), pixels)
    training = list(data.train_dataloader())
    np.testing.assert_array_equal(np.sort(torch.cat([batch["pixel"] for batch in training])), np.sort(data.support))
    for batch in training:
        np.testing.assert_array_equal(batch["target"], scene.labels[batch["pixel"]] - 1)
    for loader in (data.predict_dataloader(), data.unlabelled_dataloader()):
        assert all("target" not in batch for batch in loader)


def test_the_training_order_depends_on_seed_and_epoch(scene: Scene) -> None:
    def epochs(**change: int) -> list[tuple[int, ...]]:
        loader = make(scene, shots=10, **change).train_dataloader()
        return [tuple(drained(loader)) for _ in range(3)]

    first = epochs()
    assert first == epochs()
    assert len(set(first)) == 3
    assert len({tuple(sorted(epoch)) for epoch in first}) == 1
    assert not set(first) & set(epochs(seed=1))
    addresses = [
        loader().sampler.address for loader in (make(scene).unlabelled_dataloader, make(scene).train_dataloader)
    ]
    assert addresses[0] != addresses[1]


def test_the_unlabelled_order_depends_on_the_seed_and_not_on_the_draw(scene: Scene) -> None:
    def epochs(**change: int) -> list[tuple[int, ...]]:
        loader = make(scene, **change).unlabelled_dataloader()
        return [(*drained(loader), *symmetries(loader)) for _ in range(2)]

    first = epochs()
    assert first == epochs(draw=1) == epochs(shots=7, draw=2)
    assert first[0] != first[1]
    assert not set(first) & set(epochs(seed=1))


def test_shuffled_batches_follow_their_arguments(scene: Scene) -> None:
    data, seen = make(scene, shots=10), []
    options = {"batch_size": 7, "augment": False, "per_epoch": 20}
    loader = data.shuffled_dataloader(("mine",), data.support, data.support_targets, **options)
    for _ in range(12):
        batches = list(loader)
        assert [len(batch["pixel"]) for batch in batches] == [7, 7, 6]
        assert all(set(batch) == {"pixel", "target", "windows"} for batch in batches)
        pixels, targets = (np.concatenate([batch[field] for batch in batches]) for field in ("pixel", "target"))
        np.testing.assert_array_equal(targets, scene.labels[pixels] - 1)
        assert len(np.unique(pixels)) == 20
        seen.append(tuple(pixels))
    assert len(set(seen)) == len(seen)
    np.testing.assert_array_equal(np.unique(seen), np.sort(data.support))  # others in every epoch


@pytest.mark.parametrize("augment", [False, True])
def test_shuffled_batches_default_to_the_settings_of_the_data_module(augment: bool, scene: Scene) -> None:
    data = SceneDataModule(scene, DataConfig(window=5, shots=10), batch_size=16, augment=augment)
    loader = data.shuffled_dataloader(("mine",), data.support)
    assert [len(batch["pixel"]) for batch in loader] == [14, 13, 13]
    assert bool(symmetries(loader)) == bool(symmetries(data.train_dataloader())) == augment
    assert bool(symmetries(data.shuffled_dataloader(("mine",), data.support, augment=not augment))) != augment


@pytest.mark.parametrize("per_epoch", [None, 40, 1000])
def test_an_epoch_has_at_most_all_pixels(per_epoch: int | None, scene: Scene) -> None:
    data = make(scene, shots=10)
    loader = data.shuffled_dataloader(("mine",), data.support, batch_size=16, per_epoch=per_epoch)
    assert len(loader) == 3
    np.testing.assert_array_equal(np.sort(drained(loader)), np.sort(data.support))


def test_a_shuffled_order_depends_on_its_address_and_epoch_only(scene: Scene) -> None:
    pixels = np.arange(50)

    def order(*address: str | int, seed: int = 0, draw: int = 0) -> tuple[int, ...]:
        data = make(scene, seed=seed, draw=draw)
        return tuple(drained(data.shuffled_dataloader(address, pixels)))

    assert order("mine", 1) == order("mine", 1, seed=4, draw=2)
    assert len({order("mine", 1), order("mine", 2), order("other", 1)}) == 3
    counting, set_to_3 = (make(scene).shuffled_dataloader(("mine", 1), pixels) for _ in range(2))
    set_to_3.sampler.set_epoch(3)
    assert [tuple(drained(counting)) for _ in range(4)][3] == tuple(drained(set_to_3))


def test_training_windows_have_the_symmetries_of_the_sampler(scene: Scene) -> None:
    data = make(scene, shots=10)
    loader = data.train_dataloader()
    for batch, selection in zip(loader, data.train_dataloader().sampler, strict=True):
        assert set(batch) == {"pixel", "target", "windows"}
        plain, turned = data.add_windows({"pixel": batch["pixel"]})["windows"]["hsi"], batch["windows"]["hsi"]
        expected = {"pixel": batch["pixel"], "symmetry": selection.symmetry}
        torch.testing.assert_close(turned, data.add_windows(expected)["windows"]["hsi"], rtol=0, atol=0)
        torch.testing.assert_close(turned[..., 2, 2], plain[..., 2, 2], rtol=0, atol=0)
        assert not torch.equal(turned, plain)
    assert set(symmetries(data.unlabelled_dataloader())) == set(range(8))


def test_keywords_are_the_settings_of_the_protocol(scene: Scene) -> None:
    settings = {
        "shots": 5,
        "draw": 3,
        "split": "block-v1",
        "window": 5,
        "modalities": ["lidar", "hsi"],
        "pca": 2,
        "normalisation": "minmax",
        "normalisation_scope": "train-blocks",
        "unlabelled": "support",
        "selection": "paper-val",
        "query_limit": 50,
        "drop": ["lidar"],
    }
    assert set(settings) == set(DataConfig.model_fields)
    by_keyword, by_config = SceneDataModule(scene, **settings), SceneDataModule(scene, DataConfig(**settings))
    assert by_keyword.config == by_config.config
    assert SceneDataModule(scene, DataConfig(shots=4, window=5), shots=7).config == DataConfig(shots=7, window=5)
    with pytest.raises(ConfigError, match=r"data protocol: window: window 4 is even; .* use 3 or 5"):
        SceneDataModule(scene, window=4)


def test_test_batches_hold_every_query_pixel_and_its_target(scene: Scene) -> None:
    data = make(scene, query_limit=70)
    for field, expected in (("pixel", data.query), ("target", data.query_targets)):
        np.testing.assert_array_equal(drained(data.test_dataloader(), field), expected)


def test_training_and_prediction_can_use_other_pixels(scene: Scene) -> None:
    data = SceneDataModule(scene, window=5, train_on="unlabelled", windows_per_epoch=40, predict_on="scene")
    epoch = [*data.train_dataloader()]
    assert sum(len(batch["pixel"]) for batch in epoch) == 40
    assert all(set(batch) == {"pixel", "windows"} for batch in epoch)
    np.testing.assert_array_equal(drained(data.predict_dataloader()), np.arange(96 * 112))


@pytest.mark.parametrize("workers", [0, 1])
def test_training_batches_can_hold_unlabelled_windows(scene: Scene, workers: int) -> None:
    """The choice depends on seed, draw, epoch and batch."""

    protocol = {"window": 5, "shots": 10, "split": "block-v1", "unlabelled": "train-blocks"}

    def epochs(**change: int) -> list[list[dict]]:
        loader = SceneDataModule(scene, **protocol, **change, batch_size=16, unlabelled_per_batch=4).train_dataloader()
        return [list(loader) for _ in range(2)]

    data = SceneDataModule(scene, **protocol)
    found = epochs(num_workers=workers)
    assert all(set(batch["unlabelled"]) == {"pixel", "windows"} for epoch in found for batch in epoch)
    chosen = [batch["unlabelled"]["pixel"] for epoch in found for batch in epoch]
    assert all(len(pixels) == 4 and set(pixels.tolist()) <= set(data.unlabelled.tolist()) for pixels in chosen)
    windows = found[0][0]["unlabelled"]["windows"]["hsi"]
    np.testing.assert_array_equal(windows[:, :, 2, 2], data.images["hsi"].reshape(-1, 5)[chosen[0]])
    plain = data.add_windows({"pixel": chosen[0]})["windows"]["hsi"]
    assert not torch.equal(windows, plain), "symmetries are applied"
    others = [epochs(**change)[0][0]["unlabelled"]["pixel"] for change in ({}, {"seed": 1}, {"draw": 1})]
    assert torch.equal(others[0], chosen[0])
    assert len({tuple(pixels.tolist()) for pixels in [*chosen, *others[1:]]}) == len(chosen) + 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_on": "unlabeled"}, "unknown train_on 'unlabeled'.*unlabelled"),
        ({"predict_on": "scenes"}, "unknown predict_on 'scenes'.*scene"),
    ],
)
def test_an_unknown_choice_of_pixels_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SceneDataModule("simulated", **options)


@pytest.mark.parametrize(
    "options", [{"unlabelled_per_batch": -1}, {"unlabelled_per_batch": 4, "train_on": "unlabelled"}]
)
def test_unlabelled_windows_need_a_training_on_the_support(options: dict, scene: Scene) -> None:
    with pytest.raises(ConfigError, match=r"unlabelled_per_batch is .* and train_on is"):
        SceneDataModule(scene, **options)


def test_validation_without_validation_pixels_is_an_error(scene: Scene) -> None:
    with pytest.raises(ConfigError, match=r"selection last has no validation pixels; use trainer\.test"):
        trainer(1).validate(WithValidation(7, 4), datamodule=make(scene), verbose=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_work_with_worker_processes(scene: Scene, workers: int) -> None:
    data = SceneDataModule(scene, window=5, shots=10, batch_size=16, num_workers=workers)
    expected = SceneDataModule(scene, window=5, shots=10, batch_size=16)
    for found, batch in zip(data.train_dataloader(), expected.train_dataloader(), strict=True):
        assert torch.equal(found["windows"]["hsi"], batch["windows"]["hsi"])


# Lightning


class Plain(L.LightningModule):
    """A module of a user who uses nothing else of the suite."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.head = torch.nn.Conv2d(channels, classes, 5)
        self.seen: list[tuple[bool, torch.Tensor, torch.Tensor]] = []

    def forward(self, batch: dict) -> torch.Tensor:
        self.seen.append((self.training, batch["pixel"], batch["windows"]["lidar"]))
        return self.head(torch.cat(list(batch["windows"].values()), dim=1)).flatten(1)

    def training_step(self, batch: dict, _index: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self(batch), batch["target"])

    def predict_step(self, batch: dict, _index: int) -> torch.Tensor:
        return self(batch).argmax(1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)


class WithValidation(Plain):
    def validation_step(self, batch: dict, _index: int) -> None:
        self.log("accuracy", (self(batch).argmax(1) == batch["target"]).float().mean())


def trainer(epochs: int) -> L.Trainer:
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return L.Trainer(max_epochs=epochs, accelerator="cpu", **silent)  # type: ignore[arg-type]


def test_a_plain_trainer_learns_and_predicts_in_order(scene: Scene) -> None:
    data = make(scene, shots=10)
    L.seed_everything(0, verbose=False)
    model = Plain(7, 4)
    own = trainer(25)
    own.fit(model, datamodule=data)
    predicted = torch.cat(own.predict(model, datamodule=data)).numpy()
    assert predicted.shape == data.query_targets.shape
    assert (predicted == data.query_targets).mean() > 0.8


def test_a_trainer_serves_each_epoch_with_its_order_and_augmentation(scene: Scene) -> None:
    data, model = make(scene, shots=10), Plain(7, 4)
    own = trainer(2)
    own.fit(model, datamodule=data)
    own.predict(model, datamodule=data)
    batches = len(data.train_dataloader())
    loader = make(scene, shots=10).train_dataloader()
    expected = [batch for _ in range(2) for batch in loader]
    for (training, pixels, windows), batch in zip(model.seen[: 2 * batches], expected, strict=True):
        assert training
        assert torch.equal(pixels, batch["pixel"])
        assert torch.equal(windows, batch["windows"]["lidar"])
    for training, pixels, windows in model.seen[2 * batches :]:
        assert not training
        assert torch.equal(windows, data.add_windows({"pixel": pixels})["windows"]["lidar"])


@pytest.mark.parametrize("selection", ["last", "paper-val"])
def test_modules_with_validation_work_without_validation_data(scene: Scene, selection: str) -> None:
    own = trainer(1)
    own.fit(WithValidation(7, 4), datamodule=make(scene, selection=selection))
    assert ("accuracy" in own.callback_metrics) == (selection == "paper-val")


def test_a_trainer_with_loaders_sees_the_batches_of_a_trainer_with_the_data_module(scene: Scene) -> None:
    models = [Plain(7, 4), Plain(7, 4)]
    data = make(scene, shots=10)
    trainer(2).fit(models[0], datamodule=data)
    trainer(2).fit(models[1], data.train_dataloader())
    for one, other in zip(models[0].seen, models[1].seen, strict=True):
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(one, other, strict=True))
    pixels = np.array([9, 2, 77])
    outputs = trainer(1).predict(models[0], data.pixel_dataloader(pixels))
    assert [len(output) for output in outputs] == [3]
    assert torch.equal(models[0].seen[-1][1], torch.from_numpy(pixels))


# Shipped scenes and memory


@pytest.mark.parametrize("place", ["Houston2013", "Trento", "MUUFL", "Augsburg", "Berlin"])
def test_a_shipped_data_module_loads_its_scene(scene: Scene, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    loaded: list[object] = []
    monkeypatch.setattr(scene_data, "load_scene", lambda dataset: loaded.append(dataset) or scene)
    data = getattr(datamodule, f"{place}DataModule")(DataConfig(window=7, shots=4), seed=3, batch_size=8)
    assert loaded == []  # nothing is loaded before it is needed
    assert (data.support.size, data.seed, data.batch_size) == (16, 3, 8)
    assert loaded == [place.lower()]


MEMORY_SCRIPT = """
import re
from pathlib import Path
import numpy as np
from helpers.tiny import striped_map, tiny_scene
from mmrs_bench.config import DataConfig
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.loader import PixelLoader
from mmrs_bench.scenes.scene import Scene

def peak_bytes():  # ru_maxrss would include the parent process
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

scene = tiny_scene(striped_map(349, 360, 15), bands={"hsi": 1, "lidar": 1})
cube = np.random.default_rng(0).standard_normal((349, 360, 144), dtype=np.float32)
scene = Scene(scene.manifest, {"hsi": cube, "lidar": scene.images["lidar"]}, scene.ground_truth)
data = SceneDataModule(scene, DataConfig(window=11), inference_batch=256)
before = peak_bytes()
data.setup()
for index, batch in enumerate(data.scene_dataloader()):
    windows = batch["windows"]
    if index == 20:
        break
print((peak_bytes() - before) / cube.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_peak_memory_is_the_scene_and_one_canvas() -> None:
    """All windows would need 121 times the memory of the cube. Here malloc returns large blocks at once."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    tests = str(Path(__file__).parents[1])
    settings = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "PYTHONPATH": tests, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEMORY_SCRIPT]
    result = subprocess.run(command, env=usual | settings, capture_output=True, text=True, check=True)
    assert 0.9 < float(result.stdout) < 2.0
