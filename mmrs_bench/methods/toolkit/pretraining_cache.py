"""Pretraining done once: weights on file, shared by all shots, draws and methods that ask for the same training.

The first that asks trains, under a lock that the kernel drops when its process dies; others wait, and then read. An
interrupted training goes on from its checkpoints, which stay until the entry is whole. In ``<cache>/pretraining`` lie

- ``<key>.safetensors``: the weights, sealed with key and hash; the entry exists once this file does;
- ``<key>.json``: what the key stands for and how long the training took; for people, never read;
- ``<key>/logs``: curves of the training; ``<key>/work`` while it is under way.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmrs_bench.errors import BenchError, DataError, TrainingError
from mmrs_bench.io import atomic_write, content_hash, write_json
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit.training import ModuleT, initialised
from mmrs_bench.paths import CACHE_VARIABLE, cache_root
from mmrs_bench.version import __version__

WAITING = "pretraining by another process"


def load_or_pretrain(
    address: Mapping[str, Any],
    build: Callable[[], ModuleT],
    train: Callable[[ModuleT, RunContext], None],
    context: RunContext,
) -> ModuleT:
    """A pretrained module: read from the cache, or trained and kept there.

    The weights must not depend on which cell comes first. So ``build`` and ``train`` see draw 0, whatever the cell's
    is; what else differs between cells with this address is not theirs to use. And the process that has trained
    returns what any other would: a module built anew and filled from the file, so only what is in the ``state_dict``
    survives.

    Args:
        address: JSON values that decide the weights: scene tag and fingerprint, pixels and window seen, normalisation,
            settings, the method's version. Seed, device type, precision and the suite's version are added here, so
            that no cell in ``32-true`` takes weights of ``bf16-mixed``. Threads are left out: they change rounding.
        build: Makes the untrained module, on the CPU; initial values come from torch's default generator, seeded here.
        train: Trains a module in place. Its context's ``work_dir`` outlives interruptions, so
            `mmrs_bench.methods.toolkit.training.fit` with ``checkpoint_every`` resumes.
        context: The cell's. Its progress hears `WAITING` once if another process is at work.

    Returns:
        The module, on the CPU, in evaluation mode.

    Raises:
        DataError: If the file is damaged, of another key or another module; it is neither used nor replaced.
        TrainingError: If the trained weights are not finite, or not those of ``build``; only the work folder is kept.
        BenchError: If the cache cannot be written; checkpoints are kept.
    """
    fields = {"what": dict(address), "seed": context.seed, **execution_fields(context)}
    key = content_hash(fields)
    folder = cache_root() / "pretraining"
    entry = folder / f"{key}.safetensors"
    shared = replace(context, draw=0, work_dir=folder / key / "work")
    module = initialised(build, shared, "pretraining")
    if not entry.exists():
        with exclusive_lock(folder / f"{key}.lock", context, WAITING):
            if not entry.exists():
                pupil = initialised(build, shared, "pretraining")
                seconds, resumed = _train(pupil, module.state_dict(), train, shared)
                about = {"key": key, **fields, "seconds_of_last_attempt": round(seconds, 3), "resumed": resumed}
                _keep(entry, pupil.state_dict(), about)
                _clean_up(shared.work_dir)
    module.load_state_dict(_read(entry, module.state_dict()))
    return module.eval()


def execution_fields(context: RunContext) -> dict[str, str]:
    """Device type, precision and the suite's version: what else decides values that are kept for other cells."""
    execution = context.execution
    return {
        "device": execution.resolved().device,
        "precision": execution.precision,
        "code_version": __version__,
    }


@contextmanager
def exclusive_lock(lock_file: Path, context: RunContext, waiting: str) -> Iterator[None]:
    """Hold a lock of the cache; while another process does, the progress hears the stage ``waiting`` and this waits.

    Raises:
        BenchError: If the lock's folder cannot be written.
        Deferred: If the worker has other things to do than to wait.
    """
    lock = FileLock(lock_file)
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            context.wait(waiting)
            lock.acquire()
    except OSError as error:
        raise BenchError(
            f"cannot write to {lock_file.parent}: {error.strerror}. Free some space, or set {CACHE_VARIABLE} to a "
            "folder you may write to, and run the command again."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _train(
    module: ModuleT, untrained: Mapping[str, Tensor], train: Callable[[ModuleT, RunContext], None], context: RunContext
) -> tuple[float, bool]:
    """Train a module; return the seconds and whether an earlier attempt had begun."""
    work = context.work_dir
    resumed = work.exists()
    work.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    train(module, context)
    seconds = time.perf_counter() - start
    fault = _fault(module.state_dict(), untrained)
    if fault:
        raise TrainingError(
            f"pretraining: after training, {fault}; lower the learning rate, or check the images for values far "
            f"outside the range of the rest. Logs and checkpoints are in {work}; remove it to train from the start."
        )
    return seconds, resumed


def _keep(entry: Path, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    # Copies, because safetensors refuses tensors that share memory.
    copies = {name: tensor.cpu().clone().contiguous() for name, tensor in weights.items()}
    content = save(copies, {"seal": _seal(entry.stem, copies)})
    readable = entry.with_suffix(".json")
    write_json(readable, about)
    try:
        atomic_write(entry, lambda file: file.write(content))
    except BenchError:
        readable.unlink()
        raise


def _clean_up(work: Path) -> None:
    """Remove a work folder but for its logs."""
    shutil.rmtree(work.with_name("logs"), ignore_errors=True)  # of an entry that was removed since
    if (work / "logs").is_dir():
        (work / "logs").rename(work.with_name("logs"))
    shutil.rmtree(work)


def _read(entry: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in an entry, if it is whole, of the key in its name, and fits."""
    try:
        with safe_open(entry, framework="pt") as opened:
            seal = (opened.metadata() or {}).get("seal", "")
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise DataError(f"{entry}: cannot be read ({error}); remove this file to train again") from error
    fault = _fault(weights, expected)
    if seal.partition(" ")[0] != entry.stem:
        fault = "holds another pretraining than its name says"
    elif not fault and seal != _seal(entry.stem, weights):
        fault = "the values are not those that were written"
    if fault:
        raise DataError(f"{entry}: {fault}; remove this file to train again")
    return weights


def _seal(key: str, weights: Mapping[str, Tensor]) -> str:
    """What an entry says about itself; holds only if neither file nor content was exchanged or damaged."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].reshape(-1).view(torch.uint8).numpy().data)
    return f"{key} {digest.hexdigest()}"


def _fault(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What is wrong with weights; empty if nothing is."""
    if weights.keys() != expected.keys():
        missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
        return f"the tensors are not those of the module (missing {missing}, unknown {unknown})"
    for name, tensor in expected.items():
        found = weights[name]
        if (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
            return f"{name} is {found.dtype} {[*found.shape]}, expected {tensor.dtype} {[*tensor.shape]}"
        if not torch.isfinite(found).all():
            return f"{name} has values that are NaN or infinite"
    return ""
