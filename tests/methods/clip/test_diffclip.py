"""DiffCLIP as a method: what stage 1 is trained on, which cells share it, what stage 2 takes from it, and its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.clip_helpers import LEARNING, small_method, text_file
from helpers.method_helpers import other_value, refused, small_data
from helpers.module_cases import saved
from helpers.network_helpers import same, weights
from safetensors.torch import load_file
from torch import Tensor

from mmrs_bench.config import PRETRAINING
from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.clip.config import ClipConfig, DiffClipConfig
from mmrs_bench.methods.clip.module import LanguageAlignedClassifier
from mmrs_bench.methods.toolkit import training
from mmrs_bench.scenes.datamodule import SceneDataModule

SIDE = 5


def pretrained(folder: Path, data: SceneDataModule, **options: Any) -> Any:
    method = small_method("diffclip", folder, **options)
    method.pretrain(data)
    return method


def pretrained_weights(folder: Path, data: SceneDataModule, **options: Any) -> dict[str, Tensor]:
    return weights(pretrained(folder, data, **options).pretrained)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A list of the later trainings; each is replaced by random steps, which take no time."""
    seen: list[dict[str, Any]] = []

    def fit(module: Any, loaders: Any, context: RunContext, **options: Any) -> None:
        batches = [batch for _ in range(2) for batch in loaders.train]
        seen.append({**options, "batches": batches, "start": weights(module.network)})
        generator = torch.Generator().manual_seed(len(seen))
        with torch.no_grad():
            for values in module.network.state_dict().values():
                if values.is_floating_point():
                    values.add_(torch.rand(values.shape, generator=generator))

    monkeypatch.setattr(training, "fit", fit)
    return seen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "precomputed"}, "no vector for 'class 2', 'class 4'"),
        ({"descriptions": {"class 2": ["grass " * 76]}}, "has 78 tokens"),
        ({"mask_ratio": 0.99}, "mask_ratio 0.99 leaves 0 of the 25 pixels of a window"),
    ],
    ids=["vectors", "prompts", "mask"],
)
def test_faulty_settings_are_refused_before_stage_1(
    changes: dict[str, Any], message: str, stages: list[dict[str, Any]], tmp_path: Path
) -> None:
    if "text" in changes:
        changes = {"text": text_file(tmp_path / "text", {"class 1": "a", "class 3": "b"})}
    with refused(ConfigError, message):
        pretrained(tmp_path, small_data(window=SIDE), **changes)
    assert stages == []


# What stage 1 is trained on


@pytest.mark.parametrize("source", ["unlabelled", "support"])
def test_stage_1_is_trained_on_windows_of_its_source_without_labels(
    source: str, stages: list[dict[str, Any]], tmp_path: Path
) -> None:
    data = small_data(5, window=SIDE)
    settings = {"pretrain_source": source, "pretrain_windows": 100, "pretrain_batch": 30, "pretrain_epochs": 7}
    pretrained(tmp_path, data, **settings)
    (stage,) = stages
    sizes = [25] * 4 if source == "unlabelled" else [20]
    assert [len(batch["pixel"]) for batch in stage["batches"]] == 2 * sizes
    assert all(set(batch) == {"pixel", "windows"} for batch in stage["batches"])
    if sizes == [20]:
        np.testing.assert_array_equal(np.sort(stage["batches"][0]["pixel"]), np.sort(data.support))
    assert (stage["stage"], stage["epochs"], stage["resumable"]) == (PRETRAINING, 7, True)


# What stage 2 takes from stage 1


def test_stage_2_starts_with_the_weights_of_stage_1_and_otherwise_like_clip(
    stages: list[dict[str, Any]], tmp_path: Path
) -> None:
    data, changes = small_data(window=SIDE), {"seed": 2, "draw": 5}
    pretrained(tmp_path, data, **changes).fit(data)
    small_method("clip", tmp_path, **changes).fit(data)
    (entry,) = (tmp_path / "cache-root" / "pretraining").glob("*.safetensors")
    stored, start, plain = load_file(entry), stages[1]["start"], stages[2]["start"]
    taken = {name.replace("network.", "image."): stored[name] for name in stored if ".decoders." not in name}
    assert same(start, {**plain, **taken})
    assert any("running_mean" in name for name in taken)
    assert not taken.keys() & {"image.head.weight", "log_scale"}
    assert not torch.equal(start["image.encoder.norm.weight"], plain["image.encoder.norm.weight"])


def test_a_fitted_network_needs_neither_pretraining_nor_text_file(tmp_path: Path) -> None:
    data = small_data(window=SIDE)
    settings = {"text": text_file(tmp_path / "text"), "components": 3, **LEARNING}
    method = pretrained(tmp_path, data, **settings)
    method.fit(data)
    expected = method.predict(data, data.query)
    assert len(np.unique(expected)) == 4
    method.save(tmp_path / "saved")
    checkpoint = saved(method.module, tmp_path / "module.ckpt")
    for file in [*(tmp_path / "text").iterdir(), *(tmp_path / "cache-root").rglob("*.safetensors")]:
        file.unlink()
    loaded = small_method("diffclip", tmp_path, **settings)
    loaded.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.predict(small_data(window=SIDE), data.query), expected)
    assert same(weights(LanguageAlignedClassifier.load_from_checkpoint(checkpoint)), weights(method.module))
    other = small_method("diffclip", tmp_path, **{**settings, "template": "one {class}"})  # has the same tensors
    with refused(DataError, "settings"):
        other.load(tmp_path / "saved")


# Which cells share a pretraining


@pytest.mark.parametrize(("source", "trained"), [("unlabelled", [1, 1, 1, 1]), ("support", [1, 2, 3, 3])])
def test_shots_and_draws_share_a_pretraining_unless_it_is_on_the_support_set(
    source: str, trained: list[int], stages: list[dict[str, Any]], tmp_path: Path
) -> None:
    counts = []
    for shots, draw in ((2, 0), (2, 1), (3, 0), (2, 1)):
        pretrained(tmp_path, small_data(shots, draw=draw, window=SIDE), draw=draw, pretrain_source=source)
        counts.append(len(stages))
    assert counts == trained


def test_every_setting_of_stage_1_has_its_own_weights_and_those_of_stage_2_share_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real trainings. In a new cache, settings of stage 2, other shots and another draw have the same weights."""
    data, base = small_data(window=SIDE), small_method("diffclip", tmp_path)
    first = pretrained_weights(tmp_path, data)
    (log,) = (tmp_path / "cache-root" / "pretraining").glob("*/logs/pretraining/metrics.csv")
    columns = log.read_text().splitlines()[0].split(",")
    assert {f"{part}_{name}" for part in ("visible", "masked") for name in data.channels} <= set(columns)
    special = {"template": "one {class}", "descriptions": {"class 2": ("green",)}, "components": 3}
    special["text"] = text_file(tmp_path / "text")
    changes = {name: other_value(base.config, name, special) for name in DiffClipConfig.model_fields}
    separate = {*DiffClipConfig.model_fields} - {*ClipConfig.model_fields} | {"width", "heads", "depth", "mlp_ratio"}
    separate |= {"initial_values", "components", "input_scale"}  # of which the last two change the images
    for name in sorted(separate):
        assert changes[name] != getattr(base.config, name)
        other = pretrained_weights(tmp_path, data, **{name: changes[name]})
        assert not same(first, other), f"{name} changes nothing"
    later = {name: value for name, value in changes.items() if name not in separate}
    for cache in ("cache-root", "another cache"):
        monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / cache))
        again = pretrained_weights(tmp_path, small_data(5, draw=3, window=SIDE), draw=3, **later)
        assert same(first, again)
        assert len([*(tmp_path / cache).rglob("*.safetensors")]) == (1 + len(separate) if cache == "cache-root" else 1)


# The card


def test_variants_have_the_settings_that_their_names_promise() -> None:
    """Only ``release-exact`` has errors of the released code: misplaced tokens, separate crops, random timesteps."""
    card = method_card("diffclip")
    found = {name: resolve_config(card, name, "paper") for name in card.variants}
    for name, settings in found.items():
        crops, errors = (settings["crop"], settings["pretrain_crop"]), name == "release-exact"
        faulty = settings["misplaced_tokens"] or "independent" in crops or settings["timestep"] == "random"
        assert faulty == errors
        assert card.variants[name].unranked or not errors
    paper = found["paper"]
    assert paper["text"].startswith("open_clip:")
    assert (paper["pretrain_source"], paper["contrast"]) == ("unlabelled", "class")
    released = {
        "pretrain_source": "support",
        "contrast": "diagonal",
        "pretrain_epochs": 400,
        "epochs": 150,
        "pretrain_schedule": "restarts",
        "schedule": "multistep",
        "components": None,
        "input_scale": "cube",
        "initial_values": "released",
        "learn_positions": True,
    }
    for name in ("release", "release-exact"):
        assert released.items() <= found[name].items()
    for name in found.keys() - {"release", "release-exact"}:
        assert (found[name]["input_scale"], found[name]["initial_values"]) == ("protocol", "torch")


def test_release_scales_each_modality_as_one_cube_in_both_stages(stages: list[dict[str, Any]], tmp_path: Path) -> None:
    """By the smallest and largest value of all its channels, as computed with numpy from the padded raw images."""
    data = small_data(window=SIDE)
    method = pretrained(
        tmp_path, data, input_scale="cube", components=None, symmetries=False, pretrain_symmetries=False
    )
    method.fit(data)
    half = SIDE // 2
    for stage in stages:
        assert stage["batches"]
        for batch in stage["batches"]:
            for name, windows in batch["windows"].items():
                padded = np.pad(data.scene.images[name], ((half, half), (half, half), (0, 0)), mode="reflect")
                cube = (padded - padded.min()) / (padded.max() - padded.min())
                for pixel, window in zip(batch["pixel"].tolist(), windows.numpy(), strict=True):
                    row, column = divmod(pixel, data.scene.width)
                    expected = cube[row : row + SIDE, column : column + SIDE].transpose(2, 0, 1)
                    np.testing.assert_allclose(window, expected, atol=1e-6)


def test_clip_is_diffclip_without_its_first_stage() -> None:
    """Both cards have the same value of every setting that both have, under every budget."""
    for budget in ("smoke", "quick", "paper"):
        with_stage_1 = resolve_config(method_card("diffclip"), "default", budget)
        without = resolve_config(method_card("clip"), "default", budget)
        assert without == {name: with_stage_1[name] for name in without}
