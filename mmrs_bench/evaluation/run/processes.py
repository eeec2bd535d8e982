"""Child processes of a run: they ignore Ctrl-C, write to a log file, and end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from mmrs_bench.evaluation.run.claims import results_errors
from mmrs_bench.evaluation.run.pool import environment


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
