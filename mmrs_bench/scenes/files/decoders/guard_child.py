"""The child process of `mmrs_bench.scenes.files.decoders.guard`: one request for each line of standard input."""

from __future__ import annotations

import json
import os
import resource
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmrs_bench.errors import BenchError, DataError
from mmrs_bench.scenes.files.decoders.faults import damaged
from mmrs_bench.scenes.files.decoders.raster import AnyArray, Raster

#: Seconds without a request after which the process ends.
IDLE_SECONDS = 60.0


def _read_matlab(path: Path, key: str | None, size: list[int]) -> Raster:
    from mmrs_bench.scenes.files.decoders.matlab import read_matlab

    return read_matlab(path, key, (size[0], size[1]))


def _read_geotiff(path: Path) -> Raster:
    from mmrs_bench.scenes.files.decoders.gdal import read_geotiff

    return read_geotiff(path)


def _read_envi(path: Path) -> Raster:
    from mmrs_bench.scenes.files.decoders.gdal import read_envi

    return read_envi(path)


READERS: dict[str, Callable[..., Raster]] = {"matlab": _read_matlab, "geotiff": _read_geotiff, "envi": _read_envi}


def serve() -> None:
    """Answer requests until standard input ends, or none comes for a while."""
    # Libraries print to standard output and error; answers go to a copy that they do not know.
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    answers.write(b"ready\n")
    answers.flush()
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    while select.select([requests], [], [], IDLE_SECONDS)[0] and (line := requests.readline()):
        _answer(json.loads(line), answers)
        answers.flush()


def _answer(request: dict[str, Any], answers: IO[bytes]) -> None:
    try:
        _limit_memory(request["bytes"])
        if request["reader"] == "same_crs":
            from mmrs_bench.scenes.files.decoders.gdal import same_crs

            reply: dict[str, Any] = {"arrays": [], "same": same_crs(**request["arguments"])}
            arrays = []
        else:
            raster = READERS[request["reader"]](Path(request["path"]), **request["arguments"])
            arrays = [_contiguous(part) for part in (raster.array, raster.nodata) if part is not None]
            reply = {
                "arrays": [(array.dtype.str, array.shape, _order(array)) for array in arrays],
                "nodata_values": raster.nodata_values,
                "grid": raster.grid,
            }
    except BenchError as error:
        reply, arrays = {"error": type(error).__name__, "message": str(error)}, []
    except MemoryError:
        reply, arrays = _fault("it declares more data than a file of its size contains"), []
    except Exception as error:  # noqa: BLE001 - libraries raise many types on damaged files
        reply, arrays = _fault(str(error) or type(error).__name__), []
    answers.write(json.dumps(reply).encode() + b"\n")
    for array in arrays:
        answers.write((array.T if _order(array) == "F" else array).reshape(-1).view(np.uint8).data)


def _fault(reason: str) -> dict[str, Any]:
    return {"error": "DataError", "message": str(damaged(reason))}


def _contiguous(array: AnyArray) -> AnyArray:
    """The array without gaps; types that cannot be sent are refused here."""
    if array.dtype.kind not in "buif":
        name = "complex numbers" if array.dtype.kind == "c" else str(array.dtype)
        raise DataError(f"contains {name}, expected real numbers; correct the key")
    return array if array.flags.f_contiguous else np.ascontiguousarray(array)


def _order(array: AnyArray) -> str:
    return "C" if array.flags.c_contiguous else "F"


def _limit_memory(extra: int) -> None:
    """Let this process take ``extra`` bytes more than it has now, where the system can limit that."""
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + extra
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    serve()
