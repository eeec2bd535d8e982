"""CLIP as a method: fitting, inference of whole scenes against single windows, texts, saved networks, and its card."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.clip_helpers import LEARNING, pixels_of, small_method, text_file
from helpers.method_helpers import refused, small_data
from helpers.module_cases import trainer
from helpers.tiny import striped_map, tiny_scene
from torch import Tensor

from mmrs_bench.config import DataConfig, ExecutionConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.clip import module as clip_module
from mmrs_bench.methods.clip.module import LanguageAlignedClassifier, SceneEmbedding
from mmrs_bench.methods.clip.prompts import tokenize
from mmrs_bench.methods.clip.text import frozen_class_embeddings
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule

SIDE = 5


def fitted(folder: Path, data: SceneDataModule, **options: Any) -> Any:
    method = small_method("clip", folder, **options)
    method.fit(data)
    return method


# Inference of whole scenes

HEIGHT, WIDTH = 16, 18
ALL_PIXELS = np.arange(HEIGHT * WIDTH)


@pytest.fixture(scope="module")
def scene_data() -> SceneDataModule:
    scene = tiny_scene(striped_map(HEIGHT, WIDTH, field=6), bands={"hsi": 5, "lidar": 1})
    return SceneDataModule(scene, DataConfig(window=SIDE, shots=5), inference_batch=50)


def learned(folder: Path, data: SceneDataModule, **changes: Any) -> Any:
    """A method trained long enough to separate the classes."""
    return fitted(folder, data, text=text_file(folder / "text"), depth=2, **LEARNING, **changes)


@pytest.mark.parametrize("timestep", ["zero", "random"])
@pytest.mark.parametrize("readout", ["class", "tokens", "pooled"])
def test_a_scene_is_classified_like_its_windows_one_by_one(
    readout: str, timestep: str, scene_data: SceneDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = learned(tmp_path, scene_data, readout=readout, timestep=timestep)
    seen: list[Tensor] = []
    with monkeypatch.context() as patch:
        patch.setattr(clip_module, "cosine_similarity", lambda images, texts: seen.append(images) or images @ texts.T)
        method.predict(scene_data, ALL_PIXELS)
    predicted = method.predict(scene_data, ALL_PIXELS)

    windows = scene_data.add_windows({"pixel": torch.from_numpy(ALL_PIXELS)})["windows"]
    module, count = method.module.eval(), len(ALL_PIXELS)
    t = torch.zeros(count, dtype=torch.int64)
    if timestep == "random":
        t = torch.randint(1000, (count,), generator=torch_generator("predict", 0, 0))
    images: list[Tensor] = []
    module.network.image.register_forward_hook(lambda _, inputs, image: images.append(image))
    with torch.inference_mode():
        logits = torch.cat([module.network(pixels_of(windows, i), t[i : i + 1]) for i in range(count)])
    torch.testing.assert_close(torch.cat(seen), torch.cat(images), atol=1e-4, rtol=1e-4)
    best, second = logits.topk(2).values.T
    clear = (best - second) > 1e-3
    assert clear.float().mean() > 0.95
    assert len(np.unique(predicted)) == 4, "the prediction is too uniform to show a difference"
    plain, embedded = (
        torch.cat(trainer(tmp_path, callbacks=callbacks).predict(module, scene_data.scene_dataloader()))
        for callbacks in ([], [SceneEmbedding(scene_data)])
    )
    for found in (predicted, plain, embedded):
        np.testing.assert_array_equal(found[clear], logits.argmax(dim=1)[clear])
    other = SceneDataModule(scene_data.scene, scene_data.config, window=3)
    with refused(ConfigError, r"built for .* windows of 5, but a batch has .* of 3;"):
        trainer(tmp_path, callbacks=[SceneEmbedding(other)]).predict(module, other.scene_dataloader())


def test_random_timesteps_are_repeatable_and_do_not_depend_on_the_other_pixels(
    scene_data: SceneDataModule, tmp_path: Path
) -> None:
    method = learned(tmp_path, scene_data, readout="class", timestep="random")
    whole = method.predict(scene_data, ALL_PIXELS)
    np.testing.assert_array_equal(method.predict(scene_data, ALL_PIXELS), whole)
    some = np.random.default_rng(0).permutation(ALL_PIXELS)[:61]
    np.testing.assert_array_equal(method.predict(scene_data, some), whole[some])
    assert method.predict(scene_data, ALL_PIXELS[:0]).shape == (0,)
    other_batches = SceneDataModule(scene_data.scene, scene_data.config, inference_batch=7)
    np.testing.assert_array_equal(method.predict(other_batches, ALL_PIXELS), whole)
    method.module.timestep = "zero"
    assert (method.predict(scene_data, ALL_PIXELS) != whole).any(), "the timestep has no effect here"


def test_each_pixel_is_embedded_once(scene_data: SceneDataModule, tmp_path: Path) -> None:
    method = learned(tmp_path, scene_data, readout="class")
    image = method.module.network.image
    pixels: list[int] = []
    lengths: list[int] = []
    first, last = image.tokenizers["hsi"].stem[0], image.encoder.blocks[-1].mlp
    first.register_forward_hook(lambda _, inputs, out: pixels.append(math.prod(inputs[0].shape[:-1])))
    last.register_forward_hook(lambda _, inputs, out: lengths.append(inputs[0].shape[1]))
    method.predict(scene_data, ALL_PIXELS)
    padded = (HEIGHT + SIDE - 1) * (WIDTH + SIDE - 1)
    assert padded <= sum(pixels) < padded + 10
    assert set(lengths) == {1}, "the last block computes more than the class token"


def test_bfloat16_predicts_nearly_the_same(scene_data: SceneDataModule, tmp_path: Path) -> None:
    method = learned(tmp_path, scene_data, readout="tokens")
    exact = method.predict(scene_data, ALL_PIXELS)
    execution = ExecutionConfig(precision="bf16-mixed")
    method.context = RunContext(seed=0, draw=0, work_dir=tmp_path, execution=execution)
    rough = method.predict(scene_data, ALL_PIXELS)
    assert (rough == exact).mean() > 0.9
    np.testing.assert_array_equal(method.predict(scene_data, ALL_PIXELS), rough)


def test_the_released_size_is_the_documented_one() -> None:
    """0.78 million parameters in the image encoder of Houston2013, 6,945,536 in the text tower."""
    options: dict[str, Any] = {"class_names": ("Road", "Water"), "learn_positions": True, "readout": "class"}
    network = LanguageAlignedClassifier({"hsi": 144, "lidar": 1}, 2, **options).network
    assert sum(values.numel() for values in network.texts.parameters()) == 6_945_536
    assert sum(values.numel() for values in network.image.parameters()) == pytest.approx(0.78e6, rel=0.01)
    assert float(network.log_scale.detach()) == pytest.approx(-math.log(0.07))


def test_stage_2_of_release_has_as_many_parameters_as_the_released_network() -> None:
    """7,710,337 with 32 channels in all, 256 of them the positions of the class tokens."""
    config = resolve_config(method_card("diffclip"), "release", "paper")
    names = inspect.signature(LanguageAlignedClassifier).parameters
    module = LanguageAlignedClassifier(
        {"hsi": 30, "lidar": 2}, 2, class_names=("Road", "Water"), **{k: v for k, v in config.items() if k in names}
    )
    assert sum(values.numel() for values in module.network.parameters()) == 7_710_337
    assert sum(tokenizer.class_position.numel() for tokenizer in module.network.image.tokenizers.values()) == 256


# Texts


@pytest.mark.parametrize("tower", ["precomputed", "open_clip"])
def test_class_vectors_of_a_frozen_tower_are_used_with_the_template(
    tower: str, tmp_path: Path, checkpoint: Path
) -> None:
    data = small_data(window=SIDE)
    text = text_file(tmp_path / "text") if tower == "precomputed" else f"open_clip:tiny/{checkpoint}"
    method = fitted(tmp_path, data, text=text, template="one {class}")
    expected = frozen_class_embeddings(text, data.class_names, [[f"one {name}"] for name in data.class_names])
    torch.testing.assert_close(method.module.network.texts.embeddings, expected, rtol=0, atol=0)


def test_descriptions_are_ensembled_with_the_template() -> None:
    options = {"descriptions": {"Water": ["a lake", "the {class} of a river"]}, "template": "seen: {class}"}
    sizes = {"width": 8, "heads": 2, "depth": 1, "text_layers": 1}
    names = ["Road", "Water", "Apple trees"]
    texts = LanguageAlignedClassifier({"hsi": 5}, 3, SIDE, class_names=names, **sizes, **options).network.texts
    with torch.no_grad():
        found = texts()
        prompts = [["seen: Road"], ["seen: Water", "a lake", "the Water of a river"], ["seen: Apple trees"]]
        for row, group in zip(found, prompts, strict=True):
            units = [texts.tower(tokenize([prompt]))[0] for prompt in group]
            mean = sum(unit / unit.norm() for unit in units)
            torch.testing.assert_close(row, mean / mean.norm(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [({"width": 10}, "width: "), ({"heads": 3}, "heads: 3 heads do not divide the width 8")],
)
def test_the_message_names_the_wrong_setting(changes: dict[str, Any], wrong: str, tmp_path: Path) -> None:
    with refused(ConfigError, f"settings of Clip: {wrong}"):
        small_method("clip", tmp_path, **changes)


# Cards


@pytest.mark.parametrize(("name", "stage"), [("clip", ""), ("diffclip", ""), ("diffclip", "pretrain_")])
def test_the_work_grows_with_the_budget(name: str, stage: str) -> None:
    budgets = [resolve_config(method_card(name), "default", budget) for budget in ("smoke", "quick", "paper")]
    work = [b[f"{stage}epochs"] * b.get(f"{stage}windows", 1) * b["depth"] * b["width"] ** 2 for b in budgets]
    assert work[0] < work[1] < work[2]
