"""CLIP as a method: fitting, inference of whole scenes against single windows, texts, saved networks, and its card."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.clip_helpers import CLASS_NAMES, LEARNING, pixels_of, small_config, small_method, text_file
from helpers.method_helpers import small_data
from helpers.network_helpers import same, weights
from helpers.tiny import striped_map, tiny_scene
from helpers.tiny_clip import register_tiny_models, tiny_weights
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmrs_bench.config import DataConfig, ExecutionConfig
from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.base import RunContext, method_class
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.clip import module as clip_module
from mmrs_bench.methods.clip.method import Clip, clip_network
from mmrs_bench.methods.clip.prompts import tokenize
from mmrs_bench.methods.toolkit import training
from mmrs_bench.models.weights import known_weights
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule

SIDE = 5


def clip(folder: Path, **options: Any) -> Clip:
    method = small_method("clip", folder, **options)
    assert isinstance(method, Clip)
    return method


def fitted(folder: Path, data: SceneDataModule, **options: Any) -> Clip:
    method = clip(folder, **options)
    method.fit(data)
    return method


# Fitting


def test_the_encoder_does_not_change_at_rate_0_and_the_rest_does(tmp_path: Path) -> None:
    data = small_data(window=SIDE)
    untrained, method = clip(tmp_path / "untrained", encoder_rate=0.0), fitted(tmp_path, data, encoder_rate=0.0)
    untrained.create(data)
    before, after = weights(untrained.network), weights(method.network)
    trained = {name for name, _ in method.network.named_parameters()}
    moved = {name for name in trained if not torch.equal(before[name], after[name])}
    assert moved == {name for name in trained if not name.startswith(("image.tokenizers.", "image.encoder."))}


def test_training_uses_the_support_set_only_with_batches_and_symmetries_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[list[dict[str, Tensor]]] = []
    real, options = training.fit, {}

    def fit(module: Any, data: Any, context: RunContext, **given: Any) -> None:
        served.append([batch for _ in range(2) for batch in data.train_dataloader()])
        options.update(given)
        real(module, data, context, **given)

    monkeypatch.setattr(training, "fit", fit)
    data = small_data(5, window=SIDE)
    for draw, symmetries in ((0, True), (0, False), (1, True)):
        settings = {"draw": draw, "batch_size": 7, "symmetries": symmetries, "epochs": 3}
        fitted(tmp_path / f"{draw}{symmetries}", data, **settings)
    assert options["epochs"] == 3
    for batches, symmetries in zip(served, (True, False, True), strict=True):
        assert [len(batch["pixel"]) for batch in batches] == [7, 7, 6] * 2
        for start in (0, 3):
            pixels = torch.cat([batch["pixel"] for batch in batches[start : start + 3]])
            np.testing.assert_array_equal(np.sort(pixels), np.sort(data.support))
        for batch in batches:
            np.testing.assert_array_equal(batch["target"], data.scene.labels[batch["pixel"]] - 1)
            assert ("symmetry" in batch) == symmetries
    orders = [[*batches[0]["pixel"].tolist()] for batches in served]
    assert orders[0] != orders[2], "all draws have the same order of batches"


def test_weights_depend_on_draw_and_seed_only(tmp_path: Path) -> None:
    found = []
    for i, options in enumerate(({}, {}, {"seed": 1}, {"draw": 1})):
        torch.rand(3)
        found.append(weights(fitted(tmp_path / str(i), small_data(window=SIDE), **options).network))
    assert same(found[0], found[1])
    assert not torch.equal(found[0]["image.head.weight"], found[2]["image.head.weight"])
    assert not torch.equal(found[0]["image.head.weight"], found[3]["image.head.weight"])


# Inference of whole scenes

HEIGHT, WIDTH = 16, 18
ALL_PIXELS = np.arange(HEIGHT * WIDTH)


@pytest.fixture(scope="module")
def scene_data() -> SceneDataModule:
    scene = tiny_scene(striped_map(HEIGHT, WIDTH, field=6), bands={"hsi": 5, "lidar": 1})
    return SceneDataModule(scene, DataConfig(window=SIDE, shots=5), inference_batch=50)


def learned(folder: Path, data: SceneDataModule, **changes: Any) -> Clip:
    """A method trained long enough to separate the classes."""
    return fitted(folder, data, text=text_file(folder / "text"), depth=2, **LEARNING, **changes)


def padded_windows(data: SceneDataModule) -> dict[str, Tensor]:
    """The windows of all pixels, cut out of padded copies of the images."""
    radius, result = SIDE // 2, {}
    for name, image in data.images.items():
        padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
        rows, columns = np.divmod(ALL_PIXELS, data.scene.width)
        cut = [padded[i : i + SIDE, j : j + SIDE].transpose(2, 0, 1) for i, j in zip(rows, columns, strict=True)]
        result[name] = torch.from_numpy(np.stack(cut))
    return result


@pytest.mark.parametrize("timestep", ["zero", "random"])
@pytest.mark.parametrize("readout", ["class", "tokens"])
def test_a_scene_is_classified_like_its_windows_one_by_one(
    readout: str, timestep: str, scene_data: SceneDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = learned(tmp_path, scene_data, readout=readout, timestep=timestep)
    seen: list[Tensor] = []
    real = clip_module.cosine_similarity
    with monkeypatch.context() as patch:
        patch.setattr(
            clip_module, "cosine_similarity", lambda images, texts: seen.append(images) or real(images, texts)
        )
        predicted = method.predict(scene_data, ALL_PIXELS)

    windows, network, count = padded_windows(scene_data), method.network.eval(), len(ALL_PIXELS)
    t = [0] * count
    if timestep == "random":
        t = torch.randint(1000, (count,), generator=torch_generator("predict", 0, 0)).tolist()
    images: list[Tensor] = []
    network.image.register_forward_hook(lambda _, inputs, image: images.append(image))
    with torch.inference_mode():
        logits = torch.cat([network(pixels_of(windows, i), torch.tensor([t[i]])) for i in range(count)])
    torch.testing.assert_close(torch.cat(seen), torch.cat(images), atol=1e-4, rtol=1e-4)
    best, second = logits.topk(2).values.T
    clear = (best - second) > 1e-3
    assert clear.float().mean() > 0.95
    np.testing.assert_array_equal(predicted[clear], logits.argmax(dim=1)[clear])
    assert len(np.unique(predicted)) == 4, "the prediction is too uniform to show a difference"


@pytest.mark.parametrize("timestep", ["zero", "random"])
def test_predictions_are_repeatable_and_do_not_depend_on_the_other_pixels(
    timestep: str, scene_data: SceneDataModule, tmp_path: Path
) -> None:
    method = learned(tmp_path, scene_data, readout="class", timestep=timestep)
    whole = method.predict(scene_data, ALL_PIXELS)
    np.testing.assert_array_equal(method.predict(scene_data, ALL_PIXELS), whole)
    some = np.random.default_rng(0).permutation(ALL_PIXELS)[:61]
    np.testing.assert_array_equal(method.predict(scene_data, some), whole[some])
    assert method.predict(scene_data, ALL_PIXELS[:0]).shape == (0,)
    other_batches = SceneDataModule(scene_data.scene, scene_data.config, inference_batch=7)
    np.testing.assert_array_equal(method.predict(other_batches, ALL_PIXELS), whole)
    if timestep == "random":
        method.config = method.config.model_copy(update={"timestep": "zero"})
        assert (method.predict(scene_data, ALL_PIXELS) != whole).any(), "the timestep has no effect here"


def test_each_pixel_and_each_prompt_is_embedded_once(scene_data: SceneDataModule, tmp_path: Path) -> None:
    method = learned(tmp_path, scene_data, readout="class")
    image, texts = method.network.image, method.network.texts
    pixels: list[int] = []
    lengths: list[int] = []
    reads: list[int] = []
    first, last = image.tokenizers["hsi"].stem[0], image.encoder.blocks[-1].mlp
    first.register_forward_hook(lambda _, inputs, out: pixels.append(math.prod(inputs[0].shape[:-1])))
    last.register_forward_hook(lambda _, inputs, out: lengths.append(inputs[0].shape[1]))
    texts.register_forward_hook(lambda *_: reads.append(1))
    method.predict(scene_data, ALL_PIXELS)
    padded = (HEIGHT + SIDE - 1) * (WIDTH + SIDE - 1)
    assert padded <= sum(pixels) < padded + 10
    assert set(lengths) == {1}, "the last block computes more than the class token"
    assert len(reads) == 1


def test_bfloat16_predicts_nearly_the_same(scene_data: SceneDataModule, tmp_path: Path) -> None:
    method = learned(tmp_path, scene_data, readout="tokens")
    exact = method.predict(scene_data, ALL_PIXELS)
    execution = ExecutionConfig(precision="bf16-mixed")
    method.context = RunContext(seed=0, draw=0, work_dir=tmp_path, execution=execution)
    rough = method.predict(scene_data, ALL_PIXELS)
    assert (rough == exact).mean() > 0.9
    np.testing.assert_array_equal(method.predict(scene_data, ALL_PIXELS), rough)


# Sizes


@pytest.mark.parametrize("readout", ["class", "tokens"])
def test_parameters_are_those_of_image_encoder_texts_and_temperature(
    readout: str, scene_data: SceneDataModule, tmp_path: Path
) -> None:
    block = 4 * 8 + (3 * 8 * 8 + 3 * 8) + (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8)
    tower = (49_408 + 77) * 8 + block + 2 * 8 + 8 * 8  # tokens and positions, one block, last norm and projection
    projection = 12 * 8 + 8
    for text, size in (("scratch", tower), (text_file(tmp_path / "text"), projection)):
        method = fitted(tmp_path / text[:7], scene_data, readout=readout, text=text)
        image = sum(values.numel() for values in method.network.image.parameters())
        assert method.parameter_counts() == (image + size + 1, image + size + 1)


def test_the_released_size_is_the_documented_one() -> None:
    """0.78 million parameters in the image encoder of Houston2013, 6,945,536 in the text tower."""
    sizes = {"width": 128, "heads": 8, "depth": 4, "text_layers": 3}
    released = small_config(**sizes, learn_positions=True, readout="class")
    network = clip_network(released, {"hsi": 144, "lidar": 1}, 11, CLASS_NAMES)
    assert sum(values.numel() for values in network.texts.parameters()) == 6_945_536
    assert sum(values.numel() for values in network.image.parameters()) == pytest.approx(0.78e6, rel=0.01)
    assert network.scale.log_scale.numel() == 1


# Texts


def test_vectors_from_a_file_are_used_and_saved_with_the_network(tmp_path: Path) -> None:
    data, folder = small_data(window=SIDE), tmp_path / "text"
    tower = text_file(folder)
    method = fitted(tmp_path, data, text=tower, **LEARNING)
    vectors = np.load(folder / "vectors.npy")
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = np.stack([units[4], units[0] + units[1], units[5], units[3]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(method.network.texts.embeddings, expected, atol=1e-6)
    method.save(tmp_path / "saved")
    for file in folder.iterdir():
        file.unlink()
    loaded = clip(tmp_path, text=tower, **LEARNING)
    loaded.load(tmp_path / "saved")
    predicted = method.predict(data, data.query)
    np.testing.assert_array_equal(loaded.predict(data, data.query), predicted)
    assert len(np.unique(predicted)) == 4
    assert loaded.parameter_counts() == method.parameter_counts()


def test_vectors_of_a_checkpoint_are_computed_once_per_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny_models(tmp_path, monkeypatch)
    save_file(tiny_weights(), tmp_path / "tiny.safetensors")
    data, tower, kept = small_data(window=SIDE), f"open_clip:tiny/{tmp_path / 'tiny.safetensors'}", []
    for template in ("a {class}", "a {class}", "one {class}"):
        method = fitted(tmp_path, data, text=tower, template=template)
        kept.append(sorted((tmp_path / "cache-root" / "text").iterdir()))
        assert method.network.texts.projection.weight.shape == (8, 8)  # type: ignore[union-attr]
    assert [len(files) for files in kept] == [1, 1, 2]


def test_descriptions_are_ensembled_with_the_template() -> None:
    settings = small_config(descriptions={"Water": ["a lake", "the {class} of a river"]}, template="seen: {class}")
    texts = clip_network(settings, {"hsi": 5}, SIDE, ("Road", "Water", "Apple trees")).texts
    with torch.no_grad():
        found = texts()
        prompts = [["seen: Road"], ["seen: Water", "a lake", "the Water of a river"], ["seen: Apple trees"]]
        for row, group in zip(found, prompts, strict=True):
            units = [texts.tower(tokenize([prompt]))[0] for prompt in group]
            mean = sum(unit / unit.norm() for unit in units)
            torch.testing.assert_close(row, mean / mean.norm(), atol=1e-5, rtol=1e-5)


BAD_TEXTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "unknown tower": ({"text": "clap"}, ConfigError, r"unknown text tower 'clap'.*open_clip:<model>/<tag or path>"),
    "no checkpoint": (
        {"text": "open_clip:ViT-B-32/openai"},
        DataError,
        "is not in the Hugging Face cache.*Fetch it with: ",
    ),
    "no file": ({"text": "precomputed:nowhere.yaml"}, DataError, r"nowhere\.yaml: does not exist"),
    "long description": (
        {"descriptions": {"class 2": ["grass " * 76]}},
        ConfigError,
        r"'grass .* has 78 tokens, CLIP reads at most 77; shorten",
    ),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_bad_texts_are_refused_in_one_line_before_training(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_tiny_models(tmp_path, monkeypatch)  # its hub cache is empty
    changes, error, message = BAD_TEXTS[case]
    with pytest.raises(error, match=message) as caught:
        fitted(tmp_path / "cell", small_data(window=SIDE), **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cell").exists(), "something was trained"
    if case == "no checkpoint":
        assert known_weights()["open_clip:ViT-B-32/openai"].fetch in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"readout": "centre"}, "readout: "),
        ({"width": 10}, "width: "),
        ({"temperature": 0}, "temperature: "),
        ({"crop": "random"}, "crop: "),
        ({"schedule": "step"}, "schedule: "),
        ({"masks": 1}, "masks is not a known field"),
        ({"heads": 3}, "heads: 3 heads do not divide the width 8"),
    ],
)
def test_the_message_names_the_wrong_setting(changes: dict[str, Any], wrong: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"settings of Clip: {wrong}"):
        clip(tmp_path, **changes)


# Saved networks


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("clip")
    fitted(folder / "work", small_data(window=SIDE), readout="tokens").save(folder / "saved")
    return {file.name: file.read_bytes() for file in (folder / "saved").iterdir()}


@pytest.fixture
def saved(saved_once: dict[str, bytes], tmp_path: Path) -> Path:
    (tmp_path / "saved").mkdir()
    for name, content in saved_once.items():
        (tmp_path / "saved" / name).write_bytes(content)
    return tmp_path / "saved"


def test_a_loaded_network_refuses_other_channels(saved: Path) -> None:
    method = clip(saved, readout="tokens")
    method.load(saved)
    scene = tiny_scene(striped_map(36, 40), bands={"hsi": 5, "sar": 2})
    with pytest.raises(ConfigError, match=r"channels hsi 5, lidar 2, but is to classify .* channels hsi 5, sar 2; fit"):
        method.predict(SceneDataModule(scene, DataConfig(shots=2, window=SIDE)), np.arange(4))


@pytest.mark.parametrize("file", ["clip.json", "clip.safetensors"])
@pytest.mark.parametrize("content", [b"", b"cut off", b"{}", b"[]", None])
def test_damaged_files_are_refused(content: bytes | None, file: str, saved: Path) -> None:
    path = saved / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match="fit and save it again"):
        clip(saved, readout="tokens").load(saved)


def test_weights_that_are_not_finite_are_refused(saved: Path) -> None:
    tensors = load_file(saved / "clip.safetensors")
    tensors["image.head.weight"][1, 2] = float("nan")
    save_file(tensors, saved / "clip.safetensors")
    with pytest.raises(DataError, match=r"image\.head\.weight .*; fit and save it again"):
        clip(saved, readout="tokens").load(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 16},
        {"depth": 2},
        {"mlp_ratio": 4.0},
        {"readout": "class"},
        {"learn_positions": True},
        {"text_layers": 2},
        {"text": "precomputed:any.yaml"},
        # These have no tensor of their own, so that the predictions would silently differ.
        {"heads": 4},
        {"template": "one {class}"},
        {"timestep": "random"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_network_of_other_settings_is_refused(changes: dict[str, Any], saved: Path) -> None:
    with pytest.raises(DataError, match="settings") as caught:
        clip(saved, **{"readout": "tokens", **changes}).load(saved)
    assert "\n" not in str(caught.value)


def test_components_replace_the_bands(tmp_path: Path) -> None:
    """As if the protocol had them, and at most as many as there are bands; the data themselves do not change."""
    data, with_components = small_data(window=SIDE), small_data(window=SIDE, pca=3)
    settings = {"text": text_file(tmp_path / "text"), **LEARNING}
    method = fitted(tmp_path, data, components=3, **settings)
    predicted = method.predict(data, data.query)
    assert len(np.unique(predicted)) == 4
    for components in (2, None):
        plain = fitted(tmp_path, with_components, components=components, **settings)
        np.testing.assert_array_equal(plain.predict(with_components, data.query), predicted)
    scene = tiny_scene(striped_map(36, 40), bands=data.channels, seed=1)
    one, two = (SceneDataModule(scene, DataConfig(window=SIDE, pca=pca)) for pca in (None, 3))
    np.testing.assert_array_equal(method.predict(one, data.query), plain.predict(two, data.query))
    method.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "clip.json").read_text())["channels"] == [["hsi", 3], ["lidar", 2]]
    loaded = clip(tmp_path, components=3, **settings)
    loaded.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.predict(small_data(window=SIDE), data.query), predicted)
    assert data.channels == {"hsi": 5, "lidar": 2}


# Cards


@pytest.mark.parametrize("name", ["clip", "diffclip"])
def test_the_work_grows_with_the_budget(name: str) -> None:
    card = method_card(name)
    settings = [resolve_config(card, "default", budget) for budget in ("smoke", "quick", "paper")]
    for stage in ("", *(["pretrain_"] if name == "diffclip" else [])):
        work = [
            one[f"{stage}epochs"] * one.get(f"{stage}windows", 1) * one["depth"] * one["width"] ** 2 for one in settings
        ]
        assert work[0] < work[1] < work[2]


@pytest.mark.parametrize("name", ["clip", "diffclip"])
def test_every_variant_is_valid_under_every_budget(name: str) -> None:
    card = method_card(name)
    known = method_class(card).Config
    assert set(card.config) == set(known.model_fields), "the card does not list every setting"
    for variant in card.variants:
        for budget in ("smoke", "quick", "paper"):
            known.model_validate(resolve_config(card, variant, budget))
    assert set(card.selections) == {"last", "paper-val"}
