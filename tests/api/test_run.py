"""``mmrs_bench.run`` in scripts, with workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import mmrs_bench
from mmrs_bench.errors import BenchError, ConfigError, RunError
from mmrs_bench.evaluation.results.records import load_records

SMALL = "methods='majority', budget='smoke', draws=2, workers=1"
SCRIPT = f"""
print("the script starts")
import mmrs_bench
results = mmrs_bench.run({SMALL})
print(results.leaderboard())
"""
METHOD = '''
import numpy as np
from mmrs_bench.errors import TrainingError
from mmrs_bench.methods.base import Method

class Fails(Method):
    """Fails on draw 0."""

    def fit(self, data):
        if data.config.draw == 0:
            raise TrainingError("the loss is NaN")

    def predict(self, data, pixels):
        return np.zeros(pixels.shape, dtype=np.int64)

    def save(self, folder):
        pass

    def load(self, folder):
        pass
'''


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=folder, env=environment, timeout=200
    )


def test_a_script_without_main_guard_prints_the_first_table(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = python(tmp_path, "script.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the script starts") == 1
    assert "majority" in done.stdout
    assert [line.split()[:2] for line in done.stderr.splitlines()[1:]] == [["[1/2]", "majority"], ["[2/2]", "majority"]]


GUARDED = f"""
import multiprocessing
import mmrs_bench

def work():
    mmrs_bench.run({SMALL})

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(work)
"""
UNGUARDED = f"""
import multiprocessing, os
import mmrs_bench

if "STARTED" in os.environ:
    mmrs_bench.run({SMALL})
os.environ["STARTED"] = "1"
process = multiprocessing.get_context("spawn").Process(target=print)
process.start()
process.join()
"""


@pytest.mark.parametrize(
    ("script", "message"),
    [(GUARDED, "run starts worker processes, and a daemonic process"), (UNGUARDED, 'if __name__ == "__main__":')],
    ids=["within a pool", "a script that starts processes without a guard"],
)
def test_processes_that_cannot_start_workers_get_one_clear_error(script: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(script)
    done = python(tmp_path, "script.py")
    assert message in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("mmrs_bench.errors.ConfigError: ")
    assert not (tmp_path / "results").exists()


def test_ctrl_c_keeps_finished_records_and_raises(tmp_path: Path) -> None:
    script = """
import signal
import mmrs_bench
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores Ctrl-C
mmrs_bench.run(methods="majority", budget="smoke", draws=2000, workers=1)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        while not list((tmp_path / "results").rglob("*-draw00-*.json")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=60)
    finally:
        process.kill()
    assert text.splitlines()[-1] == "KeyboardInterrupt"
    found = len(mmrs_bench.load_results(tmp_path / "results"))
    assert 1 <= found < 2000
    assert f"stopped: {found} of 2000 cells are done" in text


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The card of a method that fails on draw 0."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "method_that_fails.py").write_text(METHOD)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    fields = {"name": "fails", "version": 1, "title": "Fails", "reference": "none"}
    path = tmp_path / "fails.yaml"
    path.write_text(yaml.safe_dump({**fields, "class_path": "method_that_fails:Fails"}))
    return path


@pytest.mark.slow
def test_a_failed_cell_is_an_error_unless_the_run_keeps_going(card: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    with pytest.raises(RunError, match=r"0 of 1 cells are done, 1 failed: fails \(TrainingError\): the loss is NaN"):
        mmrs_bench.run(methods=card, draws=1, budget="smoke", workers=1, results=folder, keep_going=True)
    found = mmrs_bench.run(methods=card, draws=2, budget="smoke", workers=1, results=folder, keep_going=True)
    assert [record.protocol.data.draw for record in found.records] == [1]
    assert [failure.message for failure in found.failures] == ["the loss is NaN"]
    assert "Failed: fails, draw 0: TrainingError: the loss is NaN" in str(found.leaderboard())
    # The card's path is known to these results only.
    assert "fails" in {axes.get_title(loc="left") for axes in found.map("fails", draw=1).axes}
    with pytest.raises(ConfigError, match="unknown method 'fails'"):
        mmrs_bench.load_results(folder).map("fails", draw=1)


@pytest.mark.slow
def test_the_results_are_those_of_the_given_cells(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import torch

    folder, threads = tmp_path / "results", torch.get_num_threads()
    two = ("majority", "nearest-prototype")
    mmrs_bench.run("simulated", methods=two, budget="smoke", draws=1, results=folder, workers=1)
    capfd.readouterr()
    found = mmrs_bench.run(methods="majority", budget="smoke", draws=1, results=folder, progress=False)
    assert capfd.readouterr() == ("", "")
    assert [record.protocol.method for record in found.records] == ["majority"]
    everything = mmrs_bench.load_results(folder)
    assert [record.protocol.method for record in everything.records] == ["majority", "nearest-prototype"]
    figure = everything.map("majority", progress=False)
    wrong = 100 - float(everything.select(method="majority").frame()["oa"].iloc[0])
    (title,) = (axes.get_title(loc="left") for axes in figure.axes if "errors" in axes.get_title(loc="left"))
    assert abs(float(title.removeprefix("errors: ").removesuffix(" %")) - wrong) < 5, "the map is of another method"
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": "cnm"}, "unknown method 'cnm': did you mean cnn"),
        ({"datasets": ["simulted"]}, "unknown dataset 'simulted': did you mean simulated"),
        ({"budget": "smok"}, "budget: Input should be 'smoke', 'quick' or 'paper'"),
        ({"shots": "2"}, "shots.0: Input should be a valid integer"),
        ({"shots": 0}, "shots 0: give --shots 1 or more"),
        ({"draws": 2.5}, "draws: Input should be a valid integer"),
        ({"device": "gpu"}, "device: Input should be 'auto', 'cpu' or 'cuda'"),
        ({"workers": 0}, "at least one worker is needed"),
        ({"workers": "2"}, "at least one worker is needed"),
        ({"executor": "slrum"}, "unknown executor 'slrum': did you mean slurm"),
        ({"executor_options": {"a": 1}}, "the local executor has none"),
        ({"methods": []}, "--methods is empty"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_before_anything_is_computed(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BenchError, match=message):
        mmrs_bench.run(**{"methods": "majority", "results": tmp_path / "results", **options})  # type: ignore[arg-type]
    assert load_records(tmp_path / "results") == []
