"""Workers import torchmetrics without its metrics for texts and pictures, and everything else as usual."""

from __future__ import annotations

from itertools import product

import pytest
from helpers.new_process import in_new_process
from helpers.synthetic_records import make_protocol

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.run.jobs import Job
from mmrs_bench.paths import REPOSITORY

UNUSED = ("matplotlib", "scipy.signal", "torchvision", "transformers")
LOADED = f"print(*(name for name in {UNUSED!r} if name in sys.modules))"
START = """
import sys
from pathlib import Path
from mmrs_bench.config import ExecutionConfig
from mmrs_bench.evaluation.run.jobs import Job, _import_cell_function
_import_cell_function(Job(Path(), (), ExecutionConfig()))
assert "mmrs_bench.evaluation.run.runner" in sys.modules and "lightning" in sys.modules
"""


def test_a_worker_does_not_import_packages_for_metrics_of_texts_and_pictures() -> None:
    assert in_new_process(START + LOADED) == ""


def test_a_worker_can_import_these_packages_afterwards() -> None:
    code = """
from lightning_utilities.core.imports import RequirementCache, package_available
import matplotlib.pyplot, scipy.signal, torchvision, transformers
assert package_available("scipy") and RequirementCache("torchvision") and RequirementCache("transformers")
"""
    in_new_process(START + code)


@pytest.mark.slow
def test_other_processes_import_all_of_torchmetrics() -> None:
    assert in_new_process(f"import sys, mmrs_bench, lightning; {LOADED}") == " ".join(UNUSED)


@pytest.mark.parametrize(("plugin", "callback"), [*product([False, True], repeat=2)])
def test_code_of_users_finds_all_of_torchmetrics(plugin: bool, callback: bool) -> None:
    method = "template" if plugin else "cnn"
    card = REPOSITORY / "docs" / "templates" / "my_plain_method" / "card.yaml"
    cells = (
        Cell("simulated", make_protocol("rf")),
        Cell("simulated", make_protocol(method), str(card) if plugin else ""),
    )
    trainer = {"callbacks": ["package.Callback"]} if callback else {}
    job = Job(REPOSITORY, cells, ExecutionConfig.of(trainer=trainer))
    assert job.runs_code_of_users == (plugin or callback)
