"""Cluster pools: options, stages and ends of jobs, with a fake of submitit. Real clusters: tests/clusters."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_cells import make_cells, make_job, run_job
from helpers.fake_submitit import FakeExecutor, submitit

from mmrs_bench.commands.options import parse_options
from mmrs_bench.errors import BenchError, ConfigError
from mmrs_bench.evaluation.results.records import load_records
from mmrs_bench.evaluation.run.clusters import queue, slurm
from mmrs_bench.evaluation.run.clusters.groups import Group
from mmrs_bench.evaluation.run.clusters.profile import RayNodes, RayProfile
from mmrs_bench.evaluation.run.clusters.ray_cluster import RayPool, impossible
from mmrs_bench.evaluation.run.clusters.remote import Task, remote_work
from mmrs_bench.evaluation.run.executors import make_pool
from mmrs_bench.evaluation.run.jobs import Worker
from mmrs_bench.evaluation.run.needs import Needs
from mmrs_bench.evaluation.run.pool import MAX_EARLY_KILLS, Replacements, worker_environment
from mmrs_bench.evaluation.run.stage_files import StageFile, new_stages

__all__ = ["submitit"]  # a fixture


@pytest.mark.parametrize("name", ["slurm", "ray"])
def test_a_missing_cluster_package_is_named_with_its_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=rf"^--executor {name}: .* is not installed; install it with: .*\b{name}\b"):
        make_pool(name, make_job(tmp_path, make_cells(1)), 1, {})


OPTIONS: dict[str, object] = {
    'slurm_setup=["module load cuda", "export A=1"]': ["module load cuda", "export A=1"],
    "slurm_additional_parameters={account: x, exclusive: true}": {"account": "x", "exclusive": True},
    "mem_gb=1.5": 1.5,
    "timeout_min=60": 60,
    "slurm_time=1:30:00": "1:30:00",
    "slurm_constraint=on": "on",
    "slurm_account=007": "007",
    "slurm_comment='12'": "12",
    "ignore_reinit_error=true": True,
    "address=10.0.0.1:6379": "10.0.0.1:6379",
    "slurm_qos=": "",
}


def test_executor_options_are_texts_numbers_lists_and_mappings() -> None:
    assert parse_options(list(OPTIONS)) == {text.partition("=")[0]: value for text, value in OPTIONS.items()}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["gpu"], "write it as NAME=VALUE"),
        (["=1"], "write it as NAME=VALUE"),
        (["a=1", "a=2"], "a is given twice"),
        (["slurm_setup=[module load"], "executor option slurm_setup: is not valid YAML"),
        (["a={b: 1, b: 2}"], "given twice"),
    ],
)
def test_a_wrong_executor_option_is_named(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(texts)


def test_stages_of_remote_workers_are_reported_once(tmp_path: Path) -> None:
    (cell,) = make_cells(1)
    job = make_job(tmp_path, [cell])
    known: dict[str, Any] = {}
    assert new_stages(job, ["w"], known) == []
    report = StageFile(job, "w")
    report(cell.key, "fit", 0.0)
    report(cell.key, "fit", 0.5)  # within a second
    assert new_stages(job, ["w"], known) == [(cell.key, "fit", 0.0)]
    assert new_stages(job, ["w"], known) == []
    job.file("w.stage").write_text("[1")
    assert new_stages(job, ["w"], known) == []


def test_an_error_of_a_remote_worker_is_returned_as_text(tmp_path: Path) -> None:
    job = make_job(tmp_path, make_cells(1))
    (tmp_path / "records").write_text("")
    assert "cannot" in remote_work(Task(job, Worker("w"), worker_environment(1)))


def test_dead_workers_are_replaced_until_they_die_without_a_cell() -> None:
    replacements = Replacements("Ray", Path("logs"))
    for _ in range(20):
        assert replacements.allowed("killed", killed=True, took_a_cell=True, others=False)
    allowed = [replacements.allowed("x", killed=True, took_a_cell=False, others=True) for _ in range(MAX_EARLY_KILLS)]
    assert allowed == [True] * (MAX_EARLY_KILLS - 1) + [False]
    with pytest.raises(BenchError, match=r"Ray workers die before they take a cell \(x\)"):
        replacements.allowed("x", killed=True, took_a_cell=False, others=False)


@pytest.mark.parametrize(
    ("cpus", "gpus", "reason"),
    [(1, 0.5, ""), (4, 1, ""), (4, 2, r"num_gpus=2 \(the most is 1\)"), (9, 0, r"CPUs \(9\)")],
)
def test_a_gpu_that_no_ray_node_has_is_named(cpus: int, gpus: float, reason: str) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0}},
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}},
    ]
    text = impossible(types.SimpleNamespace(nodes=lambda: nodes), cpus, gpus)
    assert bool(text) == bool(reason)
    if reason:
        with pytest.raises(ValueError, match=reason):
            raise ValueError(text)


@pytest.mark.parametrize("gpus", ["one", -1, True, [1]])
def test_a_wrong_number_of_gpus_is_refused(gpus: object, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=r"num_gpus=.* is not a number of GPUs"):
        make_pool("ray", make_job(tmp_path, make_cells(1)), 1, {"num_gpus": gpus})


def test_slurm_workers_are_submitted_with_the_options(tmp_path: Path, submitit: type[FakeExecutor]) -> None:
    job = make_job(tmp_path, make_cells(3))
    keys = run_job("slurm", job, slurm_partition="gpu", gpus_per_node=1)
    assert keys == [cell.key for cell in job.cells]
    assert submitit.arguments == {
        "folder": tmp_path / "logs" / "submitit",
        "cluster": "slurm",
        "slurm_max_num_timeout": 9,
    }
    assert submitit.tasks[0].parameters == {
        "timeout_min": 1440,
        "cpus_per_task": 1,
        "slurm_array_parallelism": 2,
        "slurm_partition": "gpu",
        "gpus_per_node": 1,
    }
    assert submitit.environment == "PASSIVE"


@pytest.mark.parametrize("state", [*slurm.CAUSES, "GONE"])
def test_a_slurm_job_that_ends_without_a_result_is_replaced(
    state: str, tmp_path: Path, submitit: type[FakeExecutor]
) -> None:
    submitit.states[:] = [state]
    run_job("slurm", make_job(tmp_path, make_cells(3)), workers=1)
    assert len(load_records(tmp_path)) == 3
    assert len(submitit.tasks) == 2


def test_slurm_jobs_that_end_before_they_take_a_cell_are_not_replaced_for_ever(
    tmp_path: Path, submitit: type[FakeExecutor]
) -> None:
    submitit.states[:] = ["NODE_FAIL"] * 99
    with pytest.raises(BenchError, match=r"Slurm workers die before they take a cell \(its Slurm job lost its node\)"):
        run_job("slurm", make_job(tmp_path, make_cells(3)), workers=2)
    assert len(submitit.tasks) <= 2 + MAX_EARLY_KILLS


def test_an_error_of_a_slurm_worker_ends_the_run_in_one_line(tmp_path: Path, submitit: type[FakeExecutor]) -> None:
    (tmp_path / "failures").write_text("")
    with pytest.raises(BenchError, match="failures"):
        run_job("slurm", make_job(tmp_path, make_cells(3), "fails_on_draw_1"), workers=1)


def test_an_unknown_slurm_option_is_refused(tmp_path: Path, submitit: type[FakeExecutor]) -> None:
    with pytest.raises(ConfigError, match=r"--executor slurm: unknown .* nonsense\. Check --executor-options"):
        run_job("slurm", make_job(tmp_path, make_cells(1)), nonsense="1")


def test_the_states_of_jobs_come_from_squeue(monkeypatch: pytest.MonkeyPatch) -> None:
    def squeue(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        assert command[0] == "squeue"
        return subprocess.CompletedProcess(command, 0, stdout="7_0|RUNNING\n7_1|CANCELLED\n9|TIMEOUT\n")

    monkeypatch.setattr(subprocess, "run", squeue)
    assert queue.read_states() == {"7_0": "RUNNING", "7_1": "CANCELLED", "9": "TIMEOUT"}

    def absent(command: list[str], **settings: Any) -> None:
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(subprocess, "run", absent)
    assert queue.read_states() is None


def test_a_slurm_worker_is_started_again_after_a_time_out(tmp_path: Path) -> None:
    helpers = pytest.importorskip("submitit.helpers")
    job = make_job(tmp_path, make_cells(1))
    worker = Worker("slurm-0")
    again = slurm.SlurmWorker().checkpoint(Task(job, worker, {}))
    assert isinstance(again, helpers.DelayedSubmission)
    assert again.result() == ""
    assert len(load_records(tmp_path)) == 1


def test_the_real_submitit_on_its_local_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[3]), *sys.path]))
    run_job("slurm", make_job(tmp_path, make_cells(3)), 1, cluster="local", timeout_min=2)
    assert len(load_records(tmp_path)) == 3


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"memory_gb": 3.0}, ""),
        ({"memory_gb": 9.0}, r"has 9 GB for a worker \(the most is 4\.0 GB\)"),
        ({"custom": {"fast_disk": 2}}, r"has the resource fast_disk=2 \(the most is 1\)"),
        ({"custom": {"fast_disk": 1}, "memory_gb": 3.0}, ""),
    ],
)
def test_memory_and_resources_that_no_ray_node_has_are_named(wanted: dict[str, Any], reason: str) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0, "memory": 4e9, "fast_disk": 1.0}}]
    text = impossible(types.SimpleNamespace(nodes=lambda: nodes), 1, 0, **wanted)
    assert re.search(reason, text) if reason else text == ""


def test_ray_workers_reserve_what_their_group_needs_or_the_profile_says(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    cells = tuple(make_cells(2))
    groups = [Group(Needs(0, 2.0), cells[:1]), Group(Needs(1, 16.0), cells[1:])]
    profile = RayProfile(executor="ray", cpu=RayNodes(memory_gb=4), gpu=RayNodes(gpus=0.5, resources={"fast_disk": 1}))

    def reserved(options: dict[str, Any], profile: RayProfile | None) -> list[dict[str, Any]]:
        return RayPool(make_job(tmp_path, cells), 2, options, groups=groups, profile=profile)._reservations()

    gpu = {"num_cpus": 1, "num_gpus": 0.5, "memory": 16_000_000_000, "resources": {"fast_disk": 1.0}}
    assert reserved({}, profile) == [{"num_cpus": 1, "num_gpus": 0.0, "memory": 4_000_000_000}, gpu]
    assert [of_group["num_gpus"] for of_group in reserved({}, None)] == [0.0, 1.0]
    assert [of_group["num_gpus"] for of_group in reserved({"num_gpus": 2}, profile)] == [2.0, 2.0]
