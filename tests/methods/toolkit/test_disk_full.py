"""A full disk ends a pretraining with one line and spoils nothing; unreadable checkpoints are set aside."""

# Child processes import this file first, and mmrs_bench has to be imported before lightning (_torchvision_guard.py).
import mmrs_bench  # noqa: F401  # isort: skip

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers.denoiser import STEPS, Denoiser, learn
from helpers.network_helpers import same_weights

from mmrs_bench.errors import BenchError
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit.checkpoints import usable_checkpoint
from mmrs_bench.methods.toolkit.pretraining_cache import load_or_pretrain

ADDRESS = {"scene": "tiny-r1"}
EPOCHS = 3


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let every write fail that makes a file larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def pretrain(folder: Path, before_step: Callable[[int], object] = lambda step: None) -> tuple[Denoiser, int]:
    """The module, and the first step of this call."""
    steps: list[int] = []

    def train(module: Denoiser, context: RunContext) -> None:
        module.before_step = before_step
        learn(module, context, EPOCHS)
        steps.extend(module.steps)

    context = RunContext(seed=0, draw=0, work_dir=folder / "cell")
    return load_or_pretrain(ADDRESS, Denoiser, train, context), steps[0]


def cache() -> Path:
    return Path(os.environ["MMRS_BENCH_CACHE"]) / "pretraining"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMRS_BENCH_CACHE", str(folder))
        return pretrain(folder)[0]


@pytest.mark.parametrize("size", [0, 200, 2000], ids=["nothing fits", "logs do not fit", "checkpoints do not fit"])
@pytest.mark.parametrize("from_step", [0, 2 * STEPS])
def test_after_a_full_disk_the_same_training_ends_as_an_undisturbed_one(
    size: int, from_step: int, tmp_path: Path, undisturbed: Denoiser, capfd: pytest.CaptureFixture[str]
) -> None:
    with largest_file(resource.getrlimit(resource.RLIMIT_FSIZE)[0]):

        def fill(step: int) -> None:
            if step == from_step:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

        with pytest.raises(BenchError, match="File too large") as caught:
            pretrain(tmp_path, fill)
    assert "\n" not in str(caught.value)
    assert str(cache()) in str(caught.value)
    assert "Traceback" not in "".join(capfd.readouterr())
    assert not list(cache().glob("*.safetensors"))
    assert not [path for path in cache().rglob("*.tmp*") if path.is_file()]
    module, first = pretrain(tmp_path)
    assert first == from_step
    assert same_weights(module, undisturbed)
    assert not list(cache().rglob("*.unreadable"))


@pytest.mark.parametrize("damage", ["cut off", "empty", "text", "folder", "fifo", "other content"])
def test_an_unreadable_checkpoint_is_set_aside_and_named_and_the_stage_starts_again(
    damage: str, tmp_path: Path, undisturbed: Denoiser, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupt(step: int) -> None:
        if step == 2 * STEPS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path, interrupt)
    (checkpoint,) = cache().rglob("*.ckpt")
    content = checkpoint.read_bytes()
    checkpoint.unlink()
    if damage == "folder":
        checkpoint.mkdir()
    elif damage == "fifo":
        os.mkfifo(checkpoint)
    elif damage == "other content":
        torch.save({"state_dict": {}}, checkpoint)
    else:
        checkpoint.write_bytes({"cut off": content[: len(content) // 2], "empty": b"", "text": b"text"}[damage])
    module, first = pretrain(tmp_path)
    assert first == 0
    assert same_weights(module, undisturbed)
    (line,) = [r.getMessage() for r in caplog.records if "starts again" in r.getMessage()]
    assert str(checkpoint) in line
    assert "\n" not in line
    assert [path.name for path in cache().rglob("*.unreadable")] == ["last.ckpt.unreadable"]


def test_an_absent_checkpoint_is_none(tmp_path: Path) -> None:
    assert usable_checkpoint(tmp_path / "last.ckpt") is None
