"""Trainings on several processes."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.method_helpers import small_data
from helpers.network_helpers import same, weights

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import TrainingError
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.bdgf.pretraining_module import MultimodalPretrainer
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.pretraining_cache import load_or_pretrain

pytestmark = [
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two processes need two cores"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
]
EPOCHS = 3


def context(folder: Path, devices: int) -> RunContext:
    return RunContext(seed=0, draw=0, work_dir=folder, execution=ExecutionConfig(devices=devices))


def pretrained(folder: Path, devices: int, *, rate: float = 0.01, epochs: int = EPOCHS) -> MultimodalPretrainer:
    """A module after a resumable training of 3 steps an epoch; no mask, whose shares differ between processes."""
    data = small_data()
    settings = {"base": 8, "multipliers": (1,), "blocks": 1, "mask_rule": "none", "learning_rate": rate}
    module = training.initialised(
        lambda: MultimodalPretrainer(data.channels, data.window, **settings), context(folder, devices), "stage"
    )
    loader = data.shuffled_dataloader(("stage", 0), data.unlabelled[:24], batch_size=8)
    training.fit(
        module, training.Loaders(loader), context(folder, devices), stage="stage", epochs=epochs, resumable=True
    )
    assert loader.sampler.batch_size == 8, "the loader is as before"
    return module


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    one, two = (pretrained(tmp_path / str(devices), devices) for devices in (1, 2))
    losses = one.curves["loss"]
    assert losses.shape == (EPOCHS, 2)
    torch.testing.assert_close(two.curves["loss"], losses, rtol=0.02, atol=0)
    assert (losses[-1] < losses[0]).all()
    assert not same(weights(two), weights(one)), "sums over processes round differently"
    assert "MASTER_PORT" not in os.environ
    rows = (tmp_path / "2" / "logs" / "stage" / "metrics.csv").read_text().splitlines()
    assert len(rows) > EPOCHS, "rank 0 logs"


@pytest.mark.slow
def test_an_error_of_a_process_is_raised_here_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^stage.*: .* is (nan|inf) at step|^pretraining: .* is") as caught:
        pretrained(tmp_path, 2, rate=1e30)
    assert "Traceback" not in str(caught.value)


LONG = 30


@pytest.mark.slow
def test_a_killed_training_ends_its_processes_and_is_resumed(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "stage" / "last.ckpt"
    code = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[1:3]; import mmrs_bench, test_devices\n"
        f"if __name__ == '__main__': test_devices.pretrained(Path(sys.argv[3]), 2, epochs={LONG})"
    )
    script = tmp_path / "train.py"
    script.write_text(code)
    tests = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, script, tests, Path(__file__).parent, tmp_path]) as process:
        while not checkpoint.exists():
            assert process.poll() is None
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
    assert len(children) >= 2
    while any(is_running(child) for child in children):
        time.sleep(0.05)
    losses = pretrained(tmp_path, 2, epochs=LONG).curves["loss"]
    assert losses.shape == (LONG, 2)
    assert losses.all(), "the epochs before the kill come from the checkpoint"
    (first, *_) = csv.DictReader((tmp_path / "logs" / "stage-2" / "metrics.csv").read_text().splitlines())
    assert int(first["epoch"]) > 0


def is_running(process: str) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_cache_keeps_the_weights_of_other_numbers_of_devices_apart(tmp_path: Path) -> None:
    trained: list[int] = []

    def train(module: torch.nn.Module, shared: RunContext) -> None:
        trained.append(shared.execution.devices)

    for devices in (1, 2, 1, 2):
        load_or_pretrain({"method": "test"}, lambda: torch.nn.Linear(2, 2), train, context(tmp_path, devices))
    assert trained == [1, 2]
