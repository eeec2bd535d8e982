"""Runs fake cells as ``mmrs-bench run`` would, in a process of its own: RESULTS COUNT WORKERS COMPUTE [scenes]."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.fake_cells import make_cells

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.evaluation.run.session import run_cells


def main() -> int:
    results, count, workers, compute = sys.argv[1:5]
    return run_cells(
        make_cells(int(count)),
        Path(results),
        ExecutionConfig(),
        workers=int(workers),
        compute=f"helpers.fake_cells:{compute}",
    )


if __name__ == "__main__":
    sys.exit(main())
