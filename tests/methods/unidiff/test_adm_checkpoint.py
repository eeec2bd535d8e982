"""Checkpoints of guided-diffusion: refused state dicts, unsafe and damaged files, the cached conversion."""

from __future__ import annotations

import os
import pickle
import re
import shlex
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from helpers.adm_reference import DENSE, SMALL, random_state
from helpers.method_helpers import refused
from helpers.network_helpers import same
from safetensors.torch import load_file
from torch import Tensor

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.unidiff import adm_checkpoint
from mmrs_bench.methods.unidiff.adm import ADM_64, adm_with_weights
from mmrs_bench.methods.unidiff.adm_checkpoint import (
    ADM_64_WEIGHTS,
    checkpoint_file,
    convert_adm,
    load_original,
    original_shapes,
    pretrained_weights,
)
from mmrs_bench.models.weights import weights_named


def test_another_released_model_is_refused_in_a_short_message() -> None:
    larger = replace(ADM_64, base_channels=256, multipliers=(1, 1, 2, 2, 4, 4), blocks=2, image_size=256)
    state = {key: torch.empty(shape, device="meta") for key, shape in original_shapes(larger).items()}
    with refused(
        DataError, "is not the ADM of 192 channels at 64 x 64 pixels with 1000 classes.* more faults"
    ) as caught:
        convert_adm(state, ADM_64)
    assert len(str(caught.value)) < 1000


# Files


class Malicious:
    """Unpickling it runs a command."""

    def __init__(self, path: Path) -> None:
        self.witness = path.with_name("witness")

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {shlex.quote(str(self.witness))}",)


def write_state(path: Path, **changes: Any) -> None:
    """The checkpoint of `DENSE` with other tensors; None leaves one out."""
    state = {**random_state(DENSE), **changes}
    torch.save({key: value for key, value in state.items() if value is not None}, path)


def truncate(path: Path, kept: float, *, zipped: bool = True) -> None:
    torch.save(random_state(DENSE), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])


QKV, NORM = "middle_block.1.qkv.bias", "out.0.bias"
CODE, INCOMPLETE = "or contain code, which was not executed", "is not a complete checkpoint"
OTHER = "is not the ADM of 32 channels.*: "
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "malicious": (lambda path: path.write_bytes(pickle.dumps(Malicious(path))), CODE),
    "malicious in an archive": (lambda path: write_state(path, **{"out.2.bias": Malicious(path)}), CODE),
    "malicious in the old format": (
        lambda path: torch.save({"x": Malicious(path)}, path, _use_new_zipfile_serialization=False),
        CODE,
    ),
    "cut at its end": (lambda path: truncate(path, 0.999), INCOMPLETE),
    "cut, old format": (lambda path: truncate(path, 0.5, zipped=False), INCOMPLETE),
    "a web page": (lambda path: path.write_text("<html>404</html>" * 9), INCOMPLETE),
    "a folder": (lambda path: path.mkdir(), INCOMPLETE),
    "a list": (lambda path: torch.save([torch.ones(2)], path), "contains a list, expected a dict of tensors by name"),
    "numbers for names": (lambda path: torch.save({1: torch.ones(2)}, path), "expected a dict of tensors by name"),
    "a training's state": (lambda path: torch.save({"model": random_state(DENSE)}, path), "is missing, .* more faults"),
    "NaN": (lambda path: write_state(path, **{NORM: torch.full((32,), torch.nan)}), f"{NORM} has values that are NaN"),
    "missing": (lambda path: write_state(path, **{QKV: None}), rf"{OTHER}{QKV} is missing\. "),
    "unknown": (lambda path: write_state(path, **{"out.1.bias": torch.zeros(32)}), rf"{OTHER}out.1.bias is unknown\. "),
    "broadcastable": (
        lambda path: write_state(path, **{NORM: torch.ones(1)}),
        rf"{OTHER}{NORM} is torch.float32 \[1\], expected \[32\]",
    ),
    "integers": (
        lambda path: write_state(path, **{NORM: torch.ones(32).long()}),
        rf"{OTHER}{NORM} is torch.int64 \[32\], expected \[32\]",
    ),
    "text": (lambda path: write_state(path, **{NORM: "none"}), rf"{OTHER}{NORM} is a str, expected \[32\]"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_file_is_refused_and_its_code_is_not_executed(fault: str, tmp_path: Path) -> None:
    write, message = FAULTS[fault]
    path = tmp_path / "x.pt"
    write(path)
    with refused(DataError, f"^{path}: .*{message}"):
        load_original(path, DENSE)
    assert not (tmp_path / "witness").exists()
    if message == CODE:
        pickle.loads(path.read_bytes()) if fault == "malicious" else torch.load(path, weights_only=False)  # noqa: S301
        assert (tmp_path / "witness").exists(), "the file contains no code, so this shows nothing"


@pytest.mark.parametrize("zipped", [True, False])
def test_random_damage_is_a_data_error(zipped: bool, tmp_path: Path) -> None:
    path, random = tmp_path / "x.pt", Random(0)
    torch.save({"out.0.bias": torch.ones(2)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for _ in range(100):
        damaged = bytearray(whole[: random.randrange(1, 2 * len(whole))])
        for _ in range(random.choice((1, 2, 5))):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        path.write_bytes(damaged)
        with pytest.raises(DataError):
            load_original(path, DENSE)


@pytest.mark.parametrize("zipped", [True, False])
def test_both_formats_of_torch_are_read(zipped: bool, tmp_path: Path) -> None:
    state = random_state(DENSE)
    torch.save(OrderedDict(state), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    assert same(load_original(tmp_path / "x.pt", DENSE), state)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for attempt in (pretrained_weights, lambda config, path: load_original(path, config)):
        with pytest.raises(DataError, match=f"there is no file {tmp_path / 'none.pt'}"):
            attempt(DENSE, tmp_path / "none.pt")


# The cached conversion


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "small.pt"
    torch.save(random_state(DENSE), path)
    return path


def reread(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint as another process reads them."""
    adm_checkpoint._pretrained.cache_clear()
    return dict(pretrained_weights(DENSE, path))


def conversions() -> list[Path]:
    return sorted((checkpoint_file().parents[1] / "adm").glob("*"))


def test_a_checkpoint_is_converted_once_and_loaded_once_per_process(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = convert_adm(random_state(DENSE), DENSE)
    first = pretrained_weights(DENSE, checkpoint)
    assert same(first, expected)
    (kept,) = conversions()
    assert same(load_file(kept), expected)
    assert pretrained_weights(DENSE, checkpoint) is first, "not shared within a process"
    monkeypatch.setattr(adm_checkpoint, "load_original", lambda *_: pytest.fail("converted again"))
    assert same(reread(checkpoint), expected)
    with pytest.raises(TypeError):
        first["conv_in.bias"] = torch.zeros(32)  # type: ignore[index]


@pytest.mark.skipif(sys.platform != "linux", reason="the list of mapped files exists on Linux only")
def test_networks_share_the_memory_mapped_file(checkpoint: Path) -> None:
    reread(checkpoint)
    unet = adm_with_weights(DENSE, reread(checkpoint), trainable=["conv_out.bias"])
    (kept,) = conversions()
    lines = [
        line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if kept.name in line
    ]
    mapped = [range(int(start, 16), int(end, 16)) for start, end in lines]
    private = {name for name, p in unet.named_parameters() if not any(p.data_ptr() in part for part in mapped)}
    assert private == {"conv_out.bias"}


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign"])
def test_a_damaged_conversion_is_repeated(damage: str, checkpoint: Path) -> None:
    expected = {name: weight.clone() for name, weight in pretrained_weights(DENSE, checkpoint).items()}
    (kept,) = conversions()
    whole = kept.read_bytes()
    kept.unlink()
    if damage == "foreign":
        other = checkpoint.with_name("other.pt")
        torch.save(random_state(DENSE, seed=1), other)
        reread(other)
        (foreign,) = conversions()
        foreign.rename(kept)
    else:
        kept.write_bytes(whole[:-7] if damage == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    assert same(reread(checkpoint), expected)
    assert kept.read_bytes() == whole


def test_a_refused_checkpoint_writes_no_conversion(checkpoint: Path) -> None:
    with pytest.raises(DataError, match="is not the ADM of 32 channels"):
        pretrained_weights(SMALL, checkpoint)
    assert not conversions()


# The published checkpoint


def test_a_missing_checkpoint_is_an_error_with_the_command_that_fetches_it() -> None:
    entry = weights_named(ADM_64_WEIGHTS)
    with refused(DataError, rf"expected {checkpoint_file()}.*Fetch it with: {re.escape(entry.fetch)} \({entry.url}, "):
        pretrained_weights()


def test_a_published_hash_is_checked_for_the_published_file_only(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = weights_named(ADM_64_WEIGHTS).model_copy(update={"sha256": "0" * 64})
    monkeypatch.setattr(adm_checkpoint, "weights_named", lambda _: stated)
    assert pretrained_weights(DENSE, checkpoint)
    checkpoint_file().parent.mkdir(parents=True)
    checkpoint.rename(checkpoint_file())
    with pytest.raises(
        DataError, match=f"expected {'0' * 64}; delete the file and fetch it again with: mmrs-bench weights fetch "
    ):
        pretrained_weights(DENSE)


def test_an_unknown_checkpoint_name_is_refused() -> None:
    with refused(ConfigError, "unknown checkpoint 'adm-imagenet': did you mean adm-imagenet-64"):
        weights_named("adm-imagenet")
