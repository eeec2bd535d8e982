"""Training and prediction: repeatability, isolation, errors, logs, progress, selection and resuming."""

from __future__ import annotations

import itertools
import logging
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.method_helpers import small_data
from helpers.network_helpers import same, weights

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import TrainingError
from mmrs_bench.methods.base import RunContext, Trial
from mmrs_bench.methods.toolkit import training
from mmrs_bench.scenes.datamodule import SceneDataModule


class Linear(L.LightningModule):
    """A linear classifier of the centre pixel with dropout, so that the random state of training matters."""

    def __init__(self, loss: Callable[[int], float] = lambda step: 1.0, scores: tuple[float, ...] = ()) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(7, 4)
        self.dropout = torch.nn.Dropout(0.5)
        self.factor, self.scores = loss, scores
        self.seen: list[float] = []
        self.devices: list[int] = []

    def logits(self, batch: dict[str, Any]) -> torch.Tensor:
        centre = torch.cat([w[:, :, 5, 5] for w in batch["windows"].values()], dim=1)
        logits: torch.Tensor = self.layer(self.dropout(centre))
        return logits

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.devices.append(torch.get_num_threads())
        loss = torch.nn.functional.cross_entropy(self.logits(batch), batch["target"])
        self.seen.append(float(loss.detach()))
        self.log("loss", loss)
        return loss * self.factor(self.global_step)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.log("score", self.scores[self.current_epoch])

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        return self.logits(batch).argmax(dim=1)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)}


def context(folder: Path, **options: Any) -> RunContext:
    return RunContext(seed=0, draw=0, work_dir=folder, **options)


def loaders(data: SceneDataModule) -> training.Loaders:
    return training.Loaders(data.train_dataloader(), data.val_dataloader())


def linear(folder: Path, **options: Any) -> Linear:
    return training.initialised(lambda: Linear(**options), context(folder), "linear")


def fit(module: Linear, folder: Path, *, epochs: int = 8, data: SceneDataModule | None = None, **options: Any) -> None:
    training.fit(module, loaders(data or small_data()), context(folder), stage="training", epochs=epochs, **options)


def test_initial_values_depend_on_seed_draw_and_purpose_only(tmp_path: Path) -> None:
    first = weights(linear(tmp_path))
    torch.rand(3)
    assert same(first, weights(linear(tmp_path)))
    for other in (RunContext(1, 0, tmp_path), RunContext(0, 1, tmp_path)):
        assert not same(first, weights(training.initialised(Linear, other, "linear")))
    assert not same(first, weights(training.initialised(Linear, context(tmp_path), "other")))


def test_a_training_is_repeatable_and_learns(tmp_path: Path) -> None:
    one, two = linear(tmp_path), linear(tmp_path)
    before = weights(one)
    fit(one, tmp_path / "1")
    fit(two, tmp_path / "2")
    assert one.seen == two.seen
    assert same(weights(one), weights(two))
    assert not same(weights(one), before)
    assert one.seen[-1] < one.seen[0]
    assert not one.training


def process_state() -> list[Any]:
    return [
        torch.random.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state(legacy=False)["state"]["key"].tolist(),  # noqa: NPY002
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,
        signal.getsignal(signal.SIGINT),
        logging.getLogger("lightning.pytorch").level,
    ]


def test_the_state_of_the_process_is_restored(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    before = process_state()
    module, data = linear(tmp_path), small_data()
    one_thread = context(tmp_path, execution=ExecutionConfig(threads=1))
    training.fit(module, loaders(data), one_thread, stage="training", epochs=2)
    training.predict(module, data.predict_dataloader(), context(tmp_path))
    assert process_state() == before
    assert set(module.devices) == {1}, "the training used another number of threads"
    torch.set_num_threads(1)


def test_deterministic_mode_does_not_fill_new_memory(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []

    def look(step: int) -> float:
        fills = torch.utils.deterministic.fill_uninitialized_memory
        seen.append((torch.are_deterministic_algorithms_enabled(), fills))
        return 1.0

    fit(linear(tmp_path, loss=look), tmp_path)
    assert set(seen) == {(True, False)}


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module, data = linear(tmp_path), small_data()
    fit(module, tmp_path, data=data)
    training.predict(module, data.predict_dataloader(), context(tmp_path))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_an_error(bad: float, tmp_path: Path) -> None:
    module = linear(tmp_path, loss=lambda step: bad if step == 3 else 1.0)
    before = process_state()
    with pytest.raises(TrainingError, match=rf"^training: loss is {bad} at step 3;"):
        fit(module, tmp_path)
    assert process_state() == before
    assert all(torch.isfinite(values).all() for values in module.parameters())


def test_ctrl_c_raises_keyboard_interrupt(tmp_path: Path) -> None:
    def interrupt(step: int) -> float:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return 1.0

    before = process_state()
    with pytest.raises(KeyboardInterrupt):
        fit(linear(tmp_path, loss=interrupt), tmp_path)
    assert process_state() == before


def test_system_exit_of_a_module_stays_system_exit(tmp_path: Path) -> None:
    def leave(step: int) -> float:
        raise SystemExit(7)

    with pytest.raises(SystemExit, match="7"):
        fit(linear(tmp_path, loss=leave), tmp_path)


def test_csv_and_tensorboard_logs_are_never_overwritten(tmp_path: Path) -> None:
    for _ in range(2):
        fit(linear(tmp_path), tmp_path, epochs=3)
    for name in ("training", "training-2"):
        lines = (tmp_path / "logs" / name / "metrics.csv").read_text().splitlines()
        assert "loss" in lines[0].split(",")
        assert len(lines) == 1 + 3
        assert list((tmp_path / "logs" / name).glob("events.out.tfevents.*"))


def test_only_resumable_trainings_write_checkpoints(tmp_path: Path) -> None:
    fit(linear(tmp_path), tmp_path, epochs=2)
    assert {path.name for path in tmp_path.iterdir()} == {"logs"}


def test_progress_ends_at_one(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    reporting = context(tmp_path, progress=lambda stage, done: seen.append((stage, done)))
    data = SceneDataModule(small_data().scene, small_data().config, batch_size=3, inference_batch=500)
    module = linear(tmp_path)
    training.fit(module, loaders(data), reporting, stage="pretraining", epochs=2)
    assert {stage for stage, _ in seen} == {"pretraining"}
    assert [done for _, done in seen] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1])
    seen.clear()
    training.predict(module, data.scene_dataloader(), reporting)
    assert seen == [("prediction", pytest.approx(n / 3)) for n in (1, 2, 3)]


def test_predictions_have_the_order_of_the_pixels(tmp_path: Path) -> None:
    data, module = small_data(), linear(tmp_path)
    fit(module, tmp_path, data=data)
    pixels = np.random.default_rng(0).permutation(1440)
    whole = training.predict(module, data.scene_dataloader(), context(tmp_path))
    some = training.predict(module, data.pixel_dataloader(pixels), context(tmp_path))
    np.testing.assert_array_equal(some, whole[pixels])
    with torch.inference_mode():
        slow = module.layer(torch.from_numpy(data.features(pixels))).argmax(dim=1).numpy()
    np.testing.assert_array_equal(whole[pixels], slow)
    assert training.predict(module, data.pixel_dataloader(pixels[:0]), context(tmp_path)).shape == (0,)


def test_the_first_epoch_with_the_best_validation_is_kept(tmp_path: Path) -> None:
    data = small_data(selection="paper-val")
    scores = (0.1, 0.7, 0.5, 0.7, 0.2)
    best, short = linear(tmp_path, scores=scores), linear(tmp_path, scores=scores)
    fit(best, tmp_path / "1", epochs=5, data=data, maximise="score")
    fit(short, tmp_path / "2", epochs=2, data=data, maximise="score")
    assert same(weights(best), weights(short))


def fit_with_interruption(folder: Path, step: int, **options: Any) -> tuple[Linear, Linear]:
    """The modules of an uninterrupted training, and of the resumed rest of one that stopped at a step."""

    def stop(current: int) -> float:
        if current == step:
            raise RuntimeError("power cut")
        return 1.0

    scores = (0.1, 0.9, 0.5, 0.7, 0.2, 0.3)
    whole, first, rest = (linear(folder, scores=scores, loss=loss) for loss in (lambda s: 1.0, stop, lambda s: 1.0))
    fit(whole, folder / "whole", resumable=True, **options)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(first, folder / "interrupted", resumable=True, **options)
    fit(rest, folder / "interrupted", resumable=True, **options)
    return whole, rest


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout, order and symmetries of the batches, optimiser and schedule continue at the last checkpoint."""
    monkeypatch.setattr(training, "CHECKPOINTS", 4)  # one after every second of 8 epochs
    data = SceneDataModule(small_data().scene, small_data().config, batch_size=4)
    whole, rest = fit_with_interruption(tmp_path, 11, data=data)
    assert same(weights(whole), weights(rest))
    assert rest.seen == whole.seen[4 * 2 :]
    assert [path.name for path in (tmp_path / "interrupted/checkpoints/training").iterdir()] == ["last.ckpt"]


def test_the_best_epoch_survives_an_interruption(tmp_path: Path) -> None:
    data = small_data(selection="paper-val")
    whole, rest = fit_with_interruption(tmp_path, 5, data=data, epochs=6, maximise="score")
    assert same(weights(whole), weights(rest))
    assert len(rest.seen) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_module_trained_on_a_gpu_ends_on_the_cpu(tmp_path: Path) -> None:
    data, module = small_data(), linear(tmp_path)
    execution = context(tmp_path, execution=ExecutionConfig(device="cuda"))
    training.fit(module, loaders(data), execution, stage="training", epochs=2)
    assert training.predict(module, data.predict_dataloader(), execution).shape == data.query.shape
    assert next(module.parameters()).device.type == "cpu"


@pytest.mark.parametrize("validated", [False, True])
def test_a_trial_stops_early_and_expects_the_other_steps_to_take_as_long(
    validated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reading of the clock is one second later: one for a step, two for a validation, which ends each epoch."""
    clock = itertools.count()
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    module, trial, epochs = linear(tmp_path, scores=(1.0,) * 50), Trial(seconds=2.0), 50
    data = small_data(selection="paper-val") if validated else small_data()
    given, options = loaders(data), {"maximise": "score"} if validated else {}
    training.fit(module, given, context(tmp_path, trial=trial), stage="training", epochs=epochs, **options)
    steps = epochs * len(given.train)
    assert 3 < len(module.seen) < steps
    assert trial.left_out == (3 if validated else 1) * (steps - len(module.seen))
    assert all(parameter.isfinite().all() for parameter in module.parameters())
