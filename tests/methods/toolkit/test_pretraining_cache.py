"""The pretraining cache: one training per key, shared by processes, resumed after a kill; damaged files are refused."""

# Child processes import this file first, and mmrs_bench has to be imported before lightning (_torchvision_guard.py).
import mmrs_bench  # isort: skip

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.cache_helpers import PATIENCE_SECONDS, disk_full_after, wait_for
from helpers.denoiser import STEPS, Denoiser, learn
from helpers.network_helpers import same_weights
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import BenchError, DataError, TrainingError
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.pretraining_cache import WAITING, load_or_pretrain

Tensors = dict[str, torch.Tensor]

ADDRESS = {"scene": "tiny-r1", "window": 11, "settings": {"epochs": 4}}
EPOCHS = 4


class RandomTraining:
    """A fast training that adds random values and records its contexts."""

    def __init__(self) -> None:
        self.contexts: list[RunContext] = []

    def __call__(self, module: torch.nn.Module, context: RunContext) -> None:
        self.contexts.append(context)
        (context.work_dir / "checkpoint").touch()
        generator = torch.Generator().manual_seed(context.seed + 1000 * context.draw)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.rand(parameter.shape, generator=generator))


def never(module: torch.nn.Module, context: RunContext) -> None:
    raise AssertionError("trained again")


def build() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))


def cell(folder: Path, seed: int = 0, draw: int = 0, **options: Any) -> RunContext:
    return RunContext(seed=seed, draw=draw, work_dir=folder / "cell", **options)


def cache() -> Path:
    return Path(os.environ["MMRS_BENCH_CACHE"]) / "pretraining"


def files() -> set[str]:
    """All files of the cache except locks, relative to its folder."""
    return {str(p.relative_to(cache())) for p in cache().rglob("*") if p.is_file() and p.suffix != ".lock"}


def entries() -> list[Path]:
    return sorted(cache().glob("*.safetensors"))


# Once per key


def test_equal_addresses_train_once(tmp_path: Path) -> None:
    trainer = RandomTraining()
    first = load_or_pretrain(ADDRESS, build, trainer, cell(tmp_path, draw=5))
    second = load_or_pretrain(dict(reversed(ADDRESS.items())), build, never, cell(tmp_path))
    untrained = training.initialised(build, cell(tmp_path), "pretraining")
    assert [context.draw for context in trainer.contexts] == [0], "the weights depend on the draw"
    assert same_weights(first, second)
    assert not same_weights(first, untrained)
    for module in (first, second):
        assert not any(part.training for part in module.modules())
        assert {tensor.device.type for tensor in module.state_dict().values()} == {"cpu"}
    assert not (tmp_path / "cell").exists(), "the cell's own folder was used"


def test_the_key_contains_everything_that_the_weights_depend_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    trainer, execution = RandomTraining(), ExecutionConfig(precision="bf16-mixed")
    for count, (address, context) in enumerate(
        [
            (ADDRESS, cell(tmp_path)),
            ({**ADDRESS, "seed": 1}, cell(tmp_path)),  # does not replace the seed that is added
            ({**ADDRESS, "window": 9}, cell(tmp_path)),
            ({**ADDRESS, "settings": {"epochs": 5}}, cell(tmp_path)),
            (ADDRESS, cell(tmp_path, seed=1)),
            (ADDRESS, cell(tmp_path, execution=execution)),
            (ADDRESS, cell(tmp_path, execution=ExecutionConfig(device="cuda"))),
            (ADDRESS, cell(tmp_path, execution=ExecutionConfig(threads=2))),
        ],
        start=1,
    ):
        load_or_pretrain(address, build, trainer, context)
        assert len(trainer.contexts) == count == len(entries())


def test_the_key_contains_nothing_else(tmp_path: Path) -> None:
    load_or_pretrain(ADDRESS, build, RandomTraining(), cell(tmp_path))
    execution = ExecutionConfig(device="cpu" if torch.cuda.is_available() else "auto", inference_batch=7)
    load_or_pretrain(ADDRESS, build, never, cell(tmp_path / "other", execution=execution))


def test_a_process_that_trained_gets_the_same_module_as_one_that_reads(tmp_path: Path) -> None:
    def train(module: torch.nn.Module, context: RunContext) -> None:
        RandomTraining()(module, context)
        module.register_buffer("mark", torch.zeros(1), persistent=False)
        module[0].weight.requires_grad_(False)  # type: ignore[index]

    before = torch.random.get_rng_state()
    trained = load_or_pretrain(ADDRESS, build, train, cell(tmp_path))
    assert not hasattr(trained, "mark")
    assert all(parameter.requires_grad for parameter in trained.parameters())
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_entry_has_a_readable_description(tmp_path: Path) -> None:
    module = load_or_pretrain(ADDRESS, build, RandomTraining(), cell(tmp_path, seed=3))
    (entry,) = entries()
    assert files() == {entry.name, f"{entry.stem}.json"}
    about = json.loads(entry.with_suffix(".json").read_text())
    assert about.pop("seconds_of_last_attempt") >= 0
    assert about == {
        "key": entry.stem,
        "what": ADDRESS,
        "seed": 3,
        "device": "cpu",
        "precision": "32-true",
        "code_version": mmrs_bench.__version__,
        "resumed": False,
    }
    weights, state = load_file(entry), module.state_dict()
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in state)


def test_tied_transposed_and_narrow_tensors_are_restored(tmp_path: Path) -> None:
    """safetensors itself refuses tensors that share memory or are not contiguous."""

    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Parameter(torch.rand(3, 2).T)
            self.two = self.one
            self.register_buffer("narrow", torch.rand(4, dtype=torch.bfloat16))
            self.register_buffer("flag", torch.tensor(True))
            self.register_buffer("none", torch.empty(0, 3))

    trainer = RandomTraining()
    first = load_or_pretrain(ADDRESS, Odd, trainer, cell(tmp_path))
    assert same_weights(first, load_or_pretrain(ADDRESS, Odd, never, cell(tmp_path)))
    assert first.one is first.two


# Several processes


def train_twice_and_die(folder: Path) -> None:
    """Two pretrainings, each when another process waits for it; the process is killed in the second."""
    for name, last in (("first", EPOCHS * STEPS), ("second", 2 * STEPS + STEPS // 2)):

        def train(module: Denoiser, context: RunContext, name: str = name, last: int = last) -> None:
            (folder / f"{name} started").touch()
            wait_for(folder / f"{name} expected")
            module.before_step = lambda step: os.kill(os.getpid(), signal.SIGKILL) if step == last else None
            learn(module, context, EPOCHS)

        load_or_pretrain({"name": name}, Denoiser, train, cell(folder))


def request_while_the_child_trains(
    name: str, folder: Path, train: Callable[[Denoiser, RunContext], None]
) -> tuple[Denoiser, list[str]]:
    """The module, and the reasons for waiting."""
    reasons: list[str] = []

    def wait(reason: str) -> None:
        reasons.append(reason)
        (folder / f"{name} expected").touch()

    wait_for(folder / f"{name} started")
    return load_or_pretrain({"name": name}, Denoiser, train, cell(folder, wait=wait)), reasons


def test_processes_share_a_training_and_continue_that_of_a_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = multiprocessing.get_context("spawn").Process(target=train_twice_and_die, args=(tmp_path,), daemon=True)
    child.start()
    read, reasons = request_while_the_child_trains("first", tmp_path, never)
    assert reasons == [WAITING]
    (entry,) = entries()

    steps: list[int] = []

    def continue_training(module: Denoiser, context: RunContext) -> None:
        assert entries() == [entry], "the killed process left an entry"
        learn(module, context, EPOCHS)
        steps.extend(module.steps)

    resumed, reasons = request_while_the_child_trains("second", tmp_path, continue_training)
    child.join(PATIENCE_SECONDS)
    assert child.exitcode == -signal.SIGKILL
    assert reasons == [WAITING]
    assert steps == list(range(2 * STEPS, EPOCHS * STEPS)), "it did not resume after the second epoch"
    (second,) = set(entries()) - {entry}
    assert not json.loads(entry.with_suffix(".json").read_text())["resumed"]
    assert json.loads(second.with_suffix(".json").read_text())["resumed"]
    assert {path.name for path in (cache() / second.stem).iterdir()} == {"logs"}

    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "uninterrupted"))
    uninterrupted = load_or_pretrain({"name": "second"}, Denoiser, partial(learn, epochs=EPOCHS), cell(tmp_path))
    assert same_weights(resumed, uninterrupted)
    assert same_weights(read, uninterrupted)  # the name changes only the key
    assert not same_weights(read, training.initialised(Denoiser, cell(tmp_path), "pretraining"))


def test_ctrl_c_keeps_the_work_folder_and_releases_the_lock(tmp_path: Path) -> None:
    def interrupted(module: torch.nn.Module, context: RunContext) -> None:
        RandomTraining()(module, context)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_or_pretrain(ADDRESS, build, interrupted, cell(tmp_path))
    assert {Path(name).name for name in files()} == {"checkpoint"}

    def resuming(module: torch.nn.Module, context: RunContext) -> None:
        assert (context.work_dir / "checkpoint").exists()

    reasons: list[str] = []
    load_or_pretrain(ADDRESS, build, resuming, cell(tmp_path, wait=reasons.append))
    assert reasons == []
    assert {Path(name).suffix for name in files()} == {".safetensors", ".json"}


def test_logs_are_kept_and_replace_those_of_a_removed_entry(tmp_path: Path) -> None:
    def train(text: str) -> Callable[[torch.nn.Module, RunContext], None]:
        def logging(module: torch.nn.Module, context: RunContext) -> None:
            (context.work_dir / "logs" / "pretraining").mkdir(parents=True)
            (context.work_dir / "logs" / "pretraining" / f"{text}.csv").touch()

        return logging

    for text in ("old", "new"):
        load_or_pretrain(ADDRESS, build, train(text), cell(tmp_path))
        (entry,) = entries()
        assert files() == {entry.name, f"{entry.stem}.json", f"{entry.stem}/logs/pretraining/{text}.csv"}
        entry.unlink()


# What is refused


def sealed(path: Path, weights: Tensors) -> None:
    """Replace the tensors of an entry, but not its metadata."""
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(weights, path, metadata)


def change(**tensors: torch.Tensor | None) -> Callable[[Path], None]:
    """Replace, add or (None) remove tensors; `__` stands for the dot in names."""

    def damage(path: Path) -> None:
        weights: dict[str, Any] = {**load_file(path), **{n.replace("__", "."): t for n, t in tensors.items()}}
        sealed(path, {name: tensor for name, tensor in weights.items() if tensor is not None})

    return damage


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def replace_by_another_entry(path: Path) -> None:
    load_or_pretrain({**ADDRESS, "window": 9}, build, RandomTraining(), cell(path))
    (other,) = set(entries()) - {path}
    other.replace(path)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-8]), "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "text": (lambda path: path.write_text("no weights " * 9), "cannot be read"),
    "flipped bit": (flip_a_bit, "the values were changed after they were written"),
    "other address": (replace_by_another_entry, "belongs to another pretraining than the file name"),
    "foreign": (lambda path: save_file(load_file(path), path), "belongs to another pretraining than the file name"),
    "nan": (change(**{"0__bias": torch.tensor([0.0, float("nan")])}), r"0\.bias has values that are NaN or infinite"),
    "inf": (change(**{"0__bias": torch.tensor([0.0, float("inf")])}), r"0\.bias has values that are NaN or infinite"),
    "other values": (change(**{"0__bias": torch.zeros(2)}), "the values were changed after they were written"),
    "other shape": (
        change(**{"0__weight": torch.zeros(2, 4)}),
        r"0\.weight is torch.float32 \[2, 4\], expected torch.float32 \[2, 3\]",
    ),
    "other type": (
        change(**{"0__bias": torch.zeros(2, dtype=torch.float64)}),
        r"0\.bias is torch.float64 \[2\], expected torch.float32 \[2\]",
    ),
    "missing": (change(**{"0__bias": None}), r"missing \['0\.bias'\], unknown \[\]"),
    "more": (change(head=torch.zeros(1)), r"missing \[\], unknown \['head'\]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entries_are_refused_and_kept(damage: str, tmp_path: Path) -> None:
    load_or_pretrain(ADDRESS, build, RandomTraining(), cell(tmp_path))
    (entry,) = entries()
    spoil, message = DAMAGES[damage]
    spoil(entry)
    content = entry.read_bytes()
    for _ in range(2):
        with pytest.raises(DataError, match=rf"(?s){entry.name}: .*{message}.*remove this file to train again$"):
            load_or_pretrain(ADDRESS, build, never, cell(tmp_path))
    assert entry.read_bytes() == content
    entry.unlink()  # as the message advises
    trainer = RandomTraining()
    load_or_pretrain(ADDRESS, build, trainer, cell(tmp_path))
    assert len(trainer.contexts) == 1


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_training_that_ends_in_nan_leaves_no_entry(value: float, tmp_path: Path) -> None:
    def spoil(module: torch.nn.Module, context: RunContext) -> None:
        RandomTraining()(module, context)
        module[1].running_var[1] = value  # type: ignore[index]

    for _ in range(2):
        with pytest.raises(TrainingError, match=r"after training, 1\.running_var has values that are NaN or infinite"):
            load_or_pretrain(ADDRESS, build, spoil, cell(tmp_path))
        assert {Path(name).name for name in files()} == {"checkpoint"}


def test_a_training_that_changes_the_module_leaves_no_entry(tmp_path: Path) -> None:
    def grow(module: torch.nn.Module, context: RunContext) -> None:
        module.register_buffer("extra", torch.zeros(1))

    with pytest.raises(TrainingError, match=r"missing \[\], unknown \['extra'\]"):
        load_or_pretrain(ADDRESS, build, grow, cell(tmp_path))
    assert files() == set()


@pytest.mark.parametrize("writes", [0, 1])
def test_a_full_disk_leaves_no_part_of_an_entry(writes: int, tmp_path: Path) -> None:
    """Whichever of the two files does not fit; the work folder is kept."""
    with disk_full_after(writes), pytest.raises(BenchError, match="No space left on device"):
        load_or_pretrain(ADDRESS, build, RandomTraining(), cell(tmp_path))
    assert {Path(name).name for name in files()} == {"checkpoint"}
    load_or_pretrain(ADDRESS, build, RandomTraining(), cell(tmp_path))
    assert {Path(name).suffix for name in files()} == {".safetensors", ".json"}
