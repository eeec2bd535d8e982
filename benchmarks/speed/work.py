"""Pieces of work of the speed suite, and how they are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import lightning as L
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mmrs_bench.models import mamba
from mmrs_bench.models.selective_scan import selective_scan

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: Rows and columns of the first factor of a bound's matrix product.
SIDE = 2048

Run = Callable[[], object]


@dataclass(frozen=True)
class Work:
    """One piece of work.

    Attributes:
        method: What it belongs to.
        name: What is done.
        ours: Does it with this package.
        bound: Does the unavoidable part only; None for none.
        goal: Largest ratio ours / bound.
        reference: Does it in the usual way; None for none.
        lead: Smallest ratio reference / ours.
        rounds: Repetitions.
    """

    method: str
    name: str
    ours: Run
    bound: Run | None = None
    goal: float | None = None
    reference: Run | None = None
    lead: float | None = None
    rounds: int = 7


@dataclass(frozen=True)
class Measurement:
    """Seconds (medians) and ratios of one work.

    ``ratio`` is ours / bound or, without a bound, ours / reference. Ours and the other run in turn, so that both see
    the same machine. ``noise`` is half the interquartile range of the ratios of the rounds over their median.
    """

    ours: float
    bound: float | None
    reference: float | None
    ratio: float
    noise: float


def measure(work: Work) -> Measurement:
    """Run a work and what it is compared with in turn."""
    runs = {name: run for name in ("ours", "bound", "reference") if (run := getattr(work, name)) is not None}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(work.rounds):
        for name, run in runs.items():
            start = perf_counter()
            run()
            seconds[name].append(perf_counter() - start)
    other = "bound" if "bound" in runs else "reference"
    ratios = [ours / theirs for ours, theirs in zip(seconds["ours"], seconds[other], strict=True)]
    low, _, high = quantiles(ratios, n=4)
    middle = {name: median(values) for name, values in seconds.items()}
    return Measurement(
        middle["ours"],
        middle.get("bound"),
        middle.get("reference"),
        median(ratios),
        (high - low) / 2 / median(ratios),
    )


def product(operations: int, precision: str = "float32") -> Run:
    """One large matrix product with so many multiplications and additions."""
    kind = PRECISIONS[precision]
    columns = max(1, round(operations / 2 / SIDE**2))
    factors = torch.ones(SIDE, SIDE, dtype=kind), torch.ones(SIDE, columns, dtype=kind)
    return lambda: torch.mm(*factors)


def operations(run: Run) -> int:
    """Multiplications and additions in the matrix products, convolutions and attentions of a run."""
    attention: dict[Any, Any] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        run()
    return counter.get_total_flops()


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _attention_backward(gradient: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return 2 * sdpa_flop_count(q, k, v)  # each factor of both products has a gradient


def stepper(module: L.LightningModule, batch: dict[str, Any], precision: str = "float32") -> Run:
    """An optimiser step of a module on always the same batch: forward, backward, update."""
    quiet: Any = module
    quiet.log = quiet.log_dict = lambda *values, **options: None
    trainer = {"max_epochs": 1, "current_epoch": 0, "global_step": 0, "world_size": 1, "global_rank": 0}
    module.trainer = cast(Any, SimpleNamespace(**trainer))
    configured: Any = module.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured

    def step() -> None:
        optimizer.zero_grad()
        with autocast(precision):
            loss: Any = module.training_step(batch, 0)
        loss.backward()
        module.on_after_backward()
        optimizer.step()

    return step


def autocast(precision: str) -> torch.autocast:
    """The context of Lightning's precisions ``32-true`` and ``bf16-mixed``."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


def without_gradients(run: Run) -> Run:
    """The same in inference mode."""

    def inferred() -> object:
        with torch.inference_mode():
            return run()

    return inferred


def scans_of(run: Run, *, backward: bool) -> Run:
    """Only the scans of a run, with the same inputs."""
    calls: list[tuple[list[Tensor], bool]] = []

    def recorded(*inputs: Tensor, reverse: bool) -> Tensor:
        calls.append(([value.detach().clone().requires_grad_(backward) for value in inputs], reverse))
        return selective_scan(*inputs, reverse=reverse)

    with mock.patch.object(mamba, "selective_scan", recorded):
        run()

    def scans() -> None:
        for inputs, reverse in calls:
            y = selective_scan(*inputs, reverse=reverse)
            if backward:
                torch.autograd.grad(y, inputs, torch.ones_like(y))

    return scans


def products_and_scans(run: Run, *, backward: bool) -> Run:
    """One large matrix product with as many operations as a run's convolutions and products, and its scans."""
    products, scans = product(operations(run)), scans_of(run, backward=backward)

    def bound() -> None:
        products()
        scans()

    return bound
