"""The base of classification modules: loss, logged accuracy, predictions and schedule."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mmrs_bench.methods.toolkit.classification import VALIDATION_METRIC, WindowClassifier, epochs_of


class Mean(nn.Module):
    """Logits are the window's means by channel; records the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.sizes: list[int] = []

    def forward(self, windows: dict[str, torch.Tensor]) -> torch.Tensor:
        self.sizes.append(len(windows["hsi"]))
        return self.scale * windows["hsi"].mean(dim=(2, 3))


class Chunked(WindowClassifier):
    """Classifies two windows at once on a CPU."""

    cpu_chunk = 2


def batch(count: int = 5) -> dict[str, Any]:
    windows = torch.randn(count, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return {"windows": {"hsi": windows}, "target": torch.arange(count) % 3, "pixel": torch.arange(count)}


def test_the_loss_is_a_smoothed_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    module, items = WindowClassifier(Mean(), SimpleNamespace(label_smoothing=0.3)), batch()
    logged: dict[str, Any] = {}
    monkeypatch.setattr(module, "log", lambda name, value, batch_size: logged.update({name: value}))
    loss = module.training_step(items, 0)
    log = torch.log_softmax(items["windows"]["hsi"].mean(dim=(2, 3)), dim=1)
    weights = 0.7 * nn.functional.one_hot(items["target"], 3) + 0.1
    torch.testing.assert_close(loss, -(weights * log).sum(dim=1).mean())
    module.validation_step(items, 0)
    correct = module.predict_step(items, 0) == items["target"]
    assert logged == {"loss": loss, VALIDATION_METRIC: pytest.approx(float(correct.float().mean()))}


def test_predictions_in_chunks_are_the_same() -> None:
    whole, chunked, items = WindowClassifier(Mean(), None), Chunked(Mean(), None), batch()
    assert torch.equal(whole.predict_step(items, 0), chunked.predict_step(items, 0))
    assert (whole.network.sizes, chunked.network.sizes) == ([5], [2, 2, 1])


@pytest.mark.parametrize(("max_epochs", "epochs"), [(7, 7), (None, 1), (-1, 1)])
def test_the_schedule_falls_to_zero_over_the_trainers_epochs(max_epochs: int | None, epochs: int) -> None:
    module = WindowClassifier(Mean(), None)
    module.trainer = SimpleNamespace(max_epochs=max_epochs)  # type: ignore[assignment]
    assert epochs_of(module) == epochs
    scheduled = module.with_cosine_schedule(torch.optim.SGD(module.parameters(), lr=0.5))
    for _ in range(epochs):
        scheduled["optimizer"].step()
        scheduled["lr_scheduler"].step()
    assert scheduled["optimizer"].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
