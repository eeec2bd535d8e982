"""A full disk ends a pretraining with one line and spoils nothing; unreadable checkpoints are set aside."""

# Child processes import this file first, and mmrs_bench has to be imported before lightning (_torchvision_guard.py).
import mmrs_bench  # noqa: F401  # isort: skip

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.method_helpers import small_data

from mmrs_bench.errors import BenchError
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.checkpoints import usable_checkpoint
from mmrs_bench.methods.toolkit.pretraining_cache import load_or_pretrain

ADDRESS = {"scene": "tiny-r1"}
EPOCHS, STEPS = 3, 12


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let every write fail that makes a file larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Denoiser(L.LightningModule):
    """Restores centre pixels after dropout; calls ``before_step`` with the number of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(7, 7)
        self.dropout = torch.nn.Dropout(0.5)
        self.before_step: Callable[[int], object] = lambda step: None
        self.first_step = -1

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.before_step(self.global_step)
        self.first_step = self.global_step if self.first_step < 0 else self.first_step
        centre = torch.cat([w[:, :, 5, 5] for w in batch["windows"].values()], dim=1)
        loss: torch.Tensor = (self.layer(self.dropout(centre)) - centre).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.02)


def pretrain(folder: Path, before_step: Callable[[int], object] = lambda step: None) -> tuple[Denoiser, int]:
    """The module, and the first step of this call."""
    first = -1

    def train(module: Denoiser, context: RunContext) -> None:
        nonlocal first
        module.before_step = before_step
        unlabelled = training.Loaders(small_data().unlabelled_dataloader())
        try:
            training.fit(module, unlabelled, context, stage="pretraining", epochs=EPOCHS, resumable=True)
        finally:
            first = module.first_step

    context = RunContext(seed=0, draw=0, work_dir=folder / "cell")
    return load_or_pretrain(ADDRESS, Denoiser, train, context), first


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


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
    assert same(module, undisturbed)
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
    assert same(module, undisturbed)
    (line,) = [r.getMessage() for r in caplog.records if "starts again" in r.getMessage()]
    assert str(checkpoint) in line
    assert "\n" not in line
    assert [path.name for path in cache().rglob("*.unreadable")] == ["last.ckpt.unreadable"]


def test_an_absent_checkpoint_is_none(tmp_path: Path) -> None:
    assert usable_checkpoint(tmp_path / "last.ckpt") is None
