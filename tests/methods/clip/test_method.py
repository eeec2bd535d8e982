"""Stage 2 against slow loops, whole-scene inference against single windows, texts and weights through the method."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.clip_helpers import (
    CLASS_NAMES,
    LEARNING,
    cheap,
    flat,
    slowly_cropped,
    text_file,
)
from helpers.method_helpers import small_data
from helpers.network_helpers import random_windows, same, silent, weights, without_gradient
from helpers.tiny import striped_map, tiny_scene
from helpers.tiny_clip import register_tiny_models, tiny_weights
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmrs_bench.config import DataConfig, ExecutionConfig
from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.base import RunContext, method_class
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.clip import method as clip
from mmrs_bench.methods.clip.method import (
    STAGE,
    VALIDATION_METRIC,
    Clip,
    ClipConfig,
    ClipNetwork,
    LanguageAlignedClassifier,
    clip_network,
    cropped,
    lr_schedule,
)
from mmrs_bench.methods.clip.prompts import tokenize
from mmrs_bench.methods.toolkit import training
from mmrs_bench.models.weights import known_weights
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule

CHANNELS = {"hsi": 5, "lidar": 1, "sar": 2}
SIDE, BATCH = 5, 6
TARGET = torch.tensor([2, 0, 2, 3, 3, 2])
NAMES = ("Road", "Water", "Apple trees", "Bare soil")


def config(**changes: Any) -> ClipConfig:
    sizes = {"width": 8, "heads": 2, "depth": 2, "text_layers": 1}
    return ClipConfig(**{**sizes, **changes})


def network(settings: ClipConfig, channels: Mapping[str, int] | None = None) -> ClipNetwork:
    """A network whose head is large enough for a difference to show in any readout."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        built = clip_network(settings, channels or CHANNELS, SIDE, NAMES)
        torch.nn.init.normal_(built.image.head.weight)
    return built


def module(settings: ClipConfig, *, seed: int = 3, draw: int = 4) -> LanguageAlignedClassifier:
    made = LanguageAlignedClassifier(network(settings), settings, seed=seed, draw=draw)
    silent(made)
    return made


# The training step


def softmax(values: list[float], at: int) -> float:
    return math.exp(values[at]) / sum(math.exp(value) for value in values)


def slow_class_contrast(z: list[list[float]], target: list[int]) -> float:
    """Every image against all classes, and every class of the batch against all images."""
    to_class = [-math.log(softmax(row, y)) for row, y in zip(z, target, strict=True)]
    per_class = []
    for k in set(target):
        column = [row[k] for row in z]
        own = [-math.log(softmax(column, i)) for i, y in enumerate(target) if y == k]
        per_class.append(sum(own) / len(own))
    return sum(to_class) / len(to_class) + sum(per_class) / len(per_class)


def slow_diagonal_contrast(z: list[list[float]], target: list[int]) -> float:
    """Every image against the texts of all images of the batch, and back."""
    count = len(target)
    pairs = [[row[y] for y in target] for row in z]
    rows = sum(-math.log(softmax(pairs[i], i)) for i in range(count)) / count
    columns = sum(-math.log(softmax([pairs[j][i] for j in range(count)], i)) for i in range(count)) / count
    return rows + columns


@pytest.mark.parametrize("timestep", ["zero", "random"])
@pytest.mark.parametrize("crop", ["none", "joint", "independent"])
@pytest.mark.parametrize(("contrast", "slow"), [("class", slow_class_contrast), ("diagonal", slow_diagonal_contrast)])
def test_the_step_is_that_of_a_loop(
    contrast: str, slow: Callable[..., float], crop: str, timestep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers are drawn from the address of draw, seed, epoch and batch: coins of the crop first, then timesteps."""
    made = module(config(contrast=contrast, crop=crop, timestep=timestep, temperature=0.4))
    made.eval()  # a window alone has other batch statistics than a batch
    monkeypatch.setattr(LanguageAlignedClassifier, "current_epoch", 2)
    windows = random_windows(CHANNELS, BATCH, SIDE)
    generator = torch_generator("alignment", 4, 3, 2, 9)
    seen = slowly_cropped(windows, crop, generator)
    t = [0] * BATCH
    if timestep == "random":
        t = torch.randint(1000, (BATCH,), generator=generator).tolist()
    with torch.no_grad():
        texts = made.network.texts().tolist()
        z = []
        for i in range(BATCH):
            embedded = made.network.image.embed_pixels(flat(seen, i))
            image = made.network.image(embedded, torch.tensor([t[i]]))[0].tolist()
            cosines = [
                sum(a * b for a, b in zip(image, text, strict=True)) / math.hypot(*image) / math.hypot(*text)
                for text in texts
            ]
            z.append([cosine / 0.4 for cosine in cosines])
        loss = made.training_step({"windows": windows, "target": TARGET}, 9)
    assert float(loss) == pytest.approx(slow(z, TARGET.tolist()), rel=1e-4)


def test_crops_enlarge_some_windows_and_keep_modalities_registered_if_joint() -> None:
    window = random_windows({"hsi": 2}, 40, SIDE)["hsi"]
    both = {"hsi": window, "lidar": window.clone()}
    results = {name: cropped(both, name, torch_generator(name)) for name in ("none", "joint", "independent")}
    changed = {
        name: {m: (x != window).flatten(1).any(dim=1) for m, x in result.items()} for name, result in results.items()
    }
    assert not changed["none"]["hsi"].any()
    assert 8 < int(changed["joint"]["hsi"].sum()) < 32
    assert torch.equal(results["joint"]["hsi"], results["joint"]["lidar"])
    assert (changed["independent"]["hsi"] != changed["independent"]["lidar"]).any()
    assert all(8 < int(coins.sum()) < 32 for coins in changed["independent"].values())


def test_steps_hang_on_seed_draw_epoch_and_batch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(timestep="random", crop="joint")
    batch = {"windows": random_windows(CHANNELS, BATCH, SIDE), "target": TARGET}

    def loss(*, seed: int = 0, draw: int = 0, epoch: int = 0, index: int = 0) -> float:
        monkeypatch.setattr(LanguageAlignedClassifier, "current_epoch", epoch)
        made = module(settings, seed=seed, draw=draw)
        made.eval()
        torch.rand(3)
        return float(made.training_step(batch, index).detach())

    others = [loss(seed=1), loss(draw=1), loss(epoch=1), loss(index=1)]
    assert loss() == loss()
    assert len({loss(), *others}) == 5


@pytest.mark.parametrize("text", ["scratch", "precomputed"])
@pytest.mark.parametrize("readout", ["class", "tokens"])
@pytest.mark.parametrize("contrast", ["class", "diagonal"])
def test_a_gradient_reaches_every_parameter(contrast: str, readout: str, text: str, tmp_path: Path) -> None:
    tower = text_file(tmp_path, dict(zip(NAMES, "abcd", strict=True))) if text == "precomputed" else text
    settings = config(contrast=contrast, readout=readout, text=tower, learn_positions=True)
    made = LanguageAlignedClassifier(clip_network(settings, CHANNELS, SIDE, NAMES), settings, seed=0, draw=0)
    silent(made)
    made.training_step({"windows": random_windows(CHANNELS, BATCH, SIDE), "target": TARGET}, 0).backward()
    names = dict(made.named_parameters())
    assert without_gradient(made) == []
    assert sum(name.endswith(".positions") for name in names) == len(CHANNELS)
    assert "network.scale.log_scale" in names
    assert ("network.texts.projection.weight" in names) == (text == "precomputed")
    assert "network.texts.embeddings" not in names, "a frozen tower's vectors are trained"


def test_validation_is_the_accuracy_of_clean_windows() -> None:
    made = module(config(timestep="random", crop="joint"))
    made.eval()
    logged: dict[str, float] = {}
    made.log = lambda name, value, **options: logged.update({name: float(value)})  # type: ignore[method-assign,assignment]
    windows = random_windows(CHANNELS, BATCH, SIDE)
    with torch.no_grad():
        best = [int(made.network(flat(windows, i), torch.zeros(1, dtype=torch.long))[0].argmax()) for i in range(BATCH)]
        target = torch.tensor([*best[:4], (best[4] + 1) % 4, (best[5] + 2) % 4])
        made.validation_step({"windows": windows, "target": target}, 0)
    assert logged == {VALIDATION_METRIC: pytest.approx(4 / 6)}


# The optimiser


@pytest.mark.parametrize("text", ["scratch", "precomputed"])
def test_the_encoder_has_a_rate_of_its_own(text: str, tmp_path: Path) -> None:
    tower = text_file(tmp_path, dict(zip(NAMES, "abcd", strict=True))) if text == "precomputed" else text
    made = module(config(text=tower, learning_rate=0.02, encoder_rate=0.1, weight_decay=0.3))
    optimizer = made.configure_optimizers()["optimizer"]
    slow, rest = optimizer.param_groups
    named = {id(values): name for name, values in made.network.named_parameters()}
    groups = [{named[id(values)] for values in group["params"]} for group in (slow, rest)]
    shared = {name for name in named.values() if name.startswith(("image.tokenizers.", "image.encoder."))}
    assert groups == [shared, set(named.values()) - shared]
    assert {"scale.log_scale", "image.head.weight"} <= groups[1]
    assert (slow["lr"], rest["lr"]) == (pytest.approx(0.002), 0.02)
    assert slow["weight_decay"] == rest["weight_decay"] == 0.3
    assert isinstance(optimizer, torch.optim.Adam)


def test_without_a_rate_the_encoder_stays_and_the_rest_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = around_alignment(monkeypatch)
    method = cheap("clip", tmp_path, encoder_rate=0.0)
    method.fit(small_data(window=SIDE))
    trained = {name for name, _ in method._network.named_parameters()}  # type: ignore[attr-defined]
    moved = {name for name in trained if not torch.equal(before[name], after[name])}
    assert moved == {name for name in trained if not name.startswith(("image.tokenizers.", "image.encoder."))}


def around_alignment(monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two dicts that the next stage 2 fills with its network's weights, before and after."""
    real, before, after = training.fit, dict[str, Tensor](), dict[str, Tensor]()

    def fit(trained: Any, data: Any, context: RunContext, **options: Any) -> None:
        if options["stage"] == STAGE:
            before.update(weights(trained.network))
        real(trained, data, context, **options)
        if options["stage"] == STAGE:
            after.update(weights(trained.network))

    monkeypatch.setattr(training, "fit", fit)
    return before, after


def rates(name: str, epochs: int) -> Iterator[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = lr_schedule(optimizer, name, epochs)
    for _ in range(epochs):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()


def test_schedules_are_the_ones_they_say() -> None:
    assert list(rates("cosine", 8)) == pytest.approx([(1 + math.cos(math.pi * e / 8)) / 2 for e in range(8)])
    released = [1.0] * 100 + [0.1] * 31 + [0.01] * 19
    assert list(rates("multistep", 150)) == pytest.approx(released)
    assert list(rates("multistep", 30)) == pytest.approx([1.0] * 20 + [0.1] * 6 + [0.01] * 4)
    periods = [(0, 5), (5, 10), (15, 20), (35, 40)]
    restarted = [(1 + math.cos(math.pi * (e - start) / n)) / 2 for start, n in periods for e in range(start, start + n)]
    assert list(rates("restarts", 60)) == pytest.approx(restarted[:60])


# Fitting


def test_fit_sees_the_support_alone_and_its_settings_decide_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[list[dict[str, Tensor]]] = []
    real, options = training.fit, {}

    def fit(trained: Any, data: Any, context: RunContext, **given: Any) -> None:
        served.append([batch for _ in range(2) for batch in data.train_dataloader()])
        options.update(given)
        real(trained, data, context, **given)

    monkeypatch.setattr(training, "fit", fit)
    data = small_data(5, window=SIDE)
    for draw, symmetries in ((0, True), (0, False), (1, True)):
        cheap("clip", tmp_path / f"{draw}{symmetries}", draw=draw, batch_size=7, symmetries=symmetries, epochs=3).fit(
            data
        )
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
    assert orders[0] != orders[2], "draws share their order of batches"


def test_weights_hang_on_draw_and_seed_only(tmp_path: Path) -> None:
    found = []
    for i, options in enumerate(({}, {}, {"seed": 1}, {"draw": 1})):
        method = cheap("clip", tmp_path / str(i), **options)
        torch.rand(3)
        method.fit(small_data(window=SIDE))
        found.append(weights(method._network))  # type: ignore[attr-defined]
    assert same(found[0], found[1])
    assert not torch.equal(found[0]["image.head.weight"], found[2]["image.head.weight"])
    assert not torch.equal(found[0]["image.head.weight"], found[3]["image.head.weight"])


def test_paper_val_keeps_the_first_best_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, seen = (0.2, 0.9, 0.5, 0.9, 0.1), []

    def scripted(self: LanguageAlignedClassifier, batch: dict[str, Any], batch_idx: int) -> None:
        seen.append(weights(self.network))
        self.log(VALIDATION_METRIC, scores[self.current_epoch])

    monkeypatch.setattr(LanguageAlignedClassifier, "validation_step", scripted)
    method = cheap("clip", tmp_path, epochs=len(scores), learning_rate=0.01)
    method.fit(small_data(window=SIDE, selection="paper-val"))
    kept = weights(method._network)  # type: ignore[attr-defined]
    assert len(seen) == len(scores)
    assert [same(kept, epoch) for epoch in seen] == [False, True, False, False, False]
    method.fit(small_data(window=SIDE))
    assert len(seen) == len(scores), "validated under the rule that keeps the last epoch"


# Whole-scene inference

HEIGHT, WIDTH = 16, 18


@pytest.fixture(scope="module")
def scene_data() -> SceneDataModule:
    scene = tiny_scene(striped_map(HEIGHT, WIDTH, field=6), bands={"hsi": 5, "lidar": 1})
    return SceneDataModule(scene, DataConfig(window=SIDE, shots=5), inference_batch=50)


def learned(folder: Path, data: SceneDataModule, **changes: Any) -> Clip:
    """Trained long enough to tell the classes apart, whose texts are far from each other."""
    method = cheap("clip", folder, text=text_file(folder / "text"), depth=2, **LEARNING, **changes)
    method.fit(data)
    assert isinstance(method, Clip)
    return method


def padded_windows(data: SceneDataModule) -> dict[str, Tensor]:
    """The windows of all pixels, cut out of padded copies of the images."""
    radius, result = SIDE // 2, {}
    for name, image in data.images.items():
        padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
        rows, columns = np.divmod(np.arange(data.scene.labels.size), data.scene.width)
        cut = [padded[i : i + SIDE, j : j + SIDE].transpose(2, 0, 1) for i, j in zip(rows, columns, strict=True)]
        result[name] = torch.from_numpy(np.stack(cut))
    return result


@pytest.mark.parametrize("timestep", ["zero", "random"])
@pytest.mark.parametrize("readout", ["class", "tokens"])
def test_a_scene_is_classified_as_its_windows_one_by_one(
    readout: str, timestep: str, scene_data: SceneDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = learned(tmp_path, scene_data, readout=readout, timestep=timestep)
    count = scene_data.scene.labels.size
    seen: list[Tensor] = []
    real = clip.cosine_similarity
    with monkeypatch.context() as patch:
        patch.setattr(clip, "cosine_similarity", lambda images, texts: seen.append(images) or real(images, texts))
        predicted = method.predict(scene_data, np.arange(count))

    windows, plain = padded_windows(scene_data), method._network.eval()
    t = [0] * count
    if timestep == "random":
        t = torch.randint(1000, (count,), generator=torch_generator("predict", 0, 0)).tolist()
    images: list[Tensor] = []
    plain.image.register_forward_hook(lambda _, inputs, image: images.append(image))
    with torch.inference_mode():
        logits = torch.cat([plain(flat(windows, i), torch.tensor([t[i]])) for i in range(count)])
    torch.testing.assert_close(torch.cat(seen), torch.cat(images), atol=1e-4, rtol=1e-4)
    best, second = logits.topk(2).values.T
    clear = (best - second) > 1e-3
    assert clear.float().mean() > 0.95
    np.testing.assert_array_equal(predicted[clear], logits.argmax(dim=1)[clear])
    assert len(np.unique(predicted)) == 4, "too uniform a prediction to show a difference"


@pytest.mark.parametrize("timestep", ["zero", "random"])
def test_predictions_are_repeated_and_do_not_depend_on_the_other_pixels(
    timestep: str, scene_data: SceneDataModule, tmp_path: Path
) -> None:
    method = learned(tmp_path, scene_data, readout="class", timestep=timestep)
    every = np.arange(scene_data.scene.labels.size)
    whole = method.predict(scene_data, every)
    np.testing.assert_array_equal(method.predict(scene_data, every), whole)
    some = np.random.default_rng(0).permutation(every)[:61]
    np.testing.assert_array_equal(method.predict(scene_data, some), whole[some])
    assert method.predict(scene_data, every[:0]).shape == (0,)
    larger = SceneDataModule(scene_data.scene, scene_data.config, inference_batch=7)
    np.testing.assert_array_equal(method.predict(larger, every), whole)
    if timestep == "random":
        method.config = method.config.model_copy(update={"timestep": "zero"})
        assert (method.predict(scene_data, every) != whole).any(), "the timestep has no effect here to be repeated"


def test_stems_see_every_pixel_once_and_prompts_are_read_once(
    scene_data: SceneDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = learned(tmp_path, scene_data, readout="class")
    image, texts = method._network.image, method._network.texts
    pixels: list[int] = []
    lengths: list[int] = []
    reads: list[int] = []
    first, last = image.tokenizers["hsi"].stem[0], image.encoder.blocks[-1].mlp
    hooks = [
        first.register_forward_hook(lambda _, inputs, out: pixels.append(math.prod(inputs[0].shape[:-1]))),
        last.register_forward_hook(lambda _, inputs, out: lengths.append(inputs[0].shape[1])),
        texts.register_forward_hook(lambda *_: reads.append(1)),
    ]
    method.predict(scene_data, np.arange(scene_data.scene.labels.size))
    for hook in hooks:
        hook.remove()
    padded = (HEIGHT + SIDE - 1) * (WIDTH + SIDE - 1)
    assert padded <= sum(pixels) < padded + 10
    assert set(lengths) == {1}, "the last block computes more than the class token"
    assert len(reads) == 1


def test_bfloat16_predicts_nearly_the_same(scene_data: SceneDataModule, tmp_path: Path) -> None:
    method = learned(tmp_path, scene_data, readout="tokens")
    every = np.arange(scene_data.scene.labels.size)
    exact = method.predict(scene_data, every)
    execution = ExecutionConfig(precision="bf16-mixed")
    method.context = RunContext(seed=0, draw=0, work_dir=tmp_path, execution=execution)
    rough = method.predict(scene_data, every)
    assert (rough == exact).mean() > 0.9
    np.testing.assert_array_equal(method.predict(scene_data, every), rough)


# Sizes


@pytest.mark.parametrize("readout", ["class", "tokens"])
def test_the_parameters_are_image_texts_and_temperature(
    readout: str, scene_data: SceneDataModule, tmp_path: Path
) -> None:
    block = 4 * 8 + (3 * 8 * 8 + 3 * 8) + (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8)
    tower = (49_408 + 77) * 8 + block + 2 * 8 + 8 * 8  # tokens and places, one block, last norm and projection
    projection = 12 * 8 + 8
    for text, size in (("scratch", tower), (text_file(tmp_path / "text"), projection)):
        method = cheap("clip", tmp_path / text[:7], readout=readout, text=text)
        method.fit(scene_data)
        assert isinstance(method, Clip)
        image = sum(values.numel() for values in method._network.image.parameters())
        assert method.parameter_counts() == (image + size + 1, image + size + 1)


def test_the_released_size_is_the_documented_one() -> None:
    """0.78 million parameters in the live image encoder of Houston2013, 6,945,536 in the text tower."""
    released = ClipConfig(
        width=128, heads=8, depth=4, mlp_ratio=2.0, learn_positions=True, readout="class", text_layers=3
    )
    built = clip_network(released, {"hsi": 144, "lidar": 1}, 11, NAMES)
    assert sum(values.numel() for values in built.texts.parameters()) == 6_945_536
    assert sum(values.numel() for values in built.image.parameters()) == pytest.approx(0.78e6, rel=0.01)
    assert built.scale.log_scale.numel() == 1


# Texts


def test_vectors_on_file_work_end_to_end_and_are_not_needed_again(tmp_path: Path) -> None:
    data, folder = small_data(window=SIDE), tmp_path / "text"
    tower = text_file(folder)
    method = cheap("clip", tmp_path, text=tower, **LEARNING)
    method.fit(data)
    vectors = np.load(folder / "vectors.npy")
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = np.stack([units[4], units[0] + units[1], units[5], units[3]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(method._network.texts.embeddings, expected, atol=1e-6)  # type: ignore[attr-defined]
    method.save(tmp_path / "saved")
    for file in folder.iterdir():
        file.unlink()
    loaded = cheap("clip", tmp_path, text=tower, **LEARNING)
    loaded.load(tmp_path / "saved")
    predicted = method.predict(data, data.query)
    np.testing.assert_array_equal(loaded.predict(data, data.query), predicted)
    assert len(np.unique(predicted)) == 4
    assert loaded.parameter_counts() == method.parameter_counts()


def test_a_real_tower_is_read_once_for_its_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny_models(tmp_path, monkeypatch)
    save_file(tiny_weights(), tmp_path / "tiny.safetensors")
    data, tower, kept = small_data(window=SIDE), f"open_clip:tiny/{tmp_path / 'tiny.safetensors'}", []
    for template in ("a {class}", "a {class}", "one {class}"):
        method = cheap("clip", tmp_path, text=tower, template=template)
        method.fit(data)
        kept.append(sorted((tmp_path / "cache-root" / "text").iterdir()))
        assert method._network.texts.projection.weight.shape == (8, 8)  # type: ignore[attr-defined]
    assert [len(files) for files in kept] == [1, 1, 2]


def test_descriptions_are_ensembled_with_the_template() -> None:
    settings = config(descriptions={"Water": ["a lake", "the {class} of a river"]}, template="seen: {class}")
    texts = network(settings).texts
    with torch.no_grad():
        found = texts()
        prompts = [["seen: Road"], ["seen: Water", "a lake", "the Water of a river"], ["seen: Apple trees"]]
        for row, group in zip(found, prompts, strict=False):
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
    "no file": ({"text": "precomputed:nowhere.yaml"}, DataError, r"nowhere\.yaml: cannot be read"),
    "long prompt": (
        {"template": "very " * 80 + "small {class}"},
        ConfigError,
        r"has \d+ tokens, CLIP reads at most 77; shorten",
    ),
    "long description": (
        {"descriptions": {"class 2": ["grass " * 76]}},
        ConfigError,
        r"'grass .* has 78 tokens, CLIP reads at most 77; shorten",
    ),
    "foreign description": (
        {"descriptions": {"clas 2": ["green"]}},
        ConfigError,
        "unknown class in the descriptions 'clas 2': did you mean class",
    ),
    "no place": ({"template": "a patch"}, ConfigError, r"'a patch' has no \{class\}"),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_bad_texts_are_one_clear_line(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny_models(tmp_path, monkeypatch)  # its hub cache is empty
    changes, error, message = BAD_TEXTS[case]
    method = cheap("clip", tmp_path / "cell", **changes)
    with pytest.raises(error, match=message) as caught:
        method.fit(small_data(window=SIDE))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cell").exists(), "something was trained"
    if case == "no checkpoint":
        assert known_weights()["open_clip:ViT-B-32/openai"].fetch in str(caught.value)


def test_classes_without_a_vector_are_listed(tmp_path: Path) -> None:
    tower = text_file(tmp_path, {"class 1": "a", "class 3": "b"})
    with pytest.raises(ConfigError, match="no vector for 'class 2', 'class 4'; map each under 'classes'"):
        cheap("clip", tmp_path, text=tower).fit(small_data(window=SIDE))


@pytest.mark.parametrize(
    "changes",
    [{"readout": "centre"}, {"width": 10}, {"temperature": 0}, {"crop": "random"}, {"schedule": "step"}, {"masks": 1}],
)
def test_wrong_settings_name_themselves(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"settings of Clip: {next(iter(changes))}: "):
        cheap("clip", tmp_path, **changes)


def test_heads_that_do_not_divide_the_width_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="heads"):
        cheap("clip", tmp_path, width=8, heads=3).fit(small_data(window=SIDE))


# Saved weights


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    method = cheap("clip", tmp_path / "work", readout="tokens")
    method.fit(small_data(window=SIDE))
    method.save(tmp_path / "saved")
    return tmp_path / "saved"


def test_other_channels_than_those_it_was_fitted_to_are_told(saved: Path) -> None:
    """Also by a network from a file, which has seen no data."""
    method = cheap("clip", saved, readout="tokens")
    method.load(saved)
    other = SceneDataModule(
        tiny_scene(striped_map(36, 40), bands={"hsi": 5, "sar": 2}), DataConfig(shots=2, window=SIDE)
    )
    with pytest.raises(ConfigError, match=r"channels hsi 5, lidar 2, but is to classify .* channels hsi 5, sar 2; fit"):
        method.predict(other, np.arange(4))


@pytest.mark.parametrize("file", ["clip.json", "clip.safetensors"])
@pytest.mark.parametrize("content", [b"", b"cut off", None])
def test_damaged_files_are_one_clear_line(content: bytes | None, file: str, saved: Path) -> None:
    path = saved / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match=r"no saved clip can be read here .*; fit and save it again"):
        cheap("clip", saved, readout="tokens").load(saved)


@pytest.mark.parametrize("content", ["{}", "[]", '{"channels": 3, "side": "x", "class_names": 1}'])
def test_a_description_of_something_else_is_one_clear_line(content: str, saved: Path) -> None:
    (saved / "clip.json").write_text(content)
    with pytest.raises(DataError, match="fit and save it again"):
        cheap("clip", saved, readout="tokens").load(saved)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(value: float, saved: Path) -> None:
    tensors = load_file(saved / "clip.safetensors")
    tensors["image.head.weight"][1, 2] = value
    save_file(tensors, saved / "clip.safetensors")
    with pytest.raises(DataError, match=r"image\.head\.weight hold values that are not numbers; fit and save it again"):
        cheap("clip", saved, readout="tokens").load(saved)


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
        # These have no tensor of their own, and would predict something else without a word.
        {"heads": 4},
        {"template": "one {class}"},
        {"timestep": "random"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_weights_of_other_settings_are_refused(changes: dict[str, Any], saved: Path) -> None:
    with pytest.raises(DataError, match="settings") as caught:
        cheap("clip", saved, **{"readout": "tokens", **changes}).load(saved)
    assert "\n" not in str(caught.value)


def test_components_take_the_place_of_the_bands(tmp_path: Path) -> None:
    """As if the protocol had them, and as many as there are bands at most; the data themselves stay as they are."""
    data, with_components = small_data(window=SIDE), small_data(window=SIDE, pca=3)
    settings = {"text": text_file(tmp_path / "text"), **LEARNING}
    method = cheap("clip", tmp_path, components=3, **settings)
    method.fit(data)
    predicted = method.predict(data, data.query)
    assert len(np.unique(predicted)) == 4
    for components in (2, None):
        plain = cheap("clip", tmp_path, components=components, **settings)
        plain.fit(with_components)
        np.testing.assert_array_equal(plain.predict(with_components, data.query), predicted)
    scene = tiny_scene(striped_map(36, 40), bands=data.channels, seed=1)
    one, two = (SceneDataModule(scene, DataConfig(window=SIDE, pca=pca)) for pca in (None, 3))
    np.testing.assert_array_equal(method.predict(one, data.query), plain.predict(two, data.query))
    method.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "clip.json").read_text())["channels"] == [["hsi", 3], ["lidar", 2]]
    loaded = cheap("clip", tmp_path, components=3, **settings)
    loaded.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.predict(small_data(window=SIDE), data.query), predicted)
    assert data.channels == {"hsi": 5, "lidar": 2}


def test_learned_positions_are_saved(tmp_path: Path) -> None:
    data = small_data(window=SIDE)
    settings = {"learn_positions": True, "text": text_file(tmp_path / "text"), **LEARNING}
    method, loaded = (cheap("clip", tmp_path / name, **settings) for name in ("one", "two"))
    method.fit(data)
    method.save(tmp_path / "saved")
    loaded.load(tmp_path / "saved")
    assert "image.tokenizers.hsi.positions" in load_file(tmp_path / "saved" / "clip.safetensors")
    assert same(weights(loaded._network), weights(method._network))  # type: ignore[attr-defined]
    predicted = method.predict(data, data.query)
    np.testing.assert_array_equal(loaded.predict(data, data.query), predicted)
    assert len(np.unique(predicted)) == 4
    assert json.loads((tmp_path / "saved" / "clip.json").read_text())["class_names"] == list(CLASS_NAMES)


# The card


@pytest.mark.parametrize("name", ["clip", "diffclip"])
def test_budgets_grow(name: str) -> None:
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
