"""Stage 1 against slow loops, what shares a pretraining and what must not, and what stage 2 takes from it."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from helpers.clip_helpers import (
    CHEAP,
    LEARNING,
    cheap,
    flat,
    slowly_cropped,
    text_file,
)
from helpers.method_helpers import small_data
from helpers.network_helpers import random_windows, same, silent, weights, without_gradient
from helpers.tiny import striped_map, tiny_scene
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import ConfigError, DataError, TrainingError
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.clip.diffclip import (
    STAGE,
    DiffClip,
    DiffClipConfig,
    MaskedDiffusionPretrainer,
    visible_count,
)
from mmrs_bench.methods.clip.masked_vit import MaskedDiffusionTransformer, VisibleTokens
from mmrs_bench.methods.clip.method import ClipConfig, diffclip
from mmrs_bench.methods.toolkit import training
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule

SIDE, BATCH, SEED = 5, 4, 3
MODALITIES: list[dict[str, int]] = [{"hsi": 5}, {"hsi": 5, "sar": 4}, {"hsi": 5, "lidar": 1, "dsm": 2}]


def config(**changes: Any) -> DiffClipConfig:
    sizes = {"width": 8, "heads": 2, "depth": 2, "decoder_depth": 1}
    return DiffClipConfig(**{**sizes, **changes})


def pretrainer(settings: DiffClipConfig, channels: Mapping[str, int], *, seed: int = SEED) -> MaskedDiffusionPretrainer:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        network = MaskedDiffusionTransformer(
            channels,
            SIDE,
            width=settings.width,
            heads=settings.heads,
            depth=settings.depth,
            decoder_depth=settings.decoder_depth,
        )
    made = MaskedDiffusionPretrainer(network, settings, side=SIDE, seed=seed)
    silent(made)
    return made


def batch_of(windows: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"pixel": torch.arange(len(next(iter(windows.values())))), "windows": dict(windows)}


# The training step


def slow_loss(
    made: MaskedDiffusionPretrainer, settings: DiffClipConfig, clean: Mapping[str, Tensor], *at: int
) -> float:
    """Window after window, modality after modality, pixel after pixel, in the order in which numbers are drawn."""
    generator = torch_generator("pretraining", *at)
    cropped = slowly_cropped(clean, settings.pretrain_crop, generator)
    timesteps = torch.randint(1000, (BATCH,), generator=generator).tolist()
    n, v = SIDE * SIDE, math.floor(SIDE * SIDE * (1 - settings.mask_ratio))
    read: dict[str, list[list[int]]] = {}
    write: dict[str, list[list[int]]] = {}
    for place, name in enumerate(clean):
        shuffles = torch.rand(BATCH, n, generator=generator).argsort(dim=1).tolist()
        write[name] = [shuffle[:v] for shuffle in shuffles]
        read[name] = write[name]
        if settings.misplaced_tokens and place > 0:
            read[name] = [[shuffle.index(token) for token in range(v)] for shuffle in shuffles]
    noise = {name: torch.randn(BATCH, v, x.shape[1], generator=generator) for name, x in clean.items()}
    visible: dict[str, list[float]] = {name: [] for name in clean}
    masked: dict[str, list[float]] = {name: [] for name in clean}
    for i, t in enumerate(timesteps):
        kept = math.prod(1 - (1e-4 + (0.02 - 1e-4) * step / 999) for step in range(t + 1))
        pixels = {name: x[0] for name, x in flat(cropped, i).items()}
        seen = {
            name: torch.stack(
                [
                    math.sqrt(kept) * pixels[name][token] + math.sqrt(1 - kept) * noise[name][i, j]
                    for j, token in enumerate(read[name][i])
                ]
            )[None]
            for name in clean
        }
        places = {name: VisibleTokens(torch.tensor([read[name][i]]), torch.tensor([write[name][i]])) for name in clean}
        predicted = made.network(seen, torch.tensor([t]), places)
        for name in clean:
            for token in range(n):
                error = float((predicted[name][0, token] - pixels[name][token]).square().mean())
                (visible if token in write[name][i] else masked)[name].append(error)
    return sum(
        sum(visible[name]) / len(visible[name]) + settings.masked_weight * sum(masked[name]) / len(masked[name])
        for name in clean
    )


@pytest.mark.parametrize("channels", MODALITIES, ids=len)
@pytest.mark.parametrize(
    "changes",
    [
        {"pretrain_crop": "none"},
        {"pretrain_crop": "joint", "mask_ratio": 0.5},
        {"pretrain_crop": "independent", "masked_weight": 0.6},
        {"misplaced_tokens": True, "masked_weight": 0.6},
    ],
    ids=["plain", "joint", "independent", "misplaced"],
)
def test_the_step_is_that_of_a_loop(
    changes: dict[str, Any], channels: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(**changes)
    made = pretrainer(settings, channels)
    made.eval()  # a window alone has other batch statistics than a batch
    monkeypatch.setattr(MaskedDiffusionPretrainer, "current_epoch", 2)
    clean = random_windows(channels, BATCH, SIDE)
    with torch.no_grad():
        found = made.training_step(batch_of(clean), 9)
        assert float(found) == pytest.approx(slow_loss(made, settings, clean, SEED, 2, 9), rel=1e-4)


def recorded(made: MaskedDiffusionPretrainer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the network of a pretrainer is called with."""
    calls: list[tuple[Any, ...]] = []
    real = made.network.forward
    monkeypatch.setattr(made.network, "forward", lambda *inputs: calls.append(inputs) or real(*inputs))
    return calls


@pytest.mark.parametrize("channels", MODALITIES, ids=len)
def test_the_modalities_of_a_window_share_its_timestep_and_nothing_else(
    channels: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pretrainer(config(), channels)
    calls = recorded(made, monkeypatch)
    noised_at: list[Tensor] = []
    real = diffclip.add_noise
    monkeypatch.setattr(
        diffclip, "add_noise", lambda schedule, x, t, generator: noised_at.append(t) or real(schedule, x, t, generator)
    )
    for index in range(30):
        made.training_step(batch_of(random_windows(channels, BATCH, SIDE)), index)
    assert len(noised_at) == 30 * len(channels)
    for index, (_, told, places) in enumerate(calls):
        for t in noised_at[index * len(channels) : (index + 1) * len(channels)]:
            assert torch.equal(t, told)
        masks = [places[name].read for name in channels]
        assert all(not torch.equal(masks[0], other) for other in masks[1:])
    every = torch.cat([told for _, told, _ in calls])
    assert every.unique().numel() > 100
    assert 0 <= int(every.min()) < 50
    assert 950 < int(every.max()) < 1000


@pytest.mark.parametrize("misplaced", [False, True])
def test_only_modalities_after_the_first_are_misplaced(misplaced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pretrainer(config(misplaced_tokens=misplaced), MODALITIES[2])
    calls = recorded(made, monkeypatch)
    made.training_step(batch_of(random_windows(MODALITIES[2], BATCH, SIDE)), 0)
    ((_, _, places),) = calls
    moved = {name: not torch.equal(place.read, place.write) for name, place in places.items()}
    assert moved == {"hsi": False, "lidar": misplaced, "dsm": misplaced}
    for place in places.values():
        assert place.read.shape == place.write.shape == (BATCH, 7)
        assert all(len(set(row)) == 7 for row in (*place.read.tolist(), *place.write.tolist()))


def test_steps_hang_on_seed_epoch_and_batch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = batch_of(random_windows(MODALITIES[1], BATCH, SIDE))

    def loss(*, seed: int = 0, epoch: int = 0, index: int = 0) -> float:
        monkeypatch.setattr(MaskedDiffusionPretrainer, "current_epoch", epoch)
        made = pretrainer(config(), MODALITIES[1], seed=seed)
        torch.rand(3)
        return float(made.training_step(clean, index).detach())

    assert loss() == loss()
    assert len({loss(), loss(seed=1), loss(epoch=1), loss(index=1)}) == 4


@pytest.mark.parametrize("channels", MODALITIES, ids=len)
@pytest.mark.parametrize("misplaced", [False, True])
def test_a_gradient_reaches_every_parameter(misplaced: bool, channels: dict[str, int]) -> None:
    made = pretrainer(config(misplaced_tokens=misplaced), channels)
    made.training_step(batch_of(random_windows(channels, BATCH, SIDE)), 0).backward()
    assert without_gradient(made) == []
    assert all(values.requires_grad for values in made.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("name", ["hsi", "lidar", "dsm"])
def test_a_loss_that_is_no_number_names_modality_and_step(
    name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MaskedDiffusionPretrainer, "global_step", 17)
    made = pretrainer(config(), MODALITIES[2])
    windows = random_windows(MODALITIES[2], BATCH, SIDE)
    windows[name][2, 0, 1, 3] = value
    with pytest.raises(TrainingError, match=rf"^pretraining: the loss of modality {name} is (nan|inf) at step 17;"):
        made.training_step(batch_of(windows), 0)


# Masks


@pytest.mark.parametrize(("side", "ratio", "count"), [(11, 0.7, 36), (5, 0.5, 12), (5, 0.95, 1), (3, 0.1, 8)])
def test_the_visible_count_is_rounded_down(side: int, ratio: float, count: int) -> None:
    assert visible_count(side, ratio) == count


@pytest.mark.parametrize(("side", "ratio", "count"), [(5, 0.8, 5), (5, 0.96, 1), (5, 0.4, 15)])
def test_a_whole_count_is_not_rounded(side: int, ratio: float, count: int) -> None:
    """1 - 0.8 is less than 0.2 in floating point."""
    assert visible_count(side, ratio) == count


@pytest.mark.parametrize(("window", "ratio"), [(1, 0.7), (1, 0.01), (3, 0.95), (5, 0.99), (5, 1e-17)])
def test_masks_that_leave_nothing_or_everything_are_refused(window: int, ratio: float, tmp_path: Path) -> None:
    left = 0 if ratio > 1e-3 else window * window
    method = cheap("diffclip", tmp_path / "cell", mask_ratio=ratio)
    with pytest.raises(ConfigError, match=rf"mask_ratio {ratio} leaves {left} of the {window**2} pixels of a window"):
        method.pretrain(small_data(window=window))
    assert not list(tmp_path.iterdir()), "something was trained or written"


@pytest.mark.parametrize(
    "changes",
    [
        {"mask_ratio": 0},
        {"mask_ratio": 1.0},
        {"pretrain_source": "query"},
        {"pretrain_schedule": "multistep"},
        {"pretrain_epochs": 0},
        {"mask": 0.7},
    ],
)
def test_wrong_settings_name_themselves(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"settings of DiffClip: {next(iter(changes))}: "):
        cheap("diffclip", tmp_path, **changes)


# What stage 1 is trained on


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A list of the trainings from here on; each is replaced by random steps, which take no time."""
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


@pytest.mark.parametrize(
    ("source", "data"),
    [
        ("unlabelled", small_data(5, window=SIDE)),
        ("unlabelled", small_data(5, window=SIDE, unlabelled="support")),
        ("support", small_data(5, window=SIDE)),
    ],
    ids=["scene", "scope", "support"],
)
def test_stage_1_sees_its_source_in_windows_without_labels(
    source: str, data: SceneDataModule, stages: list[dict[str, Any]], tmp_path: Path
) -> None:
    settings = {"pretrain_source": source, "pretrain_windows": 100, "pretrain_batch": 30, "pretrain_epochs": 7}
    cheap("diffclip", tmp_path, **settings).pretrain(data)
    (stage,) = stages
    whole_scene = source == "unlabelled" and data.config.unlabelled == "scene"
    sizes = [25] * 4 if whole_scene else [20]
    assert [len(batch["pixel"]) for batch in stage["batches"]] == 2 * sizes
    halves = stage["batches"][: len(sizes)], stage["batches"][len(sizes) :]
    epochs = [torch.cat([batch["pixel"] for batch in half]) for half in halves]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == len(epoch)
    if whole_scene:
        assert len(set(torch.cat(epochs).tolist())) > 150, "the windows of an epoch are those of the one before"
    else:
        assert set(epochs[0].tolist()) == set(data.support.tolist())
    assert all(set(batch) == {"pixel", "symmetry"} for batch in stage["batches"])
    assert (stage["stage"], stage["epochs"], stage["checkpoint_every"]) == (STAGE, 7, 1)


def test_checkpoints_and_symmetries_follow_the_settings(stages: list[dict[str, Any]], tmp_path: Path) -> None:
    data = small_data(window=SIDE)
    cheap("diffclip", tmp_path, pretrain_epochs=400, pretrain_symmetries=False).pretrain(data)
    assert 5 <= stages[0]["checkpoint_every"] <= 40
    assert all("symmetry" not in batch for batch in stages[0]["batches"])
    optimizer = pretrainer(config(pretrain_rate=0.02, pretrain_decay=0.3), MODALITIES[0]).configure_optimizers()
    (group,) = optimizer["optimizer"].param_groups
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.3)
    assert isinstance(optimizer["optimizer"], torch.optim.Adam)


# What stage 2 takes from stage 1


@pytest.mark.parametrize("learn_positions", [False, True])
def test_stage_2_starts_from_stage_1_and_is_clip_in_all_else(
    learn_positions: bool, stages: list[dict[str, Any]], tmp_path: Path
) -> None:
    data = small_data(window=SIDE)
    changes = {"seed": 2, "draw": 5, "learn_positions": learn_positions}
    method, other = cheap("diffclip", tmp_path, **changes), cheap("clip", tmp_path, **changes)
    method.pretrain(data)
    method.fit(data)
    other.fit(data)
    (entry,) = (tmp_path / "cache-root" / "pretraining").glob("*.safetensors")
    pretrained, start, plain = load_file(entry), stages[1]["start"], stages[2]["start"]
    assert start.keys() == plain.keys()
    taken = {f"image.{name}" for name in pretrained if not name.startswith("decoders.")}
    assert taken
    for name, values in start.items():
        source = pretrained[name.removeprefix("image.")] if name in taken else plain[name]
        torch.testing.assert_close(values, source, rtol=0, atol=0)
    assert any("running_mean" in name for name in taken)
    assert start.keys() - taken >= {"image.head.weight", "scale.log_scale"}
    assert not torch.equal(start["image.encoder.norm.weight"], plain["image.encoder.norm.weight"])


def test_both_stages_run_and_without_a_rate_the_encoder_stays_the_pretrained_one(tmp_path: Path) -> None:
    data = small_data(window=SIDE)
    method = cheap("diffclip", tmp_path, encoder_rate=0.0, readout="class")
    method.pretrain(data)
    method.fit(data)
    assert isinstance(method, DiffClip)
    pretrained = dict(method._pretrained.named_parameters())
    sizes = {name: CHEAP["diffclip"][name] for name in ("width", "heads", "depth", "decoder_depth")}
    build = lambda: MaskedDiffusionTransformer(data.channels, SIDE, **sizes)  # noqa: E731
    untrained = dict(training.initialised(build, RunContext(0, 0, tmp_path), "pretraining").named_parameters())
    for name, values in method._network.image.named_parameters():
        if not name.startswith("head."):
            assert torch.equal(values, pretrained[name]), name
            assert not torch.equal(values, untrained[name]), f"{name} was not pretrained"
    logs = list((tmp_path / "cache-root" / "pretraining").glob("*/logs/pretraining/metrics.csv"))
    columns = logs[0].read_text().splitlines()[0].split(",")
    assert {f"{part}_{name}" for part in ("visible", "masked") for name in data.channels} <= set(columns)
    assert method.predict(data, data.query).shape == data.query.shape


def test_the_released_size_is_the_documented_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,607,744 parameters for 63 bands and one LiDAR raster, however the method's settings reach the network."""
    built: list[torch.nn.Module] = []
    monkeypatch.setattr(diffclip, "load_or_pretrain", lambda address, build, train, context: built.append(build()))
    scene = tiny_scene(striped_map(36, 40), bands={"hsi": 63, "lidar": 1})
    released = {"width": 128, "heads": 8, "depth": 4, "decoder_depth": 3, "mlp_ratio": 2.0}
    cheap("diffclip", tmp_path, **released).pretrain(SceneDataModule(scene, DataConfig(window=11)))
    assert sum(values.numel() for values in built[0].parameters()) == 1_607_744
    assert {part.attention.heads for part in built[0].encoder.blocks} == {8}  # type: ignore[union-attr]


# What shares a pretraining


def trainings(stages: list[dict[str, Any]]) -> int:
    return sum(stage["stage"] == STAGE for stage in stages)


def test_shots_and_draws_share_the_pretraining_of_the_scene(stages: list[dict[str, Any]], tmp_path: Path) -> None:
    for shots in (2, 5):
        for draw in (0, 1, 2):
            method = cheap("diffclip", tmp_path / f"{shots}-{draw}", draw=draw)
            data = small_data(shots, draw=draw, window=SIDE)
            method.pretrain(data)
            method.fit(data)
    assert trainings(stages) == 1
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
def test_what_hangs_on_the_support_is_not_shared(
    changes: dict[str, Any], protocol: dict[str, Any], stages: list[dict[str, Any]], tmp_path: Path
) -> None:
    counts = []
    for shots, draw in ((2, 0), (2, 1), (3, 0), (2, 1)):
        cheap("diffclip", tmp_path, draw=draw, **changes).pretrain(
            small_data(shots, draw=draw, window=SIDE, **protocol)
        )
        counts.append(trainings(stages))
    assert counts == [1, 2, 3, 3]


@pytest.mark.parametrize("scope", ["unlabelled", "normalisation_scope"])
def test_train_blocks_are_shared_by_shots_and_not_by_draws(
    scope: str, stages: list[dict[str, Any]], tmp_path: Path
) -> None:
    scene = tiny_scene(striped_map(60, 64), bands={"hsi": 3})
    areas, counts = [], []
    for shots, draw in ((2, 0), (2, 2), (3, 0)):
        settings = {"split": "block-v1", "shots": shots, "draw": draw, "window": 3, scope: "train-blocks"}
        data = SceneDataModule(scene, DataConfig.model_validate(settings))
        cheap("diffclip", tmp_path, draw=draw).pretrain(data)
        areas.append(data.split.train_area.tolist())  # type: ignore[union-attr]
        counts.append(trainings(stages))
    assert areas[0] == areas[2] != areas[1]
    assert counts == [1, 2, 2]


def test_other_images_windows_and_seeds_are_pretrained_anew(stages: list[dict[str, Any]], tmp_path: Path) -> None:
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
            cheap("diffclip", tmp_path, **changes).pretrain(data)
            assert trainings(stages) == count
    scene = small_data().scene
    relabelled = replace(scene, ground_truth=np.roll(scene.ground_truth, 5, axis=0))
    cheap("diffclip", tmp_path).pretrain(SceneDataModule(relabelled, DataConfig(window=SIDE)))
    assert trainings(stages) == len(cases), "labels had a say"


def altered(name: str, value: Any, folder: Path) -> Any:
    """Another valid value of a setting."""
    if name == "text":
        return text_file(folder / "text")
    if name == "template":
        return "one {class}"
    if name == "descriptions":
        return {"class 2": ("green",)}
    if name == "components":
        return 3
    options = get_args(DiffClipConfig.model_fields[name].annotation)
    if options:
        return next(option for option in options if option != value)
    if isinstance(value, bool):
        return not value
    return value * 2 if isinstance(value, int) else value / 2 or 0.25


def stage_1_settings() -> set[str]:
    return {"width", "heads", "depth", "mlp_ratio"} | (set(DiffClipConfig.model_fields) - set(ClipConfig.model_fields))


def test_every_setting_of_stage_1_is_pretrained_anew_and_none_of_stage_2(
    stages: list[dict[str, Any]], tmp_path: Path
) -> None:
    data = small_data(window=SIDE)
    base = cheap("diffclip", tmp_path)
    base.pretrain(data)
    found = {}
    for name in DiffClipConfig.model_fields:
        before = trainings(stages)
        method = cheap("diffclip", tmp_path, **{name: altered(name, getattr(base.config, name), tmp_path)})
        assert getattr(method.config, name) != getattr(base.config, name)
        method.pretrain(data)
        found[name] = trainings(stages) - before
    anew = stage_1_settings() | {"components"}  # which change the images
    assert found == {name: int(name in anew) for name in DiffClipConfig.model_fields}


def pretrained_weights(folder: Path, data: SceneDataModule, **options: Any) -> dict[str, Tensor]:
    method = cheap("diffclip", folder, **options)
    method.pretrain(data)
    assert isinstance(method, DiffClip)
    return weights(method._pretrained)


def test_every_setting_of_stage_1_has_an_effect_and_none_of_stage_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained for real, each in a cache of its own for those of stage 2 and for other shots and draws."""
    data = small_data(window=SIDE)
    base = cheap("diffclip", tmp_path)
    first = pretrained_weights(tmp_path, data)
    changes = {name: altered(name, getattr(base.config, name), tmp_path) for name in DiffClipConfig.model_fields}
    for name in sorted(stage_1_settings()):
        other = pretrained_weights(tmp_path, data, **{name: changes[name]})
        assert not same(first, other), f"{name} changes nothing"
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "another cache"))
    later = {name: value for name, value in changes.items() if name not in stage_1_settings() | {"components"}}
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


def test_an_interrupted_pretraining_goes_on_and_ends_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the third of four epochs of two steps; `test_pretraining_cache` does the same with a SIGKILL."""
    data = small_data(window=SIDE)
    with monkeypatch.context() as patch:
        step = stopping(5, lambda: os.kill(os.getpid(), signal.SIGINT), [])
        patch.setattr(MaskedDiffusionPretrainer, "training_step", step)
        with pytest.raises(KeyboardInterrupt):
            cheap("diffclip", tmp_path, pretrain_epochs=4).pretrain(data)
    assert not list((tmp_path / "cache-root" / "pretraining").glob("*.safetensors"))
    seen: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(MaskedDiffusionPretrainer, "training_step", stopping(-1, lambda: None, seen))
        resumed = pretrained_weights(tmp_path, data, pretrain_epochs=4)
    assert seen == [4, 5, 6, 7], "it did not go on from the second epoch's checkpoint"
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "undisturbed"))
    assert same(resumed, pretrained_weights(tmp_path, data, pretrain_epochs=4))


@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_an_image_that_spoils_the_loss_stops_the_pretraining_and_loses_nothing(value: float, tmp_path: Path) -> None:
    data, done = small_data(window=SIDE), []
    rows = data.gatherer(torch.device("cpu")).rows
    clean = rows.clone()

    def progress(stage: str, share: float) -> None:
        done.append(share)
        if len(done) == 3:
            rows[:, 5:] = value

    method = cheap("diffclip", tmp_path, pretrain_epochs=4, progress=progress)
    with pytest.raises(TrainingError, match=r"the loss of modality lidar is (nan|inf) at step 3; lower pretrain_rate"):
        method.pretrain(data)
    rows.copy_(clean)
    resumed = pretrained_weights(tmp_path, data, pretrain_epochs=4)
    fresh = pretrained_weights(tmp_path, data, pretrain_epochs=4, seed=1)
    assert all(torch.isfinite(values).all() for values in (*resumed.values(), *fresh.values()))
    about = [json.loads(path.read_text()) for path in (tmp_path / "cache-root" / "pretraining").glob("*.json")]
    assert {entry["seed"]: entry["resumed"] for entry in about} == {0: True, 1: False}


@pytest.mark.parametrize("damage", ["cut off", "not a number"])
def test_a_damaged_pretraining_is_one_clear_line(damage: str, stages: list[dict[str, Any]], tmp_path: Path) -> None:
    data = small_data(window=SIDE)
    cheap("diffclip", tmp_path).pretrain(data)
    (entry,) = (tmp_path / "cache-root" / "pretraining").glob("*.safetensors")
    if damage == "cut off":
        entry.write_bytes(entry.read_bytes()[:-40])
    else:
        with safe_open(entry, framework="pt") as opened:
            metadata = opened.metadata()
        tensors = load_file(entry)
        tensors["encoder.norm.bias"][0] = float("nan")
        save_file(tensors, entry, metadata)
    with pytest.raises(DataError, match=rf"{entry.name}: .*; remove this file to train again$") as caught:
        cheap("diffclip", tmp_path).pretrain(data)
    assert "\n" not in str(caught.value)
    assert trainings(stages) == 1


# Texts and saved weights


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "precomputed"}, "no vector for 'class 2', 'class 4'"),
        ({"text": "clap"}, "unknown text tower 'clap'"),
        ({"template": "very " * 80 + "small {class}"}, "tokens, CLIP reads at most 77"),
        ({"descriptions": {"clas 2": ["green"]}}, "unknown class in the descriptions 'clas 2'"),
    ],
    ids=["no vector", "no tower", "long prompt", "no class"],
)
def test_bad_texts_are_told_before_the_pretraining(
    changes: dict[str, Any], message: str, stages: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Hours of pretraining must not stand before a line about a text."""
    if changes.get("text") == "precomputed":
        changes = {"text": text_file(tmp_path / "text", {"class 1": "a", "class 3": "b"})}
    with pytest.raises(ConfigError, match=message):
        cheap("diffclip", tmp_path, **changes).pretrain(small_data(window=SIDE))
    assert stages == []


def test_a_fitted_model_needs_neither_pretraining_nor_text_file(tmp_path: Path) -> None:
    data = small_data(window=SIDE)
    settings = {"text": text_file(tmp_path / "text"), "components": 3, **LEARNING}
    method = cheap("diffclip", tmp_path, **settings)
    method.pretrain(data)
    method.fit(data)
    expected = method.predict(data, data.query)
    assert len(np.unique(expected)) == 4
    method.save(tmp_path / "saved")
    for file in [*(tmp_path / "text").iterdir(), *(tmp_path / "cache-root").rglob("*.safetensors")]:
        file.unlink()
    loaded = cheap("diffclip", tmp_path, **settings)
    loaded.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.predict(small_data(window=SIDE), data.query), expected)
    with pytest.raises(DataError, match="settings"):
        cheap("diffclip", tmp_path, **{**settings, "width": 8}).load(tmp_path / "saved")


# The card


def variants() -> Iterator[tuple[str, dict[str, Any], str]]:
    card = method_card("diffclip")
    for name, variant in card.variants.items():
        yield name, resolve_config(card, name, "paper"), variant.unranked


def test_defects_of_the_release_are_never_ranked() -> None:
    """Misplaced tokens, unregistered crops, random timesteps."""
    defective = {
        name: bool(unranked)
        for name, settings, unranked in variants()
        if settings["misplaced_tokens"]
        or "independent" in (settings["crop"], settings["pretrain_crop"])
        or settings["timestep"] == "random"
    }
    assert defective == {"release-exact": True}


def test_the_variants_are_what_they_say() -> None:
    found = {name: settings for name, settings, _ in variants()}
    assert found["paper"]["text"].startswith("open_clip:")
    assert found["paper"]["pretrain_source"] == "unlabelled"
    assert (found["paper"]["contrast"], found["paper"]["timestep"]) == ("class", "zero")
    for name in ("release", "release-exact"):
        settings = found[name]
        assert (settings["pretrain_source"], settings["text"], settings["contrast"]) == (
            "support",
            "scratch",
            "diagonal",
        )
        assert (settings["pretrain_epochs"], settings["epochs"]) == (400, 150)
        assert (settings["pretrain_batch"], settings["batch_size"]) == (128, 128)
        assert (settings["pretrain_schedule"], settings["schedule"]) == ("restarts", "multistep")
        assert (settings["mask_ratio"], settings["masked_weight"], settings["components"]) == (0.7, 0.1, None)


def test_clip_is_diffclip_without_its_first_stage() -> None:
    """The two cards agree in every setting and budget that both know."""
    for budget in ("smoke", "quick", "paper"):
        with_stage_1 = resolve_config(method_card("diffclip"), "default", budget)
        without = resolve_config(method_card("clip"), "default", budget)
        assert without == {name: with_stage_1[name] for name in without}
