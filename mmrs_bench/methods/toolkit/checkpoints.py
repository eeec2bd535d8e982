"""Checkpoints of unfinished trainings: complete or absent, even if the process is killed or the disk is full."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from mmrs_bench.errors import DataError
from mmrs_bench.io import atomic_write
from mmrs_bench.texts import one_line

#: Added to the name of a checkpoint that cannot be read.
UNREADABLE = ".unreadable"

#: Entries of a checkpoint that a resumed training needs.
_ENTRIES = {"state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops", "epoch", "global_step"}

_log = logging.getLogger(__name__)


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint to a temporary file, which is renamed when it is complete."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            BenchError: If it cannot be written; an earlier checkpoint is unchanged.
        """
        content = io.BytesIO()
        torch.save(dict(checkpoint), content)
        atomic_write(Path(path), lambda file: file.write(content.getbuffer()))


def usable_checkpoint(path: Path) -> Path | None:
    """The checkpoint to resume from, or None.

    A file that cannot be read gets the ending `UNREADABLE`, and a warning names it. The training then starts again.
    """
    if not path.exists():
        return None
    fault = _fault(path)
    if not fault:
        return path
    aside = path.with_name(path.name + UNREADABLE)
    path.replace(aside)
    _log.warning("%s: cannot be read (%s); it is now %s, and the training starts again", path, fault, aside.name)
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a Lightning checkpoint, on the CPU; runs no code of the file.

    Raises:
        DataError: If the file is missing or damaged, or contains more than tensors and plain values.
    """
    fault, content = _read(path)
    if fault:
        raise DataError(
            f"{path}: cannot be read as a checkpoint ({fault}); use a file that trainer.save_checkpoint wrote"
        )
    return content


def _fault(path: Path) -> str:
    """Why a training cannot be resumed from a checkpoint; empty if it can."""
    fault, content = _read(path)
    missing = sorted(_ENTRIES - content.keys())
    return fault or (f"without {', '.join(missing)}" if missing else "")


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Why a checkpoint cannot be read, or its content."""
    if not path.is_file():
        return "is not a regular file" if path.exists() else "there is no such file", {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about files of old versions
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch raises many types on damaged files
        return one_line(str(error).partition("\n")[0]) or type(error).__name__, {}
    return ("", content) if isinstance(content, dict) else ("does not hold entries by name", {})
