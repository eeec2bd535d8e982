"""Pretrained modules (stage 1) of the cache, outside the runner."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mmrs_bench.config import ExecutionConfig, torch_threads
from mmrs_bench.errors import ConfigError, NotPretrainedError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.paths import cache_root

if TYPE_CHECKING:
    from lightning import LightningModule

    from mmrs_bench.methods.base import Progress


def pretrained_module(
    cell: Cell, execution: ExecutionConfig, progress: Progress, *, train: bool = False
) -> LightningModule:
    """The module of stage 1 that the method of a cell uses, on the CPU in evaluation mode.

    Args:
        cell: The cell; its draw has no effect.
        execution: Device and precision of the pretraining, on which the cached weights depend.
        progress: Callback for the progress of a stage.
        train: Whether to pretrain, and to store the result in the cache, if the cache lacks it.

    Raises:
        ConfigError: If the method has no stage 1.
        NotPretrainedError: If the cache has no such pretraining and ``train`` is false.
        BenchError: If data or settings are wrong, or the training fails.
    """
    from mmrs_bench.evaluation.run.runner import pretrain_cell

    if not cell.card.uses_unlabelled:
        raise ConfigError(f"{cell.method_label} does not pretrain on unlabelled pixels; choose another method")
    try:
        with torch_threads(), tempfile.TemporaryDirectory(prefix="mmrs-pretrained-") as folder:
            method = pretrain_cell(cell, execution, Path(folder), progress, only_cached=not train).method
    except NotPretrainedError as error:
        raise NotPretrainedError(_not_pretrained(cell, execution)) from error
    if method.pretrained is None:
        raise ConfigError(f"{cell.method_label} keeps no module of its pretraining; choose another method")
    module: LightningModule = method.pretrained
    return module.eval()


def _not_pretrained(cell: Cell, execution: ExecutionConfig) -> str:
    protocol, data = cell.protocol, cell.protocol.data
    words = [
        f"mmrs-bench run --dataset {cell.dataset} --methods {cell.method_label} --budget {protocol.budget}",
        f"--window {data.window} --seed {protocol.seed} --draws 1",
    ]
    return (
        f"{cache_root() / 'pretraining'} has no pretraining of {cell.method_label} for {protocol.scene} with window "
        f"{data.window}, budget {protocol.budget}, seed {protocol.seed} on {execution.device} {execution.precision}; "
        f"make it with load_pretrained(..., train=True), or with: {' '.join(words)}"
    )
