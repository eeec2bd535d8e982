"""Frozen CLIP towers: against open_clip itself, every way a checkpoint can be wrong, and the cache of vectors."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from helpers.tiny_clip import in_the_hub_cache, register_tiny_models, tiny_weights
from open_clip import factory, pretrained
from safetensors.torch import save_file
from torch import Tensor

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.clip import text as text_module
from mmrs_bench.methods.clip.clip_checkpoint import fetch_command, find_checkpoint, load_open_clip
from mmrs_bench.methods.clip.prompts import class_prompts
from mmrs_bench.methods.clip.text import frozen_class_embeddings
from mmrs_bench.models.weights import known_weights

NAMES = ("Road", "Water", "Apple trees")
PROMPTS = class_prompts(NAMES, descriptions={"Road": ["asphalt seen from above", "a grey {class}"]})


@pytest.fixture(autouse=True)
def tiny_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny_models(tmp_path, monkeypatch)


def direct(weights: dict[str, Tensor], model: str = "tiny") -> Tensor:
    """open_clip's own vectors of `PROMPTS`, one prompt at a time, ensembled by hand."""
    config = open_clip.get_model_config(model)
    assert config is not None
    network = open_clip.CLIP(**config).eval()
    network.load_state_dict(weights)
    rows = []
    with torch.no_grad():
        for group in PROMPTS:
            units = [network.encode_text(open_clip.tokenize(p), normalize=True)[0] for p in group]
            mean = torch.stack(units).mean(0)
            rows.append(mean / mean.norm())
    return torch.stack(rows)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_file(tiny_weights(), path)
    return path


def test_a_checkpoint_gives_open_clips_own_vectors(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = tmp_path / "tiny.pt"
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in tiny_weights().items()}}, pickled)
    expected = direct(tiny_weights())
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a process that set up no logging
    state = torch.get_rng_state()
    for path in (checkpoint, pickled):
        embeddings = frozen_class_embeddings(f"open_clip:tiny/{path}", NAMES, PROMPTS, cache=None)
        assert embeddings.shape == (3, 8)
        assert embeddings.dtype == torch.float32
        assert not embeddings.requires_grad
        torch.testing.assert_close(embeddings, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.get_rng_state(), state), "the process's random state is used up"
    assert not logging.getLogger().handlers, "open_clip left a log handler behind"


def test_a_path_goes_by_the_models_own_activation(checkpoint: Path) -> None:
    quick = frozen_class_embeddings(f"open_clip:tiny-quickgelu/{checkpoint}", NAMES, PROMPTS, cache=None)
    torch.testing.assert_close(quick, direct(tiny_weights(), "tiny-quickgelu"), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(quick, direct(tiny_weights()), atol=1e-3)


def test_a_model_with_its_text_in_a_module_of_its_own(tmp_path: Path, checkpoint: Path) -> None:
    embeddings = frozen_class_embeddings(f"open_clip:tiny-custom/{checkpoint}", NAMES, PROMPTS, cache=None)
    torch.testing.assert_close(embeddings, direct(tiny_weights()), rtol=1e-5, atol=1e-6)
    short = tmp_path / "short.safetensors"
    save_file(tiny_weights("tiny-short"), short)
    with pytest.raises(DataError, match=r"positional_embedding has shape \(64, 16\)"):
        frozen_class_embeddings(f"open_clip:tiny-custom/{short}", NAMES, PROMPTS, cache=None)


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tags of the tiny model; asking for a download ends the test."""
    tags = {
        "first": pretrained._pcfg(hf_hub="someone/tiny/", quick_gelu=True),
        "named": pretrained._pcfg(hf_hub="someone/tiny/weights.pth"),
    }
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny", tags)
    for module, name in ((factory, "download_pretrained"), (pretrained, "hf_hub_download")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("a run must not download"))


@pytest.mark.usefixtures("released")
def test_a_tag_is_found_in_the_cache_and_has_the_activation_it_was_trained_with(checkpoint: Path) -> None:
    kept = in_the_hub_cache("someone/tiny", checkpoint, "open_clip_model.safetensors")
    assert find_checkpoint("tiny", "first").path == kept
    embeddings = frozen_class_embeddings("open_clip:tiny/first", NAMES, PROMPTS, cache=None)
    torch.testing.assert_close(embeddings, direct(tiny_weights(), "tiny-quickgelu"), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("released")
def test_the_same_file_as_tag_and_as_path_are_not_confused_in_the_cache(tmp_path: Path, checkpoint: Path) -> None:
    kept = in_the_hub_cache("someone/tiny", checkpoint, "open_clip_model.safetensors")
    as_tag, as_path = (
        frozen_class_embeddings(f"open_clip:tiny/{weights}", NAMES, PROMPTS, cache=tmp_path / "text")
        for weights in ("first", kept)
    )
    assert not torch.allclose(as_tag, as_path, atol=1e-3), "only the tag knows its activation"


@pytest.mark.usefixtures("released")
def test_a_tag_that_names_its_file_is_found_as_safetensors(checkpoint: Path) -> None:
    kept = in_the_hub_cache("someone/tiny", checkpoint, "weights.safetensors")
    assert find_checkpoint("tiny", "named").path == kept


@pytest.mark.usefixtures("released")
def test_a_tag_that_is_not_on_this_machine_is_an_error_with_the_command_that_fetches_it() -> None:
    with pytest.raises(DataError) as caught:
        frozen_class_embeddings("open_clip:tiny/first", NAMES, PROMPTS, cache=None)
    message = str(caught.value)
    assert fetch_command("tiny", "first") in message
    assert "open_clip:tiny-quickgelu/PATH" in message
    assert "\n" not in message


def test_the_default_tower_says_address_and_hash() -> None:
    with pytest.raises(DataError) as caught:
        frozen_class_embeddings("open_clip:ViT-B-32/openai", NAMES, PROMPTS, cache=None)
    message = str(caught.value)
    assert fetch_command("ViT-B-32", "openai") in message
    assert "timm/vit_base_patch32_clip_224.openai" in message
    assert "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af" in message
    assert "\n" not in message


@pytest.mark.usefixtures("released")
def test_a_cached_file_with_another_hash_than_stated_is_refused(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_hub_cache("someone/tiny", checkpoint, "open_clip_model.safetensors")
    entry = known_weights()["open_clip:ViT-B-32/openai"].model_copy(update={"sha256": "0" * 64})
    monkeypatch.setitem(known_weights(), "open_clip:tiny/first", entry)
    with pytest.raises(DataError, match=f"expected {'0' * 64}; delete the file and fetch it again"):
        find_checkpoint("tiny", "first")


def test_the_weights_file_agrees_with_open_clips_table() -> None:
    assert known_weights()
    for tower, entry in known_weights().items():
        model, tag = tower.removeprefix("open_clip:").split("/")
        config = open_clip.get_pretrained_cfg(model, tag)
        assert entry.url == f"https://huggingface.co/{config['hf_hub']}resolve/main/{entry.file}"
        assert entry.original == config["url"]
        assert entry.original_sha256 == config["url"].split("/")[-2]
        assert entry.fetch == fetch_command(model, tag)


@pytest.mark.parametrize(
    ("tower", "message"),
    [
        ("open_clip:tinny/first", "unknown open_clip model 'tinny': did you mean tiny"),
        ("open_clip:hf-hub:someone/tiny", "unknown open_clip model 'hf-hub:someone'"),
        ("open_clip:ViT-B-32/openia", "'openia': did you mean openai"),
        ("open_clip:tiny-short/first", "tiny-short does not read CLIP's 77 tokens"),
        ("open_clip:tiny-hf/first", "tiny-hf does not read CLIP's 77 tokens"),
    ],
)
def test_a_tower_that_does_not_exist_is_refused(tower: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        frozen_class_embeddings(tower, NAMES, PROMPTS, cache=None)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"there is no file {tmp_path / 'none.pt'}"):
        frozen_class_embeddings(f"open_clip:tiny/{tmp_path / 'none.pt'}", NAMES, PROMPTS, cache=None)


def not_a_number(path: Path) -> None:
    weights = tiny_weights()
    weights["transformer.resblocks.0.attn.in_proj_bias"][3] = torch.nan
    save_file(weights, path)


def cut_off(path: Path) -> None:
    save_file(tiny_weights(), path)
    path.write_bytes(path.read_bytes()[:-1000])


def executable(path: Path) -> None:
    torch.save(Path("harmless, but an object"), path)


def cut_off_pickle(path: Path) -> None:
    torch.save(tiny_weights(), path)
    path.write_bytes(path.read_bytes()[:-1000])


def torch_script(path: Path) -> None:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), path)


FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "NaN": ("x.safetensors", not_a_number, "transformer.resblocks.0.attn.in_proj_bias holds NaN"),
    "cut off": ("x.safetensors", cut_off, "is no whole checkpoint of open_clip model tiny"),
    "cut off pickle": ("x.pt", cut_off_pickle, "is no whole checkpoint"),
    "empty": ("x.pt", lambda path: path.write_bytes(b""), "is no whole checkpoint"),
    "no tensors": ("x.pt", lambda path: torch.save({}, path), "is no whole checkpoint"),
    "a list": ("x.pt", lambda path: torch.save([torch.ones(2)], path), "is no whole checkpoint"),
    "a training's state": ("x.pt", lambda path: torch.save({"epoch": 3, "model": tiny_weights()}, path), "is no whole"),
    "an object": ("x.pt", executable, "is no whole checkpoint"),
    "a web page": ("x.safetensors", lambda path: path.write_text("<html>404</html>" * 9), "is no whole checkpoint"),
    "other depth": ("x.safetensors", lambda path: save_file(tiny_weights("tiny-deep"), path), "is no whole checkpoint"),
    "other length": ("x.safetensors", lambda path: save_file(tiny_weights("tiny-short"), path), r"\(64, 16\)"),
    "other image": ("x.safetensors", lambda path: save_file(tiny_weights("tiny-large-image"), path), "visual.posi"),
    "TorchScript": ("x.pt", torch_script, "is a TorchScript program.*name the tag openai"),
}


@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file that looks like a TorchScript:UserWarning")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_that_is_not_the_models_is_refused_in_one_line(fault: str, tmp_path: Path) -> None:
    name, write, message = FAULTS[fault]
    write(tmp_path / name)
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match=message) as caught:
        frozen_class_embeddings(f"open_clip:tiny/{tmp_path / name}", NAMES, PROMPTS, cache=cache)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not cache.exists()


def test_the_whole_model_is_frozen(checkpoint: Path) -> None:
    network = load_open_clip(find_checkpoint("tiny", str(checkpoint)))
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network.encode_image(torch.zeros(1, 3, 8, 8)).shape == (1, 8)


# The cache


def test_vectors_are_computed_once(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower, cache = f"open_clip:tiny/{checkpoint}", tmp_path / "text"
    first = frozen_class_embeddings(tower, NAMES, PROMPTS, cache=cache)
    assert len(list(cache.iterdir())) == 1
    copy = checkpoint.with_name("copy.safetensors")
    shutil.copy(checkpoint, copy)
    with monkeypatch.context() as patch:
        patch.setattr(text_module, "load_open_clip", lambda _: pytest.fail("computed again"))
        assert torch.equal(frozen_class_embeddings(tower, NAMES, PROMPTS, cache=cache), first)
        assert torch.equal(frozen_class_embeddings(f"open_clip:tiny/{copy}", NAMES, PROMPTS, cache=cache), first)
        with pytest.raises(ConfigError, match="have width 8, expected 512"):
            frozen_class_embeddings(tower, NAMES, PROMPTS, cache=cache, width=512)


def test_other_prompts_weights_or_activation_are_other_vectors(tmp_path: Path, checkpoint: Path) -> None:
    cache = tmp_path / "text"
    tower = f"open_clip:tiny/{checkpoint}"
    calls = [frozen_class_embeddings(tower, NAMES, PROMPTS, cache=cache)]
    calls.append(frozen_class_embeddings(tower, NAMES, class_prompts(NAMES), cache=cache))
    calls.append(frozen_class_embeddings(f"open_clip:tiny-quickgelu/{checkpoint}", NAMES, PROMPTS, cache=cache))
    regrouped = (PROMPTS[0][:2], (*PROMPTS[0][2:], *PROMPTS[1]), PROMPTS[2])  # the same prompts in the same order
    calls.append(frozen_class_embeddings(tower, NAMES, regrouped, cache=cache))
    save_file(tiny_weights(seed=1), checkpoint)
    calls.append(frozen_class_embeddings(tower, NAMES, PROMPTS, cache=cache))
    assert len(list(cache.iterdir())) == len(calls)
    assert all(not torch.equal(a, b) for i, a in enumerate(calls) for b in calls[:i])


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty"])
def test_a_damaged_cache_file_is_made_again(damage: str, tmp_path: Path, checkpoint: Path) -> None:
    tower, cache = f"open_clip:tiny/{checkpoint}", tmp_path / "text"
    expected = frozen_class_embeddings(tower, NAMES, PROMPTS, cache=cache).clone()
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    if damage == "foreign":
        frozen_class_embeddings(tower, NAMES, class_prompts(NAMES), cache=cache)
        (other,) = set(cache.iterdir()) - {file}
        other.replace(file)
    else:
        last = bytes([whole[-1] ^ 1])
        file.unlink()
        file.write_bytes({"cut": whole[:-7], "flipped": whole[:-1] + last, "empty": b""}[damage])
    assert torch.equal(frozen_class_embeddings(tower, NAMES, PROMPTS, cache=cache), expected)
    assert file.read_bytes() == whole


def test_classes_with_the_same_text_are_refused(checkpoint: Path) -> None:
    names = ["Road", "Water", "ROAD"]  # CLIP's tokenizer lower-cases
    with pytest.raises(ConfigError, match="'Road' and 'ROAD' have the same text"):
        frozen_class_embeddings(f"open_clip:tiny/{checkpoint}", names, class_prompts(names), cache=None)


def test_each_class_needs_a_prompt(checkpoint: Path) -> None:
    tower = f"open_clip:tiny/{checkpoint}"
    with pytest.raises(ConfigError, match="class 'Water' has no prompt"):
        frozen_class_embeddings(tower, NAMES, [["road"], [], ["trees"]], cache=None)
    with pytest.raises(ConfigError, match="3 classes, but prompts for 1"):
        frozen_class_embeddings(tower, NAMES, [["road"]], cache=None)
