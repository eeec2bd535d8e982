"""The base of classification modules: loss, scores, predictions, schedule and refused batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.results.metrics import confusion_matrix, scores
from mmrs_bench.methods.toolkit.classification import ClassificationModule
from mmrs_bench.methods.toolkit.scores import score_collection


class Mean(nn.Module):
    """Logits are the window's means by channel; records the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.sizes: list[int] = []

    def forward(self, windows: dict[str, torch.Tensor]) -> torch.Tensor:
        self.sizes.append(len(windows["hsi"]))
        return self.scale * windows["hsi"].mean(dim=(2, 3))


class Module(ClassificationModule):
    """Classifies two windows at once on a CPU, if ``cpu_chunk`` is set."""

    def __init__(self, **options: Any) -> None:
        super().__init__({"hsi": 3}, 3, **options)
        self.network = Mean()


class Chunked(Module):
    cpu_chunk = 2


def batch(count: int = 5) -> dict[str, Any]:
    windows = torch.randn(count, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return {"windows": {"hsi": windows}, "target": torch.arange(count) % 3, "pixel": torch.arange(count)}


def test_the_loss_is_a_smoothed_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    module, items = Module(label_smoothing=0.3), batch()
    logged: dict[str, Any] = {}
    monkeypatch.setattr(module, "log", lambda name, value, batch_size: logged.update({name: value}))
    loss = module.training_step(items, 0)
    log = torch.log_softmax(items["windows"]["hsi"].mean(dim=(2, 3)), dim=1)
    weights = 0.7 * nn.functional.one_hot(items["target"], 3) + 0.1
    torch.testing.assert_close(loss, -(weights * log).sum(dim=1).mean())
    assert logged == {"loss": loss}


def test_predictions_in_chunks_are_the_same() -> None:
    whole, chunked, items = Module(), Chunked(), batch()
    assert torch.equal(whole.predict_step(items, 0), chunked.predict_step(items, 0))
    assert (whole.network.sizes, chunked.network.sizes) == ([5], [2, 2, 1])


@pytest.mark.parametrize(("max_epochs", "epochs"), [(7, 7), (0, 1)])
def test_the_schedule_falls_to_zero_over_the_trainers_epochs(max_epochs: int, epochs: int) -> None:
    module = Module()
    module.trainer = SimpleNamespace(max_epochs=max_epochs, max_steps=-1)  # type: ignore[assignment]
    assert module.epochs == epochs
    scheduled = module.with_cosine_schedule(torch.optim.SGD(module.parameters(), lr=0.5))
    for _ in range(epochs):
        scheduled["optimizer"].step()
        scheduled["lr_scheduler"].step()
    assert scheduled["optimizer"].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("missing", [False, True])
def test_scores_equal_those_of_records(missing: bool) -> None:
    rng = np.random.default_rng(0)
    targets, predictions = rng.integers(0, 3 if missing else 5, 300), rng.integers(0, 5, 300)
    collection = score_collection(5, "test/")
    for part in range(3):
        collection.update(*(torch.from_numpy(values[part::3]) for values in (predictions, targets)))
    expected = scores(confusion_matrix(targets, predictions, 5))
    found = {name: float(value) for name, value in collection.compute().items()}
    assert found == pytest.approx({"test/OA": expected.oa, "test/AA": expected.aa, "test/kappa": expected.kappa}, abs=0)


def test_undefined_scores_are_nan() -> None:
    collection = score_collection(3, "")
    collection.update(torch.tensor([1, 1]), torch.tensor([1, 1]))
    assert [value.isnan().item() for value in collection.compute().values()] == [False, False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"windows": {"hsi": torch.zeros(2, 4, 5, 5)}},
            "built for channels hsi 3, windows of 5, but .* hsi 4, windows of 5",
        ),
        (
            {"windows": {"hsi": torch.zeros(2, 3, 7, 7)}},
            r"but a batch has channels hsi 3, windows of 7; build it with .*window",
        ),
        ({"windows": {"sar": torch.zeros(2, 3, 5, 5)}}, "but a batch has channels sar 3"),
        ({"windows": None}, "Module needs batches with windows; use the loaders of a SceneDataModule"),
        ({"target": None}, "scores need batches with target .* a batch has windows, pixel"),
    ],
)
def test_batches_that_do_not_fit_are_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    module = Module(window=5)
    module.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    items = {name: value for name, value in {**batch(2), **change}.items() if value is not None}
    with pytest.raises(ConfigError, match=message) as caught:
        module.test_step(items, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("step", ["validation", "test"])
def test_scores_do_not_depend_on_the_confidence(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Module()
    module.with_confidence = True
    monkeypatch.setattr(module, "log_dict", lambda *args, **options: None)
    getattr(module, f"{step}_step")(batch(), 0)
    targets, confidence = module.predict_step(batch(), 0)
    assert confidence.shape == targets.shape == (5,)
    found = getattr(module, f"{step}_scores").compute()
    expected = scores(confusion_matrix(batch()["target"].numpy(), targets.numpy(), 3))
    assert float(found[f"{'val' if step == 'validation' else 'test'}/OA"]) == pytest.approx(expected.oa)
