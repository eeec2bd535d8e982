"""Cache of pretrained weights, shared by all cells with the same pretraining.

One process trains and holds a lock meanwhile; others wait and then read. An interrupted training resumes from its
checkpoints, or starts again if they cannot be read. Files in ``<cache>/pretraining``:

- ``<key>.safetensors``: the weights, with a checksum and the seconds of the training in the metadata; the entry exists
  if this file exists;
- ``<key>.json``: readable description of the entry; never read by the suite;
- ``<key>/logs``: learning curves; ``<key>/work``: checkpoints of an unfinished training.
"""

from __future__ import annotations

import re
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

from mmrs_bench.errors import BenchError, DataError, NotPretrainedError, TrainingError
from mmrs_bench.io import atomic_write, content_hash, disk_errors, in_the_way, write_json
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit.checkpoints import UNREADABLE
from mmrs_bench.methods.toolkit.sealed import seal_of
from mmrs_bench.methods.toolkit.training import ModuleT, initialised
from mmrs_bench.paths import CACHE_VARIABLE, cache_root
from mmrs_bench.version import __version__

WAITING = "pretraining by another process"
#: Metadata of an entry: wall-clock seconds of its training; absent if they are unknown.
SECONDS = "seconds"

_NUMBER = re.compile(r"\d{1,12}\.\d{3}")


def load_or_pretrain(
    address: Mapping[str, Any],
    build: Callable[[], ModuleT],
    train: Callable[[ModuleT, RunContext], None],
    context: RunContext,
) -> ModuleT:
    """Load a pretrained module from the cache, or pretrain it and store it there.

    All cells with this address share the weights, so ``build`` and ``train`` receive draw 0 and must not depend on
    anything else that differs between these cells. Only the ``state_dict`` of the trained module is kept.

    Args:
        address: JSON values that the weights depend on: scene, images, pixels, window, settings, version of the
            pretraining. Seed, device type, precision and version of the suite are added here.
        build: Builds the untrained module on the CPU; random values come from torch's default generator.
        train: Trains a module in place. The ``work_dir`` of its context is kept after an interruption, so that
            `mmrs_bench.methods.toolkit.training.fit` with ``resumable`` resumes.
        context: Context of the cell. Its ``wait`` is called with `WAITING` if another process trains, and its
            ``pretraining_seconds`` receive the seconds of the training, whichever cell trained.

    Returns:
        The module, on the CPU in evaluation mode.

    Raises:
        NotPretrainedError: If the context allows cached weights only, and there are none.
        DataError: If the cached file is damaged or belongs to another key or module.
        TrainingError: If the trained weights are not finite or do not fit the module that ``build`` returns.
        BenchError: If the cache cannot be written.
        Deferred: If the worker computes another cell instead of waiting.
    """
    fields = {"what": dict(address), "seed": context.seed, **execution_fields(context)}
    if context.execution.devices != 1:
        fields["devices"] = context.execution.devices
    key = content_hash(fields)
    folder = cache_root() / "pretraining"
    entry = folder / f"{key}.safetensors"
    shared = replace(context, draw=0, work_dir=folder / key / "work")
    if context.only_cached and not entry.exists():
        raise NotPretrainedError(f"the cache has no such pretraining (expected {entry})")
    module = initialised(build, shared, "pretraining")
    if not entry.exists():
        with exclusive_lock(folder / f"{key}.lock", context, WAITING), disk_errors(folder):
            if not entry.exists():
                trained = initialised(build, shared, "pretraining")
                seconds, resumed = _train(trained, module.state_dict(), train, shared)
                about = {"key": key, **fields, "seconds_of_last_attempt": round(seconds, 3), "resumed": resumed}
                _write(entry, trained.state_dict(), about, None if resumed else seconds)
                _keep_only_logs(shared.work_dir)
    weights, context.pretraining_seconds[key] = _read(entry, module.state_dict())
    module.load_state_dict(weights)
    return module.eval()


def execution_fields(context: RunContext) -> dict[str, Any]:
    """Device type, precision, threads (if several) and version of the suite, on which all cached values depend."""
    execution = context.execution.resolved()
    fields = {"device": execution.device, "precision": execution.precision, "code_version": __version__}
    # Sums in another order differ in the last digits.
    return fields if execution.threads == 1 else {**fields, "threads": execution.threads}


@contextmanager
def exclusive_lock(lock_file: Path, context: RunContext, waiting: str) -> Iterator[None]:
    """Hold a lock of the cache; if another process holds it, call ``context.wait(waiting)`` and then wait.

    Raises:
        BenchError: If the folder of the lock cannot be written, or the lock is not a regular file.
        Deferred: If the worker computes another cell instead of waiting.
    """
    if lock_file.is_symlink() or (lock_file.exists() and not lock_file.is_file()):
        raise BenchError(
            f"{lock_file}: expected a regular file; remove it while no run is on, and run the command again"
        )
    lock = FileLock(lock_file)
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            context.wait(waiting)
            lock.acquire()
    except OSError as error:
        if fault := in_the_way(lock_file):
            raise BenchError(f"cannot write {lock_file}: {fault}") from error
        raise BenchError(
            f"cannot write to {lock_file.parent}: {error.strerror}. Free some space, or set {CACHE_VARIABLE} to a "
            "writable folder, and run the command again."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _train(
    module: ModuleT, untrained: Mapping[str, Tensor], train: Callable[[ModuleT, RunContext], None], context: RunContext
) -> tuple[float, bool]:
    """Train a module; return the seconds, and whether an earlier training was resumed."""
    work = context.work_dir
    resumed = work.exists()
    work.mkdir(parents=True, exist_ok=True)
    start, left_out = time.perf_counter(), context.trial.left_out if context.trial else 0.0
    train(module, context)
    seconds = time.perf_counter() - start
    if context.trial:
        seconds += context.trial.left_out - left_out
    fault = _fault(module.state_dict(), untrained)
    if fault:
        raise TrainingError(
            f"pretraining: after training, {fault}; lower the learning rate, or check the images for values far "
            f"outside the range of the rest. Logs and checkpoints are in {work}; remove it to train from the start."
        )
    return seconds, resumed


def _write(entry: Path, weights: Mapping[str, Tensor], about: Mapping[str, Any], seconds: float | None) -> None:
    """Write an entry; ``seconds`` are those of the whole training, None if only those of its last part are known."""
    # safetensors refuses tensors that share memory.
    copies = {name: tensor.cpu().clone().contiguous() for name, tensor in weights.items()}
    metadata = {"seal": seal_of(entry.stem, copies)}
    if seconds is not None:
        metadata[SECONDS] = f"{seconds:.3f}"
    content = save(copies, metadata)
    description = entry.with_suffix(".json")
    write_json(description, about)
    try:
        atomic_write(entry, lambda file: file.write(content))
    except BenchError:
        description.unlink(missing_ok=True)
        raise


def _keep_only_logs(work: Path) -> None:
    """Move logs and unreadable checkpoints out of a work folder and remove it."""
    for path in work.rglob(f"*{UNREADABLE}"):
        path.replace(work.with_name(path.name))
    shutil.rmtree(work.with_name("logs"), ignore_errors=True)  # of an earlier entry that the user removed
    if (work / "logs").is_dir():
        (work / "logs").rename(work.with_name("logs"))
    shutil.rmtree(work)


def _read(entry: Path, expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float | None]:
    """The weights of an entry, after checking key, checksum and shapes, and the seconds of the training."""
    if not entry.is_file():  # opening a FIFO would wait for ever
        raise DataError(f"{entry}: is not a regular file; remove it to train again")
    try:
        with safe_open(entry, framework="pt") as opened:
            metadata = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise DataError(f"{entry}: cannot be read ({error}); remove this file to train again") from error
    fault, seal = _fault(weights, expected), metadata.get("seal", "")
    if seal.partition(" ")[0] != entry.stem:
        fault = "the content belongs to another pretraining than the file name"
    elif not fault and seal != seal_of(entry.stem, weights):
        fault = "the values were changed after they were written"
    if fault:
        raise DataError(f"{entry}: {fault}; remove this file to train again")
    stated = metadata.get(SECONDS, "")
    return weights, float(stated) if _NUMBER.fullmatch(stated) else None


def _fault(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Why the weights cannot be used; empty if they can."""
    if weights.keys() != expected.keys():
        missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
        return f"the tensors do not match the module (missing {missing}, unknown {unknown})"
    for name, tensor in expected.items():
        found = weights[name]
        if (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
            return f"{name} is {found.dtype} {[*found.shape]}, expected {tensor.dtype} {[*tensor.shape]}"
        if not torch.isfinite(found).all():
            return f"{name} has values that are NaN or infinite"
    return ""
