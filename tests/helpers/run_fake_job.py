"""Runs fake cells in a process of its own, as ``mmrs-bench run`` does: RESULTS COUNT WORKERS COMPUTE."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.fake_cells import make_cells, run_fakes

if __name__ == "__main__":
    results, count, workers, compute = sys.argv[1:]
    sys.exit(run_fakes(Path(results), make_cells(int(count)), compute, workers=int(workers)))
