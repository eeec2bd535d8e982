"""Reads files with C libraries (HDF5, GDAL, MATLAB) in a child process.

A damaged or crafted file can crash these libraries, make them loop, or make them reserve the gigabytes that its header
declares. In the child, none of that reaches the caller: memory and time are limited by the size of the file, and a
crash becomes a `DataError`. The child starts with the first file, serves one process, and ends when it is idle.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import mmrs_bench
from mmrs_bench import errors
from mmrs_bench.errors import BenchError, DataError
from mmrs_bench.scenes.files.decoders.faults import MAX_EXPANSION
from mmrs_bench.scenes.files.decoders.raster import AnyArray, Grid, Raster

#: Seconds that a file may take: a fixed share, and one for each megabyte.
BASE_SECONDS = 60.0
SECONDS_PER_MEGABYTE = 1.0
#: Seconds until the child must have loaded its libraries.
START_SECONDS = 300.0
#: Memory that the child may take beside its libraries: a fixed share, and this many copies of the expanded file.
BASE_BYTES = 768 << 20
COPIES = 3
#: An expanded file is not larger than this, in bytes.
MAX_BYTES = 64 << 30

CHILD = "mmrs_bench.scenes.files.decoders.guard_child"
#: Settings of the child's libraries: one thread, memory is returned, no plug-ins, no network.
_SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "HDF5_PLUGIN_PRELOAD": "::",
    "PROJ_NETWORK": "OFF",
    "PYTHONIOENCODING": "utf-8",
}
_REMOVED = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")


def read_guarded(reader: str, path: Path, stored: int, **arguments: Any) -> Raster:
    """Read a file in the child process.

    Args:
        reader: A name in `mmrs_bench.scenes.files.decoders.guard_child.READERS`.
        path: The file.
        stored: Bytes of the file and of those that belong to it; they limit memory and time.
        arguments: Further arguments of the reader.

    Raises:
        BenchError: As the reader; a `DataError` if the file crashes the reader, or exceeds its memory or time. The
            message does not name the file.
    """
    request = {
        "reader": reader,
        "path": str(path.absolute()),
        "arguments": arguments,
        "bytes": BASE_BYTES + COPIES * min(MAX_EXPANSION * stored, MAX_BYTES),
    }
    reply, arrays = _child().ask(request, BASE_SECONDS + SECONDS_PER_MEGABYTE * stored / 1e6)
    crs, transform = reply["grid"] or ("", None)
    return Raster(
        arrays[0],
        arrays[1] if len(arrays) > 1 else None,
        tuple(reply["nodata_values"]),
        Grid(crs, tuple(transform)) if transform else None,
    )


def same_crs(first: str, second: str) -> bool:
    """Whether two texts (WKT) describe the same coordinate reference system; see `read_guarded` for errors."""
    request = {"reader": "same_crs", "arguments": {"first": first, "second": second}, "bytes": BASE_BYTES}
    reply, _ = _child().ask(request, BASE_SECONDS)
    return bool(reply["same"])


def stop() -> None:
    """End the child process, if there is one."""
    if _current is not None:
        _current.stop()


def child_pid() -> int | None:
    """Process id of the child, if it is running."""
    process = _current.process if _current is not None else None
    return None if process is None else process.pid


class _Child:
    """One reading process, replaced after it ended."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, request: dict[str, Any], seconds: float) -> tuple[dict[str, Any], list[AnyArray]]:
        """Send a request; returns the reply and the arrays that follow it."""
        with self._lock:
            try:
                # An idle child may end while the request is written.
                return self._ask(request, seconds) or self._ask(request, seconds) or self._crashed()
            except BaseException as error:
                if not isinstance(error, BenchError) or isinstance(error, _Ended):
                    self.stop()  # its next answer would belong to this request
                raise

    def _ask(self, request: dict[str, Any], seconds: float) -> tuple[dict[str, Any], list[AnyArray]] | None:
        process = self._running()
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        assert process.stdout is not None  # noqa: S101
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            self._check_idle()
            return None
        if not select.select([process.stdout], [], [], seconds)[0]:
            raise _Ended(f"was not read within {seconds:.0f} seconds; it is damaged, so fetch it again")
        line = process.stdout.readline()
        if not line:
            self._check_idle()
            return None
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            kind = getattr(errors, reply["error"], DataError)
            raise kind(reply["message"])
        arrays = [_receive(process.stdout, *form) for form in reply["arrays"]]
        present = [array for array in arrays if array is not None]
        if len(present) < len(arrays):
            self._crashed()
        return reply, present

    def _check_idle(self) -> None:
        """Forget a child that ended because it was idle; raise an error if this request ended it."""
        if self.process is not None and self.process.wait() != 0:
            self._crashed()
        self.stop()

    def _crashed(self) -> NoReturn:
        code = self.process.wait() if self.process is not None else 0
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        fix = "free some memory" if code == -signal.SIGKILL else "it is damaged, so fetch it again"
        raise _Ended(f"cannot be read (the reader crashed on it: {name}); {fix}")

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is not None and self.process.poll() is not None:
            self.stop()
        if self.process is None:
            self.process = _start()
        return self.process

    def stop(self) -> None:
        """End the process; a forked copy of the owner leaves it alone."""
        process, self.process = self.process, None
        if process is None or self.owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # an unsent request
                    continue


class _Ended(DataError):  # noqa: N818 - a state
    """The child ended, or must be ended."""


def _start() -> subprocess.Popen[bytes]:
    """Start a child and wait until it has loaded its libraries."""
    # The library paths of this process, wherever it got them from.
    paths = [str(Path(mmrs_bench.__file__).parents[1]), *filter(None, sys.path)]
    environment = {name: value for name, value in os.environ.items() if name not in _REMOVED}
    try:
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-W", "ignore", "-m", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment | _SETTINGS | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for the caller
        )
    except OSError as error:
        raise BenchError(
            f"the process that reads data files did not start: {error.strerror}; end other programs"
        ) from error
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    assert process.stderr is not None  # noqa: S101
    ready = select.select([process.stdout], [], [], START_SECONDS)[0] and process.stdout.readline() == b"ready\n"
    if not ready:
        process.kill()
        lines = process.stderr.read().decode(errors="replace").strip().splitlines()
        process.communicate()
        raise BenchError(
            f"the process that reads data files did not start: {lines[-1] if lines else 'no reason given'}"
        )
    process.stderr.close()
    return process


def _receive(stream: Any, dtype: str, shape: list[int], order: str) -> AnyArray | None:
    """An array that follows a reply; None if the child ended before its last byte."""
    flat = np.empty(int(np.prod(shape)), dtype=np.dtype(dtype))
    view = flat.view(np.uint8).data
    if stream.readinto(view) != len(view):
        return None
    flat.flags.writeable = False
    return flat.reshape(shape, order="F" if order == "F" else "C")


_current: _Child | None = None
_inherited: list[_Child] = []


def _child() -> _Child:
    """The child of this process; a forked process starts its own."""
    global _current
    if _current is None or _current.owner != os.getpid():
        if _current is not None:
            _inherited.append(_current)  # its destructor would wait for another process's child
        _current = _Child()
        atexit.register(_current.stop)
    return _current
