"""``fit``, ``validate``, ``test`` and ``predict`` with ``--config``: Lightning's own command line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from mmrs_bench.commands.output import say
from mmrs_bench.config import usable_cores
from mmrs_bench.errors import BenchError, ConfigError, DataError
from mmrs_bench.io import atomic_write
from mmrs_bench.methods.toolkit.checkpoints import read_checkpoint
from mmrs_bench.methods.toolkit.stage import StageModule
from mmrs_bench.texts import one_line

#: Properties of data modules -> arguments of modules that get their values. A module without such an argument, or data
#: without such a property, is not affected.
LINKS = {
    "channels": "channels",
    "num_classes": "num_classes",
    "window": "window",
    "class_names": "class_names",
    "names": "pictures",
    "feature_size": "features",
}
SUBCOMMANDS = ("fit", "validate", "test", "predict")
#: Values of ``--ckpt_path`` that are no files.
_NAMED_CHECKPOINTS = {"best", "last", "hpc", "registry"}


class PredictionWriter(Callback):
    """Writes ``predictions.npz`` with ``pixel`` and ``target`` (n,) to ``default_root_dir`` after a prediction.

    With several processes, each writes its own part to ``predictions-rank0.npz`` and so on.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with no predictions."""
        self._parts.clear()

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the targets of a batch."""
        if not (isinstance(outputs, torch.Tensor) and isinstance(batch, dict) and "pixel" in batch):
            raise ConfigError(
                f"{type(pl_module).__name__} predicts no target for each pixel of a batch; predict with a module that "
                "classifies, and with data whose batches have pixel (b,)"
            )
        self._parts.append((batch["pixel"].cpu(), outputs.cpu()))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        name = "predictions" if trainer.world_size == 1 else f"predictions-rank{trainer.global_rank}"
        path = Path(trainer.default_root_dir) / f"{name}.npz"
        pixel, target = ([*column] for column in zip(*self._parts, strict=True)) if self._parts else ([], [])
        arrays = {"pixel": _joined(pixel), "target": _joined(target)}
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, lambda file: np.savez(file, **arrays))
        say(f"written to {path}: targets of {len(arrays['pixel'])} pixels")


def _joined(parts: Sequence[torch.Tensor]) -> Any:
    return torch.cat([*parts]).numpy() if parts else np.empty(0, np.int64)


class _CommandLine(LightningCLI):
    """LightningCLI with channels, classes and window from the data, and with checkpoints that run no code."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for source, target in LINKS.items():
            parser.link_arguments(f"data.{source}", f"model.init_args.{target}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Build the module as the configuration says; `check_checkpoint` compares it with the checkpoint."""

    def before_instantiate_classes(self) -> None:
        trainer = self.config[self.subcommand].trainer
        devices, on_cpu = str(trainer.devices), trainer.accelerator == "cpu"
        on_cpu = on_cpu or (trainer.accelerator == "auto" and not torch.accelerator.is_available())
        if on_cpu and devices.isdecimal() and int(devices) > usable_cores():
            raise ConfigError(  # Lightning would start them all
                f"trainer.devices is {devices}, but this process may use {usable_cores()} CPU cores; use at most that"
            )

    def after_instantiate_classes(self) -> None:
        options = self.config_init[self.subcommand]
        if options.get("ckpt_path") == "best":
            raise ConfigError(
                "ckpt_path best is known to the process that trained only; give the path of the checkpoint"
            )
        if self.subcommand != "fit" and not options.get("ckpt_path"):
            raise ConfigError(
                f"{self.subcommand} without --ckpt_path would use a network that was not trained; give the checkpoint "
                "of a training (fit writes checkpoints/last.ckpt to default_root_dir)"
            )
        if options.get("ckpt_path") and options["ckpt_path"] not in _NAMED_CHECKPOINTS:
            check_checkpoint(Path(options["ckpt_path"]), self.model)
        options["weights_only"] = True
        if self.subcommand == "predict":
            if isinstance(self.model, StageModule) and type(self.model).predict_step is StageModule.predict_step:
                raise ConfigError(f"{type(self.model).__name__} predicts nothing; use a module that classifies")
            options["return_predictions"] = False


def check_checkpoint(path: Path, module: LightningModule) -> None:
    """Check that a checkpoint fits a module, before a trainer reads it.

    Raises:
        DataError: If it is missing or damaged, or of another class, or its tensors have other shapes.
    """
    content = read_checkpoint(path)
    module.on_load_checkpoint(content)
    saved, own = content.get("hyper_parameters", {}), dict(module.hparams)
    different = [name for name in own if name in saved and saved[name] != own[name]]
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    found = {name: tensor.shape for name, tensor in content.get("state_dict", {}).items()}
    if found != shapes and different:
        values = "; ".join(f"{name} {saved[name]} instead of {own[name]}" for name in different)
        raise DataError(f"{path}: the module was trained with {values}; use the configuration of that training")


def run_lightning(arguments: Sequence[str]) -> int:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        arguments: The subcommand and its options.

    Raises:
        ConfigError: If an option or the configuration is wrong.
        BenchError: If data, a checkpoint or a training fail.
    """
    try:
        _CommandLine(
            args=[*arguments],
            parser_kwargs={"exit_on_error": False, **{name: {"exit_on_error": False} for name in SUBCOMMANDS}},
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"callbacks": [PredictionWriter()]},
            # Checkpoints hold the arguments of the module, those from the data too, as after a training in Python.
            load_from_checkpoint_support=False,
            auto_configure_optimizers=False,
        )
    except argparse.ArgumentError as error:
        raise ConfigError(_readable(str(error))) from error
    except (MisconfigurationException, ModuleNotFoundError) as error:
        raise ConfigError(f"{str(error).rstrip('.!')}; change the section trainer of the configuration") from error
    except ValueError as error:
        raise (_bench_error(error) or error) from error
    return 0


def _bench_error(error: BaseException) -> BenchError | None:
    """The `BenchError` that the parser caught when it built a module or its data, if there is one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, BenchError):
        cause = cause.__cause__
    return cause


def _readable(text: str) -> str:
    """The essential part of the parser's message, which may list every type that a value could have."""
    text = one_line(text)
    key = found[1] if (found := re.match(r'Parser key "([\w.]+)"', text)) else "configuration"
    if found := re.search(r"Problem with given class_path '([^']*)': (.*?)(?: - Expected | Given value|$)", text):
        return (
            f"{key}: class_path {found[1]}: {found[2]}; write class_path: package.module.Class and its arguments under "
            "init_args, as the files in benchmarks/lightning do"
        )
    if found := re.search(r"arguments are required: \w+\.(\w+)", text):
        return (
            f"the section {found[1]} is missing; give --config FILE with a configuration that has it, for example "
            "benchmarks/lightning/cnn.yaml"
        )
    if found := re.search(r"Subtypes: \[(.*?)\] .* Given value: (.*)$", text):
        kinds = " or ".join(re.findall(r"[\w.]+(?=')|[\w.\[\]]+(?=,|$)", found[1].replace("<class ", "")))
        return f"{key} is {found[2]}, expected {kinds}; see mmrs-bench fit --help"
    return f"{text.removeprefix('Parser key ')}; see mmrs-bench fit --help"
