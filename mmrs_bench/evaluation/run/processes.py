"""Child processes of a run: they ignore Ctrl-C, write to a log file, end with their parent, and start quickly."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from mmrs_bench.evaluation.run.claims import results_errors
from mmrs_bench.evaluation.run.pool import environment

#: Packages that torchmetrics needs for metrics of texts, pictures and sounds, and for plots.
_UNUSED = frozenset({"matplotlib", "scipy", "torchvision", "transformers"})


class Child(NamedTuple):
    """A process, and this end of its pipe."""

    process: SpawnProcess
    pipe: Connection

    def end(self) -> None:
        """End the process, and kill it if it ignores that."""
        self.process.terminate()
        self.process.join(5)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()


def start_child(target: Callable[..., None], variables: Mapping[str, str], *arguments: Any) -> Child:
    """Start ``target(pipe, *arguments)`` in a new process with environment variables.

    The process does not import the main module of this one, so a script that calls this needs no ``__main__`` guard.

    Raises:
        BenchError: If the system cannot start a process.
    """
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe()
    process = context.Process(target=target, args=(other, *arguments), daemon=True)
    with environment(variables), _interrupt_deferred(), _main_hidden(), results_errors(Path("a new process")):
        process.start()
        other.close()
    return Child(process, own)


def redirect_output(path: Path) -> None:
    """Write what libraries print to a file, so that it does not disturb the progress display.

    Raises:
        BenchError: If the file cannot be written.
    """
    with results_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without blocking: a pipe at this place would wait for a reader.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_NOFOLLOW
        handle = os.open(path, flags, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.close(handle)


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Start processes that do not run the script of this process again, nor look for a file ``<stdin>``.

    multiprocessing imports the main module in every new process, because its classes may be needed there. Here the
    target and its arguments come from this package.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _interrupt_deferred() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, and raise a Ctrl-C to this process only after the block.

    Processes inherit the signal mask. In this process the mask is not enough: the kernel may deliver the signal to
    another thread, and Python would raise it here. So the handler is replaced as well. The resource tracker of
    multiprocessing has to run before, because starting it unblocks the signal.
    """
    resource_tracker.ensure_running()
    received: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, frame: received.append(number)) if main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if main:
            signal.signal(signal.SIGINT, handler)
    if received:
        raise KeyboardInterrupt


def import_core_metrics() -> None:
    """Import torchmetrics without metrics for texts and pictures, which saves a worker half of its start.

    Lightning imports torchmetrics, which imports torchvision, transformers, matplotlib and scipy.signal if they are
    installed, for metrics and plots that no method of this suite uses. Here torchmetrics finds none of them. Whoever
    imports these packages afterwards gets them.
    """
    if "torchmetrics" not in sys.modules:
        with _absent_for_lightning():
            import_module("torchmetrics")


@contextmanager
def _absent_for_lightning() -> Iterator[None]:
    """Let Lightning's checks of requirements report the unused packages as absent."""
    checks: Any = import_module("lightning_utilities.core.imports")
    version, find_spec = checks._version, checks.find_spec

    def version_of(name: str) -> str:
        if name in _UNUSED:
            raise PackageNotFoundError(name)
        return str(version(name))

    def spec_of(name: str) -> ModuleSpec | None:
        found: ModuleSpec | None = None if name in _UNUSED else find_spec(name)
        return found

    def forget() -> None:
        checks.package_available.cache_clear()
        checks.module_available.cache_clear()

    forget()
    checks._version, checks.find_spec = version_of, spec_of
    try:
        yield
    finally:
        checks._version, checks.find_spec = version, find_spec
        forget()
