"""DiffCLIP as a method: what stage 1 is trained on, which cells share it, what stage 2 takes from it, and its card."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from helpers.clip_helpers import LEARNING, SMALL, small_method, text_file
from helpers.method_helpers import small_data
from helpers.network_helpers import same, weights
from helpers.tiny import striped_map, tiny_scene
from safetensors.torch import load_file
from torch import Tensor

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import ConfigError, DataError, TrainingError
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.clip.config import ClipConfig, DiffClipConfig
from mmrs_bench.methods.clip.masked_vit import MaskedDiffusionTransformer
from mmrs_bench.methods.clip.method import DiffClip
from mmrs_bench.methods.clip.module import MaskedDiffusionPretrainer
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.pretraining import STAGE
from mmrs_bench.scenes.datamodule import SceneDataModule

SIDE = 5


def diffclip(folder: Path, **options: Any) -> DiffClip:
    method = small_method("diffclip", folder, **options)
    assert isinstance(method, DiffClip)
    return method


def pretrained(folder: Path, data: SceneDataModule, **options: Any) -> DiffClip:
    method = diffclip(folder, **options)
    method.pretrain(data)
    return method


def pretrained_weights(folder: Path, data: SceneDataModule, **options: Any) -> dict[str, Tensor]:
    return weights(pretrained(folder, data, **options).pretrained)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A list of the later trainings; each is replaced by random steps, which take no time."""
    seen: list[dict[str, Any]] = []

    def fit(module: Any, data: Any, context: RunContext, **options: Any) -> None:
        batches = [batch for _ in range(2) for batch in data.train_dataloader()]
        seen.append({**options, "batches": batches, "module": module, "start": weights(module.network)})
        generator = torch.Generator().manual_seed(len(seen))
        with torch.no_grad():
            for values in module.network.state_dict().values():
                if values.is_floating_point():
                    values.add_(torch.rand(values.shape, generator=generator))

    monkeypatch.setattr(training, "fit", fit)
    return seen


def pretrainings(stages: list[dict[str, Any]]) -> int:
    return sum(stage["stage"] == STAGE for stage in stages)


# What is refused before stage 1


@pytest.mark.parametrize(("window", "ratio"), [(1, 0.7), (1, 0.01), (3, 0.95), (5, 0.99), (5, 1e-17)])
def test_masks_that_leave_no_pixel_or_every_pixel_visible_are_refused(
    window: int, ratio: float, tmp_path: Path
) -> None:
    left = 0 if ratio > 1e-3 else window * window
    with pytest.raises(ConfigError, match=rf"mask_ratio {ratio} leaves {left} of the {window**2} pixels of a window"):
        pretrained(tmp_path / "cell", small_data(window=window), mask_ratio=ratio)
    assert not list(tmp_path.iterdir()), "something was trained or written"


@pytest.mark.parametrize(
    "changes",
    [{"mask_ratio": 0}, {"mask_ratio": 1.0}, {"pretrain_source": "query"}, {"pretrain_epochs": 0}, {"mask": 1}],
)
def test_the_message_names_the_wrong_setting(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"settings of DiffClip: {next(iter(changes))}( is not a known field|: )"):
        diffclip(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "precomputed"}, "no vector for 'class 2', 'class 4'"),
        ({"text": "clap"}, "unknown text tower 'clap'"),
    ],
    ids=["no vector", "no tower"],
)
def test_bad_texts_are_refused_before_the_pretraining(
    changes: dict[str, Any], message: str, stages: list[dict[str, Any]], tmp_path: Path
) -> None:
    if changes.get("text") == "precomputed":
        changes = {"text": text_file(tmp_path / "text", {"class 1": "a", "class 3": "b"})}
    with pytest.raises(ConfigError, match=message):
        pretrained(tmp_path, small_data(window=SIDE), **changes)
    assert stages == []


# What stage 1 is trained on


@pytest.mark.parametrize(
    ("source", "data"),
    [
        ("unlabelled", small_data(5, window=SIDE)),
        ("unlabelled", small_data(5, window=SIDE, unlabelled="support")),
        ("support", small_data(5, window=SIDE)),
    ],
    ids=["scene", "scope", "support"],
)
def test_stage_1_is_trained_on_windows_of_its_source_without_labels(
    source: str, data: SceneDataModule, stages: list[dict[str, Any]], tmp_path: Path
) -> None:
    settings = {"pretrain_source": source, "pretrain_windows": 100, "pretrain_batch": 30, "pretrain_epochs": 7}
    pretrained(tmp_path, data, **settings)
    (stage,) = stages
    whole_scene = source == "unlabelled" and data.config.unlabelled == "scene"
    sizes = [25] * 4 if whole_scene else [20]
    assert [len(batch["pixel"]) for batch in stage["batches"]] == 2 * sizes
    halves = stage["batches"][: len(sizes)], stage["batches"][len(sizes) :]
    epochs = [torch.cat([batch["pixel"] for batch in half]) for half in halves]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == len(epoch)
    if whole_scene:
        assert len(set(torch.cat(epochs).tolist())) > 150, "two epochs have the same windows"
    else:
        assert set(epochs[0].tolist()) == set(data.support.tolist())
    assert all(set(batch) == {"pixel", "symmetry"} for batch in stage["batches"])
    assert (stage["stage"], stage["epochs"], stage["resumable"]) == (STAGE, 7, True)


# What stage 2 takes from stage 1


@pytest.mark.parametrize("learn_positions", [False, True])
def test_stage_2_starts_with_the_weights_of_stage_1_and_otherwise_like_clip(
    learn_positions: bool, stages: list[dict[str, Any]], tmp_path: Path
) -> None:
    data = small_data(window=SIDE)
    changes = {"seed": 2, "draw": 5, "learn_positions": learn_positions}
    pretrained(tmp_path, data, **changes).fit(data)
    small_method("clip", tmp_path, **changes).fit(data)
    (entry,) = (tmp_path / "cache-root" / "pretraining").glob("*.safetensors")
    stored, start, plain = load_file(entry), stages[1]["start"], stages[2]["start"]
    assert start.keys() == plain.keys()
    taken = {f"image.{name}" for name in stored if not name.startswith("decoders.")}
    for name, values in start.items():
        source = stored[name.removeprefix("image.")] if name in taken else plain[name]
        torch.testing.assert_close(values, source, rtol=0, atol=0)
    assert any("running_mean" in name for name in taken)
    assert start.keys() - taken >= {"image.head.weight", "scale.log_scale"}
    assert not torch.equal(start["image.encoder.norm.weight"], plain["image.encoder.norm.weight"])


def test_at_encoder_rate_0_the_fitted_encoder_is_the_pretrained_one(tmp_path: Path) -> None:
    data = small_data(window=SIDE)
    method = pretrained(tmp_path, data, encoder_rate=0.0, readout="class")
    method.fit(data)
    stored = dict(method.pretrained.named_parameters())
    sizes = {name: SMALL["diffclip"][name] for name in ("width", "heads", "depth", "decoder_depth")}
    build = lambda: MaskedDiffusionTransformer(data.channels, SIDE, mlp_ratio=2.0, **sizes)  # noqa: E731
    untrained = dict(training.initialised(build, RunContext(0, 0, tmp_path), "pretraining").named_parameters())
    for name, values in method.network.image.named_parameters():
        if not name.startswith("head."):
            assert torch.equal(values, stored[name]), name
            assert not torch.equal(values, untrained[name]), f"{name} was not pretrained"
    logs = list((tmp_path / "cache-root" / "pretraining").glob("*/logs/pretraining/metrics.csv"))
    columns = logs[0].read_text().splitlines()[0].split(",")
    assert {f"{part}_{name}" for part in ("visible", "masked") for name in data.channels} <= set(columns)
    assert method.predict(data, data.query).shape == data.query.shape


def test_the_released_size_of_stage_1_is_the_documented_one(stages: list[dict[str, Any]], tmp_path: Path) -> None:
    """1,607,744 parameters for 63 bands and one LiDAR raster."""
    scene = tiny_scene(striped_map(36, 40), bands={"hsi": 63, "lidar": 1})
    released = {"width": 128, "heads": 8, "depth": 4, "decoder_depth": 3, "mlp_ratio": 2.0}
    network = pretrained(tmp_path, SceneDataModule(scene, DataConfig(window=11)), **released).pretrained
    assert sum(values.numel() for values in network.parameters()) == 1_607_744
    assert {part.attention.heads for part in network.encoder.blocks} == {8}  # type: ignore[union-attr]


def test_a_fitted_network_needs_neither_pretraining_nor_text_file(tmp_path: Path) -> None:
    data = small_data(window=SIDE)
    settings = {"text": text_file(tmp_path / "text"), "components": 3, **LEARNING}
    method = pretrained(tmp_path, data, **settings)
    method.fit(data)
    expected = method.predict(data, data.query)
    assert len(np.unique(expected)) == 4
    method.save(tmp_path / "saved")
    for file in [*(tmp_path / "text").iterdir(), *(tmp_path / "cache-root").rglob("*.safetensors")]:
        file.unlink()
    loaded = diffclip(tmp_path, **settings)
    loaded.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.predict(small_data(window=SIDE), data.query), expected)
    with pytest.raises(DataError, match="settings"):
        diffclip(tmp_path, **{**settings, "width": 8}).load(tmp_path / "saved")


# Which cells share a pretraining


def test_shots_and_draws_share_the_pretraining_of_a_scene(stages: list[dict[str, Any]], tmp_path: Path) -> None:
    for shots in (2, 5):
        for draw in (0, 1, 2):
            data = small_data(shots, draw=draw, window=SIDE)
            pretrained(tmp_path / f"{shots}-{draw}", data, draw=draw).fit(data)
    assert pretrainings(stages) == 1
    assert len(stages) == 1 + 6


@pytest.mark.parametrize(
    ("changes", "protocol"),
    [
        ({"pretrain_source": "support"}, {}),
        ({}, {"unlabelled": "support"}),
        ({}, {"normalisation_scope": "support"}),
        ({"components": 2}, {"normalisation_scope": "support"}),
    ],
    ids=["support", "unlabelled support", "normalised on the support", "components of the support"],
)
def test_a_pretraining_that_depends_on_the_support_set_is_not_shared(
    changes: dict[str, Any], protocol: dict[str, Any], stages: list[dict[str, Any]], tmp_path: Path
) -> None:
    counts = []
    for shots, draw in ((2, 0), (2, 1), (3, 0), (2, 1)):
        pretrained(tmp_path, small_data(shots, draw=draw, window=SIDE, **protocol), draw=draw, **changes)
        counts.append(pretrainings(stages))
    assert counts == [1, 2, 3, 3]


@pytest.mark.parametrize("scope", ["unlabelled", "normalisation_scope"])
def test_train_blocks_are_shared_by_shots_but_not_by_draws(
    scope: str, stages: list[dict[str, Any]], tmp_path: Path
) -> None:
    scene = tiny_scene(striped_map(60, 64), bands={"hsi": 3})
    areas, counts = [], []
    for shots, draw in ((2, 0), (2, 2), (3, 0)):
        settings = {"split": "block-v1", "shots": shots, "draw": draw, "window": 3, scope: "train-blocks"}
        data = SceneDataModule(scene, DataConfig.model_validate(settings))
        pretrained(tmp_path, data, draw=draw)
        areas.append(data.split.train_area.tolist())  # type: ignore[union-attr]
        counts.append(pretrainings(stages))
    assert areas[0] == areas[2] != areas[1]
    assert counts == [1, 2, 2]


def test_other_images_windows_and_seeds_have_their_own_pretraining(
    stages: list[dict[str, Any]], tmp_path: Path
) -> None:
    other = tiny_scene(striped_map(36, 40), bands={"hsi": 5, "lidar": 2}, seed=1)
    named = tiny_scene(striped_map(36, 40), bands={"hsi": 5, "lidar": 2}, scene_id="other")
    cases: list[tuple[SceneDataModule, dict[str, Any]]] = [
        (small_data(window=SIDE), {}),
        (small_data(window=SIDE), {"seed": 1}),
        (small_data(window=7), {}),
        (small_data(window=SIDE, modalities=("hsi",)), {}),
        (small_data(window=SIDE, pca=3), {}),
        (small_data(window=SIDE), {"components": 4}),
        (small_data(window=SIDE, normalisation="minmax"), {}),
        (SceneDataModule(other, DataConfig(window=SIDE)), {}),
        (SceneDataModule(named, DataConfig(window=SIDE)), {}),
    ]
    for count, (data, changes) in enumerate(cases, start=1):
        for _ in range(2):
            pretrained(tmp_path, data, **changes)
            assert pretrainings(stages) == count
    scene = small_data().scene
    relabelled = replace(scene, ground_truth=np.roll(scene.ground_truth, 5, axis=0))
    pretrained(tmp_path, SceneDataModule(relabelled, DataConfig(window=SIDE)))
    assert pretrainings(stages) == len(cases), "the pretraining depends on labels"


def altered(name: str, value: Any, folder: Path) -> Any:
    """Another valid value of a setting."""
    special = {"template": "one {class}", "descriptions": {"class 2": ("green",)}, "components": 3}
    if name == "text":
        return text_file(folder / "text")
    if name in special:
        return special[name]
    options = get_args(DiffClipConfig.model_fields[name].annotation)
    if options:
        return next(option for option in options if option != value)
    if isinstance(value, bool):
        return not value
    return value * 2 if isinstance(value, int) else value / 2 or 0.25


STAGE_1_SETTINGS = {"width", "heads", "depth", "mlp_ratio"} | (
    set(DiffClipConfig.model_fields) - set(ClipConfig.model_fields)
)


def test_every_setting_of_stage_1_has_its_own_pretraining_and_those_of_stage_2_share_one(
    stages: list[dict[str, Any]], tmp_path: Path
) -> None:
    data = small_data(window=SIDE)
    base = pretrained(tmp_path, data)
    found = {}
    for name in DiffClipConfig.model_fields:
        before = pretrainings(stages)
        method = pretrained(tmp_path, data, **{name: altered(name, getattr(base.config, name), tmp_path)})
        assert getattr(method.config, name) != getattr(base.config, name)
        found[name] = pretrainings(stages) - before
    separate = STAGE_1_SETTINGS | {"components"}  # which change the images
    assert found == {name: int(name in separate) for name in DiffClipConfig.model_fields}


def test_every_setting_of_stage_1_changes_its_weights_and_none_of_stage_2_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real trainings; settings of stage 2, other shots and another draw have a cache of their own."""
    data = small_data(window=SIDE)
    base = diffclip(tmp_path)
    first = pretrained_weights(tmp_path, data)
    changes = {name: altered(name, getattr(base.config, name), tmp_path) for name in DiffClipConfig.model_fields}
    for name in sorted(STAGE_1_SETTINGS):
        other = pretrained_weights(tmp_path, data, **{name: changes[name]})
        assert not same(first, other), f"{name} changes nothing"
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "another cache"))
    later = {name: value for name, value in changes.items() if name not in STAGE_1_SETTINGS | {"components"}}
    again = pretrained_weights(tmp_path, small_data(5, draw=3, window=SIDE), draw=3, **later)
    assert same(first, again)


# Interruptions


def stopping(step: int, stop: Callable[[], None], seen: list[int]) -> Callable[..., Tensor]:
    """A training step that notes its number and stops at one of them."""
    real = MaskedDiffusionPretrainer.training_step

    def training_step(self: MaskedDiffusionPretrainer, batch: dict[str, Any], batch_idx: int) -> Tensor:
        seen.append(self.global_step)
        if self.global_step == step:
            stop()
        return real(self, batch, batch_idx)

    return training_step


def test_an_interrupted_pretraining_continues_and_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the third of four epochs of two steps."""
    data = small_data(window=SIDE)
    with monkeypatch.context() as patch:
        step = stopping(5, lambda: os.kill(os.getpid(), signal.SIGINT), [])
        patch.setattr(MaskedDiffusionPretrainer, "training_step", step)
        with pytest.raises(KeyboardInterrupt):
            pretrained(tmp_path, data, pretrain_epochs=4)
    assert not list((tmp_path / "cache-root" / "pretraining").glob("*.safetensors"))
    seen: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(MaskedDiffusionPretrainer, "training_step", stopping(-1, lambda: None, seen))
        resumed = pretrained_weights(tmp_path, data, pretrain_epochs=4)
    assert seen == [4, 5, 6, 7], "it did not continue from the checkpoint of the second epoch"
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "undisturbed"))
    assert same(resumed, pretrained_weights(tmp_path, data, pretrain_epochs=4))


@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_a_loss_that_is_not_finite_stops_the_pretraining_which_can_be_resumed(value: float, tmp_path: Path) -> None:
    data, done = small_data(window=SIDE), []
    rows = data.gatherer(torch.device("cpu")).rows
    clean = rows.clone()

    def progress(stage: str, share: float) -> None:
        done.append(share)
        if len(done) == 3:
            rows[:, 5:] = value

    with pytest.raises(TrainingError, match=r"the loss of modality lidar is (nan|inf) at step 3; lower the learning"):
        pretrained(tmp_path, data, pretrain_epochs=4, progress=progress)
    rows.copy_(clean)
    resumed = pretrained_weights(tmp_path, data, pretrain_epochs=4)
    fresh = pretrained_weights(tmp_path, data, pretrain_epochs=4, seed=1)
    assert all(torch.isfinite(values).all() for values in (*resumed.values(), *fresh.values()))
    about = [json.loads(path.read_text()) for path in (tmp_path / "cache-root" / "pretraining").glob("*.json")]
    assert {entry["seed"]: entry["resumed"] for entry in about} == {0: True, 1: False}


# The card


def variants() -> Iterator[tuple[str, dict[str, Any], str]]:
    card = method_card("diffclip")
    for name, variant in card.variants.items():
        yield name, resolve_config(card, name, "paper"), variant.unranked


def test_variants_with_errors_of_the_released_code_are_never_ranked() -> None:
    """Misplaced tokens, unregistered crops, random timesteps."""
    with_errors = {
        name: bool(unranked)
        for name, settings, unranked in variants()
        if settings["misplaced_tokens"]
        or "independent" in (settings["crop"], settings["pretrain_crop"])
        or settings["timestep"] == "random"
    }
    assert with_errors == {"release-exact": True}


def test_variants_have_the_settings_that_their_names_promise() -> None:
    found = {name: settings for name, settings, _ in variants()}
    paper = found["paper"]
    assert paper["text"].startswith("open_clip:")
    assert (paper["pretrain_source"], paper["contrast"], paper["timestep"]) == ("unlabelled", "class", "zero")
    released = {
        "pretrain_source": "support",
        "contrast": "diagonal",
        "pretrain_epochs": 400,
        "epochs": 150,
        "pretrain_schedule": "restarts",
        "schedule": "multistep",
        "components": None,
    }
    for name in ("release", "release-exact"):
        assert {setting: found[name][setting] for setting in released} == released


def test_clip_is_diffclip_without_its_first_stage() -> None:
    """Both cards have the same value of every setting that both have, under every budget."""
    for budget in ("smoke", "quick", "paper"):
        with_stage_1 = resolve_config(method_card("diffclip"), "default", budget)
        without = resolve_config(method_card("clip"), "default", budget)
        assert without == {name: with_stage_1[name] for name in without}
