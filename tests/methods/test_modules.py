"""What every LightningModule does in the hands of someone who knows Lightning and nothing else of this suite."""

from __future__ import annotations

import inspect
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from filelock import FileLock
from helpers.method_helpers import fitted, small_data
from helpers.module_cases import CASES, Losses, ModuleCase, logged_scores, saved, trainer
from helpers.network_helpers import same, weights
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint

from mmrs_bench.config import torch_threads
from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.bdgf import module as bdgf
from mmrs_bench.methods.catalogue import method_card
from mmrs_bench.methods.cnn.module import CnnModule
from mmrs_bench.methods.toolkit.stage import StageModule
from mmrs_bench.methods.toolkit.supervised import SupervisedModule
from mmrs_bench.methods.unidiff.head_module import HeadModule

TESTS = Path(__file__).parents[1]

every_module = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
classifiers = pytest.mark.parametrize("case", [c for c in CASES if c.classifies], ids=lambda case: case.name)

window_classifiers = pytest.mark.parametrize(
    "case", [c for c in CASES if c.classifies and c.module is not HeadModule], ids=lambda case: case.name
)


def _once_of_a_kind(cases: Iterable[ModuleCase]) -> Any:
    """Of modules that differ from that of S2ENet by their network and loss only, these tests are slow."""
    slow = {c.name for c in cases if issubclass(c.module, SupervisedModule) and c.name != "s2enet"}
    marked = [pytest.param(c, marks=[pytest.mark.slow] * (c.name in slow)) for c in cases]
    return pytest.mark.parametrize("case", marked, ids=lambda case: case.name)


every_kind = _once_of_a_kind(CASES)
classifiers_of_every_kind = _once_of_a_kind([c for c in CASES if c.classifies])


def outputs(own: Any, module: StageModule, data: Any) -> list[torch.Tensor]:
    """Predictions, or, for modules that predict nothing, the loss of a batch."""
    if type(module).predict_step is not StageModule.predict_step:
        return [torch.as_tensor(part) for part in own.predict(module, datamodule=data)]
    module.eval()
    module.trainer = None  # so that both modules are in epoch 0
    module.log = module.log_dict = lambda *args, **options: None  # type: ignore[method-assign,assignment]
    with torch.no_grad():
        return [module.training_step(next(iter(data.train_dataloader())), 0)]


@every_module
def test_it_trains_and_is_restored_from_its_checkpoint_alone(case: ModuleCase, tmp_path: Path) -> None:
    data, losses = case.data(), Losses()
    module, own = case.build(data), trainer(tmp_path, callbacks=[losses])
    own.fit(module, datamodule=data)
    assert len(losses.values) == 2 * len(data.train_dataloader())
    assert all(map(math.isfinite, losses.values))
    own.save_checkpoint(tmp_path / "module.ckpt")
    torch.load(tmp_path / "module.ckpt", weights_only=True)
    restored = case.module.load_from_checkpoint(tmp_path / "module.ckpt")
    assert dict(restored.hparams) == dict(module.hparams)
    for one, other in zip(outputs(own, module, data), outputs(own, restored, data), strict=True):
        assert torch.equal(one, other)


@window_classifiers
def test_predictions_in_several_threads_are_those_of_one(case: ModuleCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of a batch are computed at once, each with one thread."""
    data = case.data()
    module = case.build(data).eval()
    monkeypatch.setattr(type(module), "cpu_chunk", 7)
    monkeypatch.setattr(bdgf, "PREDICTION_BATCH", 7)
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    scores = []
    for threads in (1, 3):
        with torch.inference_mode(), torch_threads(threads):
            scores.append(module.class_scores(batch))
    assert len(scores[0]) == 60
    assert torch.equal(*scores)


@every_kind
def test_a_checkpoint_of_another_module_is_refused(case: ModuleCase, tmp_path: Path) -> None:
    checkpoint = saved(case.build(case.data()), tmp_path / "module.ckpt")
    other = next(other for other in CASES if other.module is not case.module)
    with pytest.raises(DataError, match=f"module.ckpt: contains .*{case.module.__name__}, expected") as caught:
        other.module.load_from_checkpoint(checkpoint)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@every_kind
def test_a_resumed_training_ends_with_the_same_weights(case: ModuleCase, tmp_path: Path) -> None:
    data = case.data()
    whole, resumed = (case.build(data, **case.exact) for _ in range(2))
    kept = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    trainer(tmp_path, enable_checkpointing=True, callbacks=[kept]).fit(whole, datamodule=data)
    trainer(tmp_path).fit(resumed, datamodule=case.data(), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert same(weights(resumed), weights(whole))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@every_kind
def test_a_training_resumed_within_an_epoch_gets_the_remaining_batches(case: ModuleCase, tmp_path: Path) -> None:
    data = case.data()
    whole, resumed = (case.build(data, **case.exact) for _ in range(2))
    step = len(data.train_dataloader()) // 2
    kept = ModelCheckpoint(tmp_path / "kept", filename="{step}", every_n_train_steps=step, save_top_k=-1)
    trainer(tmp_path, enable_checkpointing=True, callbacks=[kept]).fit(whole, datamodule=data)
    losses = Losses()
    trainer(tmp_path, callbacks=[losses]).fit(
        resumed, datamodule=case.data(), ckpt_path=tmp_path / f"kept/step={step}.ckpt"
    )
    assert len(losses.values) == 2 * len(data.train_dataloader()) - step
    assert same(dict(resumed.named_parameters()), dict(whole.named_parameters()))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
@every_kind
def test_it_trains_in_other_precisions_with_clipped_gradients(case: ModuleCase, precision: Any, tmp_path: Path) -> None:
    data, losses = case.data(), Losses()
    own = trainer(tmp_path, 1, precision=precision, gradient_clip_val=1.0, callbacks=[losses])
    own.fit(case.build(data), datamodule=data)
    assert losses.values
    assert all(map(math.isfinite, losses.values))


@every_kind
def test_its_weights_can_be_averaged(case: ModuleCase, tmp_path: Path) -> None:
    data = case.data()
    module, averaged = case.build(data), EMAWeightAveraging(decay=0.5)
    trainer(tmp_path, callbacks=[averaged]).fit(module, datamodule=data)
    assert all(torch.isfinite(values).all() for values in module.parameters())


def rates(tmp_path: Path, **limits: Any) -> list[float]:
    """The learning rate of each step of `CnnModule` with 4 batches in an epoch."""
    found: list[float] = []

    class Rates(L.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            found.append(trainer.optimizers[0].param_groups[0]["lr"])

    case = next(case for case in CASES if case.name == "cnn")
    data = case.data()
    trainer(tmp_path, callbacks=[Rates()], **{"epochs": -1, **limits}).fit(case.build(data), datamodule=data)
    return found


def test_the_rate_falls_over_the_steps_of_the_trainer(tmp_path: Path) -> None:
    by_epochs = rates(tmp_path, epochs=3)
    assert by_epochs == sorted(by_epochs, reverse=True)
    assert len(set(by_epochs)) == 3
    assert rates(tmp_path, max_steps=12) == by_epochs
    assert rates(tmp_path, max_steps=6, accumulate_grad_batches=2) == by_epochs
    assert rates(tmp_path, max_steps=10) == by_epochs[:10]
    assert rates(tmp_path, max_steps=12, epochs=1000) == by_epochs
    with pytest.raises(ConfigError, match="CnnModule falls over the whole training; set max_epochs or max_steps"):
        rates(tmp_path, max_time={"seconds": 1})


class Moved(CnnModule):
    """A module of a user."""


def test_a_module_of_a_user_may_be_in_another_file_than_when_it_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Moved({"hsi": 4}, 3)
    monkeypatch.setattr(Moved, "__module__", "__main__")
    checkpoint = saved(module, tmp_path / "module.ckpt")
    monkeypatch.setattr(Moved, "__module__", "somewhere.else")
    assert same(weights(Moved.load_from_checkpoint(checkpoint)), weights(module))
    with pytest.raises(DataError, match=r"contains __main__\.Moved, expected .*CnnModule"):
        CnnModule.load_from_checkpoint(checkpoint)


@classifiers
def test_logits_depend_neither_on_the_precision_nor_on_the_batch(case: ModuleCase) -> None:
    """Up to rounding."""
    batch, smaller = (next(iter(case.data(batch_size=size).train_dataloader())) for size in (5, 2))
    module = case.build(case.data()).eval()
    with torch.no_grad():
        exact = module.logits(batch)
        rounding = 0.04 * float(exact.abs().max())  # small cosines are differences of large products
        torch.testing.assert_close(module.logits(smaller), exact[:2])
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(module.logits(batch).float(), exact, atol=rounding, rtol=0)


@every_kind
def test_a_plain_loop_over_the_loader_sees_the_batches_of_a_trainer(case: ModuleCase, tmp_path: Path) -> None:
    data, losses = case.data(), Losses()
    own = trainer(tmp_path, 1, callbacks=[losses], limit_train_batches=1)
    own.fit(case.build(data, **case.exact), train_dataloaders=data.train_dataloader())
    module = case.build(data, **case.exact).train()
    module.log = module.log_dict = lambda *args, **options: None
    loss = module.training_step(next(iter(data.train_dataloader())), 0)
    assert loss.item() == pytest.approx(losses.values[0])


@classifiers_of_every_kind
def test_early_stopping_follows_a_logged_score_under_paper_val(case: ModuleCase, tmp_path: Path) -> None:
    data = case.data(selection="paper-val")
    stop = EarlyStopping("val/OA", mode="max", patience=0, stopping_threshold=0.0)
    own = trainer(tmp_path, 5, callbacks=[stop])
    own.fit(case.build(data), datamodule=data)
    assert own.current_epoch == 1, "the threshold is reached after the first epoch"
    (logged,) = own.validate(case.build(data), datamodule=data, verbose=False)
    assert set(logged) >= {"val/OA", "val/AA", "val/kappa"}


@classifiers_of_every_kind
def test_test_scores_are_those_of_the_predictions(case: ModuleCase, tmp_path: Path) -> None:
    data = case.data()
    module, own = case.build(data), trainer(tmp_path)
    own.fit(module, datamodule=data)
    predicted = torch.cat(own.predict(module, datamodule=data)).numpy()
    (logged,) = own.test(module, datamodule=data, verbose=False)
    assert logged == pytest.approx(logged_scores(data, predicted), abs=1e-12)


@every_module
def test_the_defaults_are_those_of_the_card(case: ModuleCase) -> None:
    config = method_card(case.card).config
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(case.module).parameters.items()
        if parameter.default is not parameter.empty
    }
    shared = {name: case.renamed.get(name, name) for name in defaults}
    found = {name: defaults[name] for name, setting in shared.items() if setting in config}
    assert found, "no hyperparameter is a setting of the card"
    plain = {name: [*value] if isinstance(value, tuple) else value for name, value in found.items()}
    assert plain == {name: config[shared[name]] for name in found}
    assert set(case.renamed) <= set(defaults)


@pytest.fixture(scope="module")
def two_processes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> list[dict[str, Any]]:
    """Losses and predictions of both processes, by module; the workers of pytest-xdist share them."""
    items = [item for item in request.session.items if "two_processes" in getattr(item, "fixturenames", ())]
    names = sorted({item.callspec.params["case"].name for item in items})  # type: ignore[attr-defined]
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "two_processes"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "rank1.json").exists():
            _train_on_two_processes(folder, names)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def _train_on_two_processes(folder: Path, names: Iterable[str]) -> None:
    script = TESTS / "helpers" / "train_on_two_processes.py"
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    environment["MMRS_BENCH_CACHE"] = str(folder / "cache")
    finished = subprocess.run(
        [sys.executable, str(script), str(folder), *names], env=environment, capture_output=True, text=True, timeout=280
    )
    assert finished.returncode == 0, finished.stderr[-3000:]


@every_kind
def test_two_processes_learn_like_one(case: ModuleCase, two_processes: Any, tmp_path: Path) -> None:
    """At the same global batch, the losses of all steps are equal up to the order of additions."""
    data, losses = case.data(batch_size=10), Losses()
    trainer(tmp_path, callbacks=[losses]).fit(case.build(data, **case.exact), datamodule=data)
    for process in two_processes:
        np.testing.assert_allclose(process[case.name]["losses"], losses.values, rtol=2e-4)


@classifiers_of_every_kind
def test_two_processes_predict_every_pixel_once(case: ModuleCase, two_processes: Any, tmp_path: Path) -> None:
    data = case.data(batch_size=10)
    module, own = case.build(data, **case.exact), trainer(tmp_path)
    own.fit(module, datamodule=data)
    parts = [process[case.name]["targets"] for process in two_processes]
    assert sum(map(len, parts)) == len(data.query)
    joined = np.concatenate(parts)
    single = torch.cat(own.predict(module, datamodule=data)).numpy()
    assert (joined == single).mean() > 0.95, "weights differ by rounding only"
    for process in two_processes:
        assert process[case.name]["test"] == [pytest.approx(logged_scores(data, joined), abs=1e-12)]


@pytest.mark.parametrize(
    "name",
    [
        "cnn",
        "msfmamba",
        "clip",
        "bdgf",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("diffclip", "bdgf-transformer")),
    ],
)
def test_the_trainers_test_logs_the_scores_of_the_benchmark(name: str, tmp_path: Path) -> None:
    data = small_data(2, window=7)
    method = fitted(name, tmp_path, data)
    expected = logged_scores(data, method.predict(data, data.query))
    (logged,) = trainer(tmp_path).test(method.module, datamodule=method.inputs(data), verbose=False)
    assert logged == pytest.approx(expected, abs=1e-9)
