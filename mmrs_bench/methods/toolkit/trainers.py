"""Lightning trainers as a run sets them up: device, processes, loggers, profiler and further callbacks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from torch.multiprocessing.spawn import ProcessRaisedException

from mmrs_bench import errors
from mmrs_bench.config import LoggerName
from mmrs_bench.errors import BenchError, ConfigError
from mmrs_bench.io import end_with_parent
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit.checkpoints import AtomicCheckpoints
from mmrs_bench.plugins import EXTRAS, import_optional

PROJECT = "mmrs-bench"
_PROFILERS: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}
#: Variables with which Lightning tells processes how to find each other.
_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


def make_trainer(
    context: RunContext,
    stage: str,
    callbacks: Sequence[Callback],
    *,
    devices: int = 1,
    logs: bool = False,
    **options: Any,
) -> L.Trainer:
    """A deterministic trainer for one stage of a cell.

    Args:
        context: Device, precision, loggers, trainer flags and folder.
        stage: Name of the stage in logs.
        callbacks: Callbacks before those of the trainer flags.
        devices: Processes; they are started by ``fit``, and each needs a GPU or a CPU core.
        logs: Whether to log.
        options: Further arguments of the trainer.

    Raises:
        ConfigError: If a callback of the trainer flags cannot be created, or a logger is not installed.
    """
    execution, work_dir = context.execution.resolved(), context.work_dir
    flags, gpu = execution.trainer, execution.device == "cuda"
    if devices > 1:
        options |= {"strategy": "ddp_spawn", "sync_batchnorm": gpu}
        callbacks = [*callbacks, _Child(execution.threads)]
    profiler = None
    if flags.profiler is not None:
        profiler = _PROFILERS[flags.profiler](dirpath=work_dir / "profile", filename=stage)
    return L.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=devices,
        precision=execution.precision,
        deterministic=True,
        logger=_loggers(execution.logger, work_dir, stage) if logs else False,
        log_every_n_steps=flags.log_every_n_steps,
        enable_progress_bar=flags.enable_progress_bar,
        enable_model_summary=flags.enable_model_summary,
        detect_anomaly=flags.detect_anomaly,
        profiler=profiler,
        callbacks=[*callbacks, *map(_callback, flags.callbacks)],
        default_root_dir=work_dir,
        # A cell is one process. In a Slurm job, Lightning would otherwise set up several from Slurm's variables.
        plugins=[LightningEnvironment(), AtomicCheckpoints()],
        **options,
    )


def _loggers(names: Sequence[LoggerName], work_dir: Path, stage: str) -> list[Logger]:
    """Loggers that write to a new folder: ``logs/<stage>``, ``logs/<stage>-2`` and so on; none needs a network."""
    version, attempt = stage, 1
    while (work_dir / "logs" / version).exists():
        attempt += 1
        version = f"{stage}-{attempt}"
    return [_logger(name, work_dir, version) for name in names]


def _logger(name: LoggerName, work_dir: Path, version: str) -> Logger:
    package = import_optional(name, f"--logger {name}") if name in EXTRAS else None
    if name == "wandb" and package is not None:
        quiet = package.Settings(console="off")  # it would write what the process prints to the current folder
        place: dict[str, Any] = {"group": work_dir.name, "save_dir": work_dir, "offline": True}
        return WandbLogger(name=version, project=PROJECT, settings=quiet, **place)
    if name == "mlflow":
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # since version 3, it asks for a database
        return MLFlowLogger(PROJECT, f"{work_dir.name} {version}", save_dir=str(work_dir / "mlruns"))
    return (CSVLogger if name == "csv" else TensorBoardLogger)(work_dir, "logs", version)


def finish_logs(trainer: L.Trainer) -> None:
    """End the run of wandb, which the next training would continue; the others end with the training."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and logger._experiment is not None:
            logger.experiment.finish()


def _callback(given: str | dict[str, Any]) -> Callback:
    """A callback from its class path, or from class path and arguments."""
    path, arguments = (given, {}) if isinstance(given, str) else (given["class_path"], given.get("init_args") or {})
    module, _, name = path.rpartition(".")
    try:
        made = getattr(import_module(module), name)(**arguments)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"--trainer.callbacks: {path} cannot be created ({error}); check its path and arguments"
        ) from error
    if not isinstance(made, Callback):
        raise ConfigError(f"--trainer.callbacks: {path} is not a subclass of lightning.pytorch.callbacks.Callback")
    return made


# Several processes


class _Child(Callback):
    """Sets up a process of a distributed training: threads, and its end with the process that started it."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        torch.set_num_threads(self._threads)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        end_with_parent()


def for_children(context: RunContext) -> RunContext:
    """The context without callbacks, which cannot be sent to other processes."""
    return replace(context, progress=RunContext.progress, wait=RunContext.wait)


@contextmanager
def own_processes() -> Iterator[None]:
    """Let the processes of a training find each other, and raise their `BenchError` in this process."""
    before = {name: os.environ.pop(name) for name in _RENDEZVOUS if name in os.environ}
    try:
        yield
    except ProcessRaisedException as error:
        raise (_raised_in_child(str(error)) or error) from error
    finally:
        for name in _RENDEZVOUS:
            os.environ.pop(name, None)
        os.environ.update(before)


def _raised_in_child(trace: str) -> BenchError | None:
    """The error that ended a process, if it is a `BenchError`, which is one line of the traceback."""
    found = re.findall(rf"^{re.escape(errors.__name__)}\.(\w+): (.*)$", trace, re.MULTILINE)
    kind = getattr(errors, found[-1][0], None) if found else None
    return kind(found[-1][1]) if isinstance(kind, type) and issubclass(kind, BenchError) else None
