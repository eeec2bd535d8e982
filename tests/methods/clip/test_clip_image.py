"""CLIP-image: features and heads against slow references, saved heads, and clear errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from helpers.method_helpers import refused
from helpers.tiny import striped_map, tiny_scene, with_colours
from helpers.tiny_clip import in_the_hub_cache, tiny_network, tiny_weights
from open_clip import pretrained
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from torch import Tensor
from torch.nn import functional as F

from mmrs_bench.config import DataConfig, ExecutionConfig, MethodSpec
from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods import conformance
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.clip import clip_image
from mmrs_bench.methods.clip.clip_image import HEAD_FILE, SETTINGS_FILE, ClipImage, ImageTower, cache_scores
from mmrs_bench.models.weights import known_weights
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.pictures.pseudo_rgb import pseudo_rgb
from mmrs_bench.scenes.scene import IntArray, Scene

HEIGHT, WIDTH = 30, 32
ALL_PIXELS = np.arange(HEIGHT * WIDTH)
#: Corners, edges and the inside; not a whole number of batches.
SOME_PIXELS = np.concatenate([[0, WIDTH - 1, WIDTH * (HEIGHT - 1), WIDTH * HEIGHT - 1], ALL_PIXELS[5::17]])
HEADS = ("linear-probe", "zero-shot", "tip-adapter")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture
def tower(checkpoint: Path) -> str:
    return f"open_clip:tiny/{checkpoint}"


def colour_scene(classes: int = 4, noise: float = 1.0) -> Scene:
    scene = tiny_scene(striped_map(HEIGHT, WIDTH, classes, field=10), bands={"hsi": 4, "lidar": 2})
    rng = np.random.default_rng(3)
    means = rng.normal(size=(classes + 1, 4)) * 3
    hsi = (means[scene.ground_truth] + noise * rng.normal(size=(HEIGHT, WIDTH, 4))).astype(np.float32)
    return with_colours(replace(scene, images={**scene.images, "hsi": hsi}))


def scene_data(scene: Scene | None = None, **protocol: Any) -> SceneDataModule:
    return SceneDataModule(scene or colour_scene(), DataConfig(**protocol))


def build(folder: Path, tower: str, **settings: Any) -> ClipImage:
    config = resolve_config(method_card("clip-image"), "default", "smoke")
    return ClipImage({**config, "tower": tower, **settings}, RunContext(seed=0, draw=0, work_dir=folder))


def fitted(folder: Path, tower: str, data: SceneDataModule, **settings: Any) -> ClipImage:
    method = build(folder, tower, **settings)
    method.fit(data)
    return method


def fitted_head(folder: Path, tower: str, data: SceneDataModule, **settings: Any) -> dict[str, Tensor]:
    """The tensors that a fitted method saves."""
    fitted(folder, tower, data, **settings).save(folder)
    return load_file(folder / HEAD_FILE)


def slow_features(scene: Scene, pixels: IntArray, crop: int, mean: Any = MEAN, std: Any = STD) -> Tensor:
    """Features one crop at a time, each colour resized by Pillow."""
    picture, radius, model = pseudo_rgb(scene), crop // 2, tiny_network()
    padded = np.pad(picture, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    rows = []
    for pixel in pixels:
        row, column = divmod(int(pixel), scene.width)
        image = np.empty((3, 8, 8), np.float32)
        for c in range(3):
            square = Image.fromarray(np.ascontiguousarray(padded[row : row + crop, column : column + crop, c]))
            resized = np.asarray(square.resize((8, 8), Image.Resampling.BICUBIC))
            image[c] = (np.clip(resized, 0, 1) - mean[c]) / std[c]
        with torch.no_grad():
            rows.append(model.encode_image(torch.from_numpy(image)[None])[0])
    return torch.stack([row / row.norm() for row in rows])


def slow_text(names: tuple[str, ...], template: str) -> Tensor:
    with torch.no_grad():
        rows = [tiny_network().encode_text(open_clip.tokenize(template.replace("{class}", name)))[0] for name in names]
    return torch.stack([row / row.norm() for row in rows])


# Features


@pytest.mark.parametrize("crop", [3, 5, 11, 17])
def test_features_equal_those_of_crops_resized_one_by_one(crop: int, tmp_path: Path, tower: str) -> None:
    """Smaller and larger than the tower's 8 pixels; 20 shots are more than a batch."""
    data = scene_data(shots=20, window=17)
    keys = fitted_head(tmp_path, tower, data, head="tip-adapter", crop=crop)["keys"]
    assert keys.shape == (80, 8)
    torch.testing.assert_close(keys, slow_features(data.scene, data.support, crop), rtol=0, atol=1e-5)
    assert keys.std(dim=0).min() > 1e-3, "all crops have the same features, so the comparison proves nothing"


def test_a_tag_has_its_own_colour_statistics(tmp_path: Path, tower: str, monkeypatch: pytest.MonkeyPatch) -> None:
    half = (0.5, 0.5, 0.5)
    tags = {"first": pretrained._pcfg(hf_hub="someone/tiny/", mean=half, std=half)}
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny", tags)
    in_the_hub_cache("someone/tiny", tmp_path / "tiny.safetensors", "open_clip_model.safetensors")
    data = scene_data()
    keys = fitted_head(tmp_path, "open_clip:tiny/first", data, head="tip-adapter")["keys"]
    torch.testing.assert_close(keys, slow_features(data.scene, data.support, 11, half, half), rtol=0, atol=1e-5)
    assert not torch.allclose(keys, slow_features(data.scene, data.support, 11), atol=1e-3)


def test_half_precision_is_close_to_single(tower: str) -> None:
    crops = torch.rand(8, 3, 11, 11, generator=torch.Generator().manual_seed(0))
    single = ImageTower(tower, ExecutionConfig())(crops)
    half = ImageTower(tower, ExecutionConfig(precision="bf16-mixed"))(crops)
    assert half.dtype == torch.float32
    assert not torch.equal(half, single)
    torch.testing.assert_close(half, single, rtol=0, atol=0.1)
    torch.testing.assert_close(half.norm(dim=1), torch.ones(8))


# Heads


def test_cache_scores_equal_those_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    features, keys = (F.normalize(torch.randn(count, 6, generator=generator), dim=1) for count in (5, 9))
    targets = torch.arange(9) // 3
    expected = torch.zeros(5, 3)
    for i, feature in enumerate(features):
        for key, target in zip(keys, targets, strict=True):
            expected[i, target] += 2.0 * np.exp(-3.0 * (1.0 - float(feature @ key)))
    torch.testing.assert_close(cache_scores(features, keys, F.one_hot(targets).float(), alpha=2.0, beta=3.0), expected)


@pytest.mark.parametrize("alpha", [1.0, 400.0])
def test_tip_adapter_adds_the_scores_of_support_and_prompts(alpha: float, tmp_path: Path, tower: str) -> None:
    data, template = scene_data(shots=5), "seen from above: {class}"
    method = fitted(tmp_path, tower, data, head="tip-adapter", alpha=alpha, beta=2.0, template=template)
    features, keys = slow_features(data.scene, SOME_PIXELS, 11), slow_features(data.scene, data.support, 11)
    scores = 100 * features @ slow_text(data.class_names, template).T
    prompts_only = scores.argmax(dim=1)
    for key, target in zip(keys, data.support_targets, strict=True):
        scores[:, target] += alpha * (-2.0 * (1 - features @ key)).exp()
    np.testing.assert_array_equal(method.predict(data, SOME_PIXELS), scores.argmax(dim=1))
    assert alpha == 1.0 or not torch.equal(scores.argmax(dim=1), prompts_only), "the support set has no effect"


def test_zero_shot_predicts_the_nearest_prompt(tmp_path: Path, tower: str) -> None:
    data = scene_data()
    method = fitted(tmp_path, tower, data, head="zero-shot")
    text = slow_text(data.class_names, "a centered satellite photo of {class}.")
    expected = (slow_features(data.scene, SOME_PIXELS, 11) @ text.T).argmax(dim=1)
    assert len(set(expected.tolist())) > 1
    assert method.predict(data, SOME_PIXELS).tolist() == expected.tolist()


def test_zero_shot_uses_no_label(tmp_path: Path, tower: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = colour_scene()
    turned = replace(scene, ground_truth=np.where(scene.ground_truth > 0, scene.ground_truth % 4 + 1, 0))
    predictions = []
    for i, one in enumerate((scene_data(scene), scene_data(turned, shots=7, draw=3))):
        with monkeypatch.context() as patch:
            patch.setattr(SceneDataModule, "support_targets", property(lambda _: pytest.fail("labels were read")))
            predictions.append(fitted(tmp_path / str(i), tower, one, head="zero-shot").predict(one, ALL_PIXELS))
    assert np.array_equal(*predictions)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_linear_probe_equals_scikit_learn_with_the_best_cost_of_cross_validation(
    classes: int, tmp_path: Path, tower: str
) -> None:
    data = scene_data(colour_scene(classes, noise=3.0), shots=30, window=3)
    costs = (0.001, 10.0, 0.1)
    method = fitted(tmp_path, tower, data, crop=3, costs=costs)
    method.save(tmp_path)
    head = load_file(tmp_path / HEAD_FILE)
    features = slow_features(data.scene, data.support, 3).double().numpy()
    accuracy = [
        cross_val_score(LogisticRegression(C=cost, max_iter=2000), features, data.support_targets, cv=5).mean()
        for cost in costs
    ]
    best = int(np.argmax(accuracy))
    assert best > 0, "the first cost is best, so the choice proves nothing"
    probe = LogisticRegression(C=costs[best], max_iter=2000).fit(features, data.support_targets)
    expected = probe.predict(slow_features(data.scene, SOME_PIXELS, 3).double().numpy())
    assert method.predict(data, SOME_PIXELS).tolist() == expected.tolist()
    assert head["weight"].shape == (classes, 8)
    scale = 2 if classes == 2 else 1  # for two classes, scikit-learn has the difference
    found = (head["weight"][-1] - head["weight"][0]) / scale if classes == 2 else head["weight"]
    torch.testing.assert_close(found, torch.from_numpy(probe.coef_).float().squeeze(), rtol=0.01, atol=0.01)


# As a method


@pytest.mark.parametrize("head", HEADS)
def test_it_passes_the_conformance_tests(head: str, tower: str) -> None:
    """Among others: predictions depend neither on other pixels nor on saving."""
    card = method_card("clip-image")
    card = card.model_copy(update={"config": {**card.config, "tower": tower, "head": head}})
    assert [finding for finding in conformance.check(card) if finding.fault] == []


@pytest.mark.parametrize(
    ("head", "kept", "trained"),
    [("linear-probe", 4 * 8 + 4, 4 * 8 + 4), ("zero-shot", 4 * 8 + 4, 0), ("tip-adapter", 4 * 8 + 4 + 20 * 12, 0)],
)
def test_parameters_are_those_of_image_tower_and_head(
    head: str, kept: int, trained: int, tmp_path: Path, tower: str
) -> None:
    image = sum(value.numel() for name, value in tiny_weights().items() if name.startswith("visual."))
    assert fitted(tmp_path, tower, scene_data(shots=5), head=head).parameter_counts() == (image + kept, trained)


# Faults


@pytest.mark.parametrize("file", [SETTINGS_FILE, HEAD_FILE])
@pytest.mark.parametrize("damage", [b"cut off", None])
def test_a_damaged_head_is_refused_in_one_line(damage: bytes | None, file: str, tmp_path: Path, tower: str) -> None:
    method = fitted(tmp_path, tower, scene_data())
    method.save(tmp_path)
    (tmp_path / file).write_bytes(damage) if damage else (tmp_path / file).unlink()
    with refused(DataError, rf"{file}: .*; fit and save it again"):
        method.load(tmp_path)


def test_a_head_of_other_settings_or_another_checkpoint_is_refused(tmp_path: Path, tower: str) -> None:
    fitted(tmp_path, tower, scene_data()).save(tmp_path)
    save_file(tiny_weights(seed=1), tmp_path / "other.safetensors")
    for changes in ({"crop": 7}, {"tower": f"open_clip:tiny/{tmp_path / 'other.safetensors'}"}):
        with refused(DataError, "was saved with other settings or another checkpoint"):
            build(tmp_path, **{"tower": tower, **changes}).load(tmp_path)


def test_the_card_names_the_weights_of_its_tower() -> None:
    card: MethodSpec = method_card("clip-image")
    assert card.needs_weights == (known_weights()[card.config["tower"]].name,)
    assert card.external_data == "CLIP"


@pytest.mark.parametrize(
    ("protocol", "settings", "message"),
    [
        ({"modalities": ("lidar",)}, {}, "receives lidar, but colours are bands of the hsi"),
        ({"pca": 3}, {}, "pca 3, .*set pca to none"),
        ({"normalisation_scope": "support"}, {}, "normalisation_scope support: .*to scene"),
        ({"window": 9}, {}, "crop 11 is larger than the protocol's window 9"),
        ({}, {"head": "zero-shot", "template": "a photo"}, "has no {class}"),
        ({}, {"crop": 10}, "a crop needs a centre pixel, so use 9 or 11"),
        ({}, {"tower": "scratch"}, "unknown image tower 'scratch'. Known: open_clip:<model>/<tag or path>"),
        ({}, {"tower": "open_clip:"}, "unknown image tower 'open_clip:'"),
    ],
)
def test_unsuitable_data_and_settings_are_refused_in_one_line(
    protocol: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path, tower: str
) -> None:
    with refused(ConfigError, message):
        build(tmp_path, **{"tower": tower, **settings}).fit(scene_data(**protocol))


def test_batches_do_not_depend_on_the_inference_batch(
    tmp_path: Path, tower: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    call = ImageTower.__call__
    monkeypatch.setattr(clip_image.ImageTower, "__call__", lambda self, x: (sizes.append(len(x)), call(self, x))[1])
    data = SceneDataModule(colour_scene(), DataConfig(), inference_batch=2048)
    fitted(tmp_path, tower, data).predict(data, ALL_PIXELS)
    assert sizes == [clip_image.BATCH] * (1 + -(-len(ALL_PIXELS) // clip_image.BATCH))
