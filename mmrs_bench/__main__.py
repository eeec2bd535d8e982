"""``python -m mmrs_bench``: the console script ``mmrs-bench``."""

from __future__ import annotations

import sys

from mmrs_bench.cli import main

sys.exit(main())
