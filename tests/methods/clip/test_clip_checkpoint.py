"""Frozen CLIP towers: against open_clip itself, every way a checkpoint can be wrong, and the cache of vectors."""

from __future__ import annotations

import logging
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import pytest
import torch
from helpers.clip_helpers import NAMES, PROMPTS, TEMPLATE
from helpers.method_helpers import refused
from helpers.tiny_clip import in_the_hub_cache, tiny_network, tiny_weights
from open_clip import factory, pretrained
from safetensors.torch import save_file
from torch import Tensor

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.clip import text as text_module
from mmrs_bench.methods.clip.clip_checkpoint import fetch_command, find_checkpoint
from mmrs_bench.methods.clip.prompts import class_prompts
from mmrs_bench.methods.clip.text import frozen_class_embeddings
from mmrs_bench.models.weights import known_weights

pytestmark = pytest.mark.usefixtures("checkpoint")

Names = Sequence[str]
Prompts = Sequence[Sequence[str]]
PLAIN_PROMPTS = class_prompts(NAMES, TEMPLATE)


def embeddings_of(weights: object, model: str = "tiny", *, names: Names = NAMES, prompts: Prompts = PROMPTS) -> Tensor:
    return frozen_class_embeddings(f"open_clip:{model}/{weights}", names, prompts)


def assert_close(embeddings: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(embeddings, expected, rtol=1e-5, atol=1e-6)


def direct(model: str = "tiny") -> Tensor:
    """open_clip's own vectors of `PROMPTS`, one prompt at a time."""
    network, rows = tiny_network(model), []
    with torch.no_grad():
        for group in PROMPTS:
            mean = sum(network.encode_text(open_clip.tokenize(p), normalize=True)[0] for p in group) / len(group)
            rows.append(mean / mean.norm())
    return torch.stack(rows)


@pytest.fixture
def text_cache(tmp_path: Path) -> Path:
    return tmp_path / "cache-root" / "text"


def test_vectors_equal_those_of_open_clip_and_leave_no_trace_in_the_process(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = tmp_path / "tiny.pt"
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in tiny_weights().items()}}, pickled)
    expected = direct()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a process without logging
    state = torch.get_rng_state()
    for path in (checkpoint, pickled):
        embeddings = embeddings_of(path)
        assert (embeddings.shape, embeddings.dtype, embeddings.requires_grad) == ((3, 8), torch.float32, False)
        assert_close(embeddings, expected)
    assert torch.equal(torch.get_rng_state(), state), "the random state of the process has changed"
    assert not logging.getLogger().handlers, "open_clip has added a log handler"


def test_a_path_has_the_activation_of_its_model(checkpoint: Path) -> None:
    quick = embeddings_of(checkpoint, "tiny-quickgelu")
    assert_close(quick, direct("tiny-quickgelu"))
    assert not torch.allclose(quick, direct(), atol=1e-3)


def test_a_model_with_a_separate_text_module_is_loaded_and_checked(checkpoint: Path) -> None:
    assert_close(embeddings_of(checkpoint, "tiny-custom"), direct())
    save_file(tiny_weights("tiny-short"), checkpoint)
    with refused(DataError, r"positional_embedding has shape \(64, 16\)"):
        embeddings_of(checkpoint, "tiny-custom")


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tags of the tiny model; a download fails the test."""
    tags = {
        "first": pretrained._pcfg(hf_hub="someone/tiny/", quick_gelu=True),
        "named": pretrained._pcfg(hf_hub="someone/tiny/weights.pth"),
    }
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny", tags)
    for module, name in ((factory, "download_pretrained"), (pretrained, "hf_hub_download")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("a run must not download"))


@pytest.mark.usefixtures("released")
def test_a_tag_is_found_in_the_cache_and_has_its_own_activation(checkpoint: Path) -> None:
    cached = in_the_hub_cache("someone/tiny", checkpoint, "open_clip_model.safetensors")
    assert find_checkpoint("tiny", "first").path == cached
    as_tag = embeddings_of("first")
    assert_close(as_tag, direct("tiny-quickgelu"))
    assert not torch.allclose(as_tag, embeddings_of(cached), atol=1e-3), "tag and path share a cache file"
    kept = cached.replace(cached.with_name("weights.safetensors"))
    assert find_checkpoint("tiny", "named").path == kept, "safetensors are preferred to the file of the tag"


@pytest.mark.usefixtures("released")
@pytest.mark.parametrize(
    ("model", "tag", "command", "part"),
    [
        ("tiny", "first", fetch_command("tiny", "first"), "open_clip:tiny-quickgelu/PATH"),
        (
            "ViT-B-32",
            "openai",
            "mmrs-bench weights fetch clip-vit-b-32",
            known_weights()["open_clip:ViT-B-32/openai"].describe(),
        ),
    ],
)
def test_the_error_of_an_absent_tag_states_how_to_fetch_it(model: str, tag: str, command: str, part: str) -> None:
    with refused(DataError, re.escape(command)) as caught:
        embeddings_of(tag, model)
    assert part in str(caught.value)


@pytest.mark.usefixtures("released")
def test_a_file_with_an_unexpected_hash_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_the_hub_cache("someone/tiny", checkpoint, "open_clip_model.safetensors")
    entry = known_weights()["open_clip:ViT-B-32/openai"].model_copy(update={"sha256": "0" * 64})
    monkeypatch.setitem(known_weights(), "open_clip:tiny/first", entry)
    with refused(DataError, f"expected {'0' * 64}; delete the file and fetch it again"):
        find_checkpoint("tiny", "first")


def test_the_list_of_weights_agrees_with_open_clip() -> None:
    assert known_weights()
    for tower, entry in known_weights().items():
        model, tag = tower.removeprefix("open_clip:").split("/")
        config = open_clip.get_pretrained_cfg(model, tag)
        assert entry.url == f"https://huggingface.co/{config['hf_hub']}resolve/main/open_clip_model.safetensors"
        assert entry.original == config["url"]
        assert entry.original_sha256 == config["url"].split("/")[-2]


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
def test_an_unknown_tower_is_refused(tower: str, message: str) -> None:
    with refused(ConfigError, message):
        frozen_class_embeddings(tower, NAMES, PROMPTS)


def not_finite(path: Path) -> None:
    weights = tiny_weights()
    weights["transformer.resblocks.0.attn.in_proj_bias"][3] = torch.nan
    save_file(weights, path)


def cut_off(path: Path) -> None:
    save_file(tiny_weights(), path) if path.suffix == ".safetensors" else torch.save(tiny_weights(), path)
    path.write_bytes(path.read_bytes()[:-1000])


def torch_script(path: Path) -> None:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), path)


FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "NaN": ("x.safetensors", not_finite, "transformer.resblocks.0.attn.in_proj_bias is NaN"),
    "cut off": ("x.safetensors", cut_off, "is not a complete checkpoint of open_clip model tiny"),
    "cut off pickle": ("x.pt", cut_off, "is not a complete"),
    "absent": ("x.pt", lambda path: None, "there is no file"),
    "empty": ("x.pt", lambda path: path.write_bytes(b""), "is not a complete"),
    "no tensors": ("x.pt", lambda path: torch.save({"epoch": 3, "model": tiny_weights()}, path), "is not a complete"),
    "an object": ("x.pt", lambda path: torch.save(Path("an object"), path), "is not a complete"),
    "other depth": ("x.safetensors", lambda path: save_file(tiny_weights("tiny-deep"), path), "is not a complete"),
    "other length": ("x.safetensors", lambda path: save_file(tiny_weights("tiny-short"), path), r"\(64, 16\)"),
    "other image": ("x.safetensors", lambda path: save_file(tiny_weights("tiny-large-image"), path), "visual.posi"),
    "TorchScript": ("x.pt", torch_script, "is a TorchScript program.*use the tag openai"),
}


@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file that looks like a TorchScript:UserWarning")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_checkpoint_is_refused_in_one_line(fault: str, tmp_path: Path, text_cache: Path) -> None:
    name, write, message = FAULTS[fault]
    write(tmp_path / name)
    with refused(DataError, f"{tmp_path / name}.*{message}"):
        embeddings_of(tmp_path / name)
    assert not text_cache.exists()


# The cache


def test_vectors_of_the_same_content_are_computed_once(
    checkpoint: Path, text_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = embeddings_of(checkpoint)
    assert len(list(text_cache.iterdir())) == 1
    copy = checkpoint.with_name("copy.safetensors")
    shutil.copy(checkpoint, copy)
    monkeypatch.setattr(text_module, "load_open_clip", lambda _: pytest.fail("computed again"))
    assert torch.equal(embeddings_of(checkpoint), first)
    assert torch.equal(embeddings_of(copy), first)


def test_other_prompts_weights_and_activations_have_other_vectors(checkpoint: Path, text_cache: Path) -> None:
    regrouped = (PROMPTS[0][:2], (*PROMPTS[0][2:], *PROMPTS[1]), PROMPTS[2])  # the same prompts in the same order
    vectors = [
        embeddings_of(checkpoint),
        embeddings_of(checkpoint, prompts=PLAIN_PROMPTS),
        embeddings_of(checkpoint, "tiny-quickgelu"),
        embeddings_of(checkpoint, prompts=regrouped),
    ]
    save_file(tiny_weights(seed=1), checkpoint)
    vectors.append(embeddings_of(checkpoint))
    assert len(list(text_cache.iterdir())) == len(vectors)
    assert all(not torch.equal(a, b) for i, a in enumerate(vectors) for b in vectors[:i])


@pytest.mark.parametrize("damage", ["cut", "flipped", "exchanged"])
def test_a_damaged_cache_file_is_replaced(damage: str, checkpoint: Path, text_cache: Path) -> None:
    expected = embeddings_of(checkpoint).clone()
    (file,) = text_cache.iterdir()
    whole = file.read_bytes()
    if damage == "exchanged":
        embeddings_of(checkpoint, prompts=PLAIN_PROMPTS)
        (other,) = set(text_cache.iterdir()) - {file}
        other.replace(file)
    else:
        file.unlink()
        file.write_bytes(whole[:-7] if damage == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    assert torch.equal(embeddings_of(checkpoint), expected)
    assert file.read_bytes() == whole


def test_each_class_needs_its_own_text(checkpoint: Path) -> None:
    with refused(ConfigError, "'Road' and 'ROAD' have the same text"):  # CLIP ignores case
        embeddings_of(checkpoint, names=("Road", "ROAD"), prompts=[["a road"], ["A ROAD"]])
