"""The console script: output, imports, and messages for wrong input."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers.new_process import command, run_python
from helpers.small_release import manifest_fields, write_manifest

from mmrs_bench.cli import _actions_of, main
from mmrs_bench.cli.parser import COMMANDS
from mmrs_bench.commands.options import make_suite
from mmrs_bench.evaluation.cells import build_cells
from mmrs_bench.evaluation.report.maps.rasters import ARRAY_SUFFIX, RASTER_SUFFIXES
from mmrs_bench.evaluation.report.maps.sheet import FIGURE_SUFFIXES
from mmrs_bench.evaluation.results.records import load_records
from mmrs_bench.evaluation.run.planning import expected_seconds
from mmrs_bench.io import canonical_json
from mmrs_bench.methods.catalogue import all_methods, method_card, method_cards
from mmrs_bench.methods.suitability import unmet_need
from mmrs_bench.paths import BENCHMARK_DIR
from mmrs_bench.scenes.catalogue import load_manifest, shipped_names
from mmrs_bench.version import __version__

HEAVY = ("torch", "lightning", "sklearn", "scipy", "skimage", "matplotlib", "torchmetrics")


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "run --help",
        "--version",
        "version",
        "list",
        "list methods",
        "data list",
        "weights list",
        "plan --draws 3",
        "plan --methods unidiff",
    ],
)
def test_quick_commands_import_no_numerical_libraries(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imports of these packages take seconds."""
    script = (
        "import atexit, sys\n"
        "from mmrs_bench.cli import main\n"
        f"atexit.register(lambda: sys.stderr.write(' '.join(name for name in {HEAVY!r} if name in sys.modules)))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    monkeypatch.chdir(tmp_path)
    done = run_python("-c", script, *arguments.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def manifest_of_absent_files(folder: Path) -> Path:
    """A real scene whose file does not exist and has no address."""
    return write_manifest(folder, manifest_fields(sources=[{"file": "scene.npz", "bytes": 4800, "sha256": "0" * 64}]))


#: Invalid suites are tested in evaluation/test_cells.py.
WRONG_INPUT = [
    ("", "command"),
    ("bogus", "invalid choice: 'bogus'"),
    ("run --bogus", "unrecognized arguments: --bogus"),
    ("run --shots two", "--shots: Expected a int. Got value: two"),
    ("run --shots", "expected at least one argument"),
    ("run --shots -1", "shots -1: "),
    ("run --dataset simulatd", "unknown dataset 'simulatd': did you mean simulated"),
    ("run --methods majorty", "unknown method 'majorty': did you mean majority"),
    ("run --split random", "invalid choice: 'random'"),
    ("run --budget huge", "invalid choice: 'huge'"),
    ("run --workers 0", "workers 0: "),
    ("run --executor-options a=b", "the local executor has none"),
    ("run --config nowhere.yaml", "nowhere.yaml"),
    ("plan --draws none", "--draws: Expected a int"),
    ("map --shots 2 5 --methods majority", "these options describe 2 cells of 1 method;"),
    ("map", "a map shows at most 8 methods"),
    ("map --methods majority --draw -1", "draws are numbered from 0"),
    ("leaderboard --results nowhere", "nowhere contains no records"),
    ("data", "data.action"),
    ("data fetch nowhere", "unknown dataset 'nowhere'"),
    ("data verify simulatd", "did you mean simulated"),
    ("list everything", "invalid choice: 'everything'"),
    ("list method", "Did you mean methods?"),
    ("leaderbord", "Did you mean leaderboard? See mmrs-bench --help."),
    ("data fech trento", "Did you mean fetch?"),
    ("run --metods rf", "Did you mean --methods? See mmrs-bench run --help."),
    ("compare rf", "the following arguments are required: other. See mmrs-bench compare --help."),
    ("run --config my.run.yaml", "my.run.yaml'. See mmrs-bench run --help."),
    ("predict one two --out map.npy", "Give one model, not several (* may stand for more than one). See mmrs-bench"),
    ("leaderboard nowhere", "unrecognized arguments: nowhere. See mmrs-bench leaderboard --help."),
    ("data fetch muufl -f here", "unrecognized arguments: -f here. See mmrs-bench data fetch --help."),
    ("compare a b c", "unrecognized arguments: c. See mmrs-bench compare --help."),
    ("compare cnn cnn --results nowhere", "nowhere contains no records"),
    ("check docs/templates/my_method", "Give a method of your own by the path of its card (.yaml)."),
    ("data fetch", "the following arguments are required: name. See mmrs-bench data fetch --help."),
    ("run --shots 2,5", "Separate values by blanks: --shots 2 5."),
    ("sweep --timesteps 5,10 --blocks 1", "Separate values by blanks: --timesteps 5 10."),
    ("run --splits random-v1,block-v1", "Separate values by blanks: random-v1 block-v1."),
    ("run --methods rf,svm", "separate names by blanks: rf svm."),
    ("run --modalities hsi,lidar", "separate names by blanks: hsi lidar."),
    ("run --methods randomforest", "did you mean rf or rf-spatial?"),
    ("map --methods majority --draws 2", "use --draw NUMBER"),
    ("run --methods unidiff", "Fetch it with: mmrs-bench weights fetch adm-imagenet-64"),
    ("map --methods clip:clip-text", "Fetch it with: mmrs-bench weights fetch clip-vit-b-32"),
    ("weights fetch clip-vit", "did you mean clip-vit-b-16 or clip-vit-b-32?"),
    ("check majorty", "did you mean majority"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG_INPUT)
def test_wrong_input_gives_one_line(
    arguments: str, message: str, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(*arguments.split())
    assert not (tmp_path / "results" / "records").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_states_a_default_once_and_no_empty_one(name: str) -> None:
    for action in _actions_of(name.split()):
        assert action.default != "", action.dest
        assert f"(default: {action.default})" not in (action.help or ""), action.dest


def test_the_help_of_predict_names_every_format() -> None:
    (text,) = (action.help or "" for action in _actions_of(["predict"]) if action.dest == "out")
    assert all(suffix in text for suffix in (*FIGURE_SUFFIXES, *RASTER_SUFFIXES[:1], ARRAY_SUFFIX))


def test_a_results_folder_that_cannot_be_written_is_an_error(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused("run", "--methods", "majority", "--results", tmp_path / "file" / "results")


@pytest.mark.parametrize("name", ["run", "plan", "leaderboard", "report"])
def test_a_path_that_is_too_long_is_one_line(name: str, refused: Callable[..., str]) -> None:
    path = "d" * 300
    options = {"leaderboard": [], "report": ["--out", path]}.get(name, ["--methods", "majority", "--budget", "smoke"])
    assert "is too long; choose a shorter one" in refused(name, "--results", path, *options)


@pytest.mark.parametrize("name", ["run", "plan", "leaderboard"])
def test_a_corrupt_record_is_named_and_nothing_is_overwritten(
    name: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    path = tmp_path / "records" / "simulated-r1" / "majority" / "x-0123456789abcdef.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"schema": 1, "key":')
    line = refused(name, "--results", tmp_path, *(["--methods", "majority"] if name != "leaderboard" else []))
    assert str(path) in line
    assert "delete the file" in line
    assert path.read_text() == '{"schema": 1, "key":'
    assert [p for p in (tmp_path / "records").rglob("*") if p.is_file()] == [path]


def test_missing_data_give_one_line_and_no_record(tmp_path: Path, refused: Callable[..., str]) -> None:
    manifest, results = manifest_of_absent_files(tmp_path), tmp_path / "results"
    line = refused("run", "--dataset", manifest, "--window", 3, "--methods", "majority", "--results", results)
    for part in ("scene.npz", "0" * 64, "4,800 bytes"):
        assert part in line
    assert load_records(results) == []


def test_the_command_line_has_priority_over_the_config_file(
    tmp_path: Path, printed: Callable[..., str], refused: Callable[..., str]
) -> None:
    config = tmp_path / "suite.yaml"
    config.write_text("shots: [2, 5]\ndraws: 1\nmethods: [majority]\n")
    plan = ("plan", "--config", config, "--results", tmp_path)
    assert "2 cells, 0 done, 2 to do" in printed(*plan)
    assert "1 cells, 0 done" in printed(*plan, "--shots", "3")
    config.write_text("shotz: [2]\n")
    assert "shotz" in refused(*plan)


@pytest.mark.parametrize(
    ("name", "budget", "cells_per_method", "most_hours"),
    [("ci", "smoke", 2, 0.25), ("lite", "quick", 400, 40.0), ("full", "paper", 600, None)],
)
def test_a_shipped_suite_is_valid_and_takes_no_longer_than_it_says(
    name: str, budget: str, cells_per_method: int, most_hours: float | None
) -> None:
    """In hours of one core, for the methods whose times are known."""
    options = yaml.safe_load((BENCHMARK_DIR / "suites" / f"{name}.yaml").read_text())
    assert set(options["datasets"]) <= set(shipped_names())
    cells = build_cells(make_suite(options))
    assert {cell.protocol.budget for cell in cells} == {budget}
    pairs = [(method_card(name), load_manifest(scene)) for name in all_methods() for scene in options["datasets"]]
    suited = sum(not unmet_need(card, "default", manifest) for card, manifest in pairs)
    assert len({cell.key for cell in cells}) == cells_per_method // len(options["datasets"]) * suited
    seconds = [value for value in expected_seconds(cells, []) if value is not None]
    assert most_hours is None or 0 < sum(seconds) < 3600 * most_hours


def test_the_module_is_the_command() -> None:
    assert command("--version").stdout.strip() == __version__


def test_a_list_without_a_name_contains_all_lists(printed: Callable[..., str]) -> None:
    for what in ("methods", "datasets", "splits", "budgets"):
        assert f"{what}:\n{printed('list', what)}" in printed("list")


@pytest.mark.parametrize(("what", "names"), [("methods", list(method_cards())), ("datasets", shipped_names())])
def test_lists_contain_all_names(what: str, names: list[str], printed: Callable[..., str]) -> None:
    assert [line.split()[0] for line in printed("list", what).splitlines()[1:]] == names


def test_data_commands(tmp_path: Path, printed: Callable[..., str], refused: Callable[..., str]) -> None:
    assert [line.split()[0] for line in printed("data", "list").splitlines()[1:-1]] == shipped_names()
    assert printed("data", "where").strip() == os.environ["MMRS_BENCH_DATA"]
    assert "no files" in printed("data", "verify", "simulated")
    manifest = manifest_of_absent_files(tmp_path)
    assert "WRONG" in printed("data", "verify", manifest, status=1)
    assert "is not a folder" in refused("data", "fetch", manifest, "--from", tmp_path / "none")


def test_a_closed_pipe_is_not_an_error() -> None:
    """As in ``mmrs-bench list methods | true``."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mmrs_bench", "list", "methods"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert done.stderr == ""


def test_a_defect_of_the_code_has_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(what: str) -> int:
        raise ZeroDivisionError(what)

    monkeypatch.setattr("mmrs_bench.commands.catalogue.list_names", defect)
    with pytest.raises(ZeroDivisionError):
        main(["list", "methods"])


PLUGIN = '''
import json
import numpy as np
from mmrs_bench.errors import TrainingError
from mmrs_bench.methods.base import Method

class First(Method):
    """Answers the first class of the support set."""

    def fit(self, data):
        if data.config.draw == 1:
            raise TrainingError("the loss is NaN in epoch 3; lower the learning rate")
        self.target = int(data.support_targets[0])

    def predict(self, data, pixels):
        return np.full(pixels.shape, self.target, dtype=np.int64)

    def save(self, folder):
        (folder / "state.json").write_text(json.dumps(self.target))

    def load(self, folder):
        self.target = json.loads((folder / "state.json").read_text())

class Careless(First):
    """Gives another answer each time."""

    def predict(self, data, pixels):
        self.target = (self.target + 1) % data.num_classes
        return super().predict(data, pixels)
'''


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    """A third party's installed package with two methods; returns its folder, for PYTHONPATH."""
    site = tmp_path / "site"
    info = site / "third_party-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    names = ("First", "Careless")
    (info / "entry_points.txt").write_text(
        "[mmrs_bench.methods]\n" + "".join(f"{name.lower()} = third_party:{name.upper()}\n" for name in names)
    )
    cards = "".join(f"{name.upper()} = Path(__file__).with_name('{name.lower()}.yaml')\n" for name in names)
    (site / "third_party.py").write_text(f"from pathlib import Path\n{cards}")
    (site / "third_party_methods.py").write_text(PLUGIN)
    for name in names:
        card = {"name": name.lower(), "version": 1, "class_path": f"third_party_methods:{name}", "title": "a stranger"}
        (site / f"{name.lower()}.yaml").write_text(yaml.safe_dump(card | {"reference": "none"}))
    return str(site)


def test_a_third_party_method_from_plan_to_leaderboard(plugin: str, tmp_path: Path) -> None:
    """An installed method beside shipped ones: failure record, resumption, and equal record bodies in a second run."""
    shared = ["--budget", "smoke", "--methods", "nearest-prototype", "cnn", "first", "--workers", "1"]
    one, other = tmp_path / "one", tmp_path / "other"

    done = command("run", *shared, "--draws", "2", "--keep-going", "--results", str(one), PYTHONPATH=plugin)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 8
    assert lines[0].startswith("6 cells to compute: ")
    finished = [line.partition("] ")[2] for line in lines[1:7]]
    assert any(line.startswith("first simulated-r1 random-v1 2-shot draw 0: OA ") for line in finished[:3])
    assert (
        "FAILED first simulated-r1 random-v1 2-shot draw 1: the loss is NaN in epoch 3; lower the learning rate"
        in finished[3:]
    )
    assert lines[7] == "5 of 6 cells are done, 1 failed; run the same command again to retry"
    assert "the loss is NaN" in done.stdout, "the table does not show the failure"
    assert not list((one / "logs").iterdir()), "a worker printed something"

    plan = command("plan", *shared, "--draws", "2", "--results", str(one), PYTHONPATH=plugin)
    states = [line[line.index("random-v1") :].split()[4] for line in plan.stdout.splitlines()[1:7]]
    assert states == [*["done"] * 5, "failed"]
    again = command("run", *shared, "--draws", "1", "--results", str(one), PYTHONPATH=plugin)
    assert again.returncode == 0
    assert again.stderr == "all 3 cells are done; nothing to compute (--force computes them again)\n"
    fresh = command("run", *shared, "--draws", "1", "--results", str(other), PYTHONPATH=plugin)
    assert fresh.returncode == 0
    first, second = ({record.key: canonical_json(record.body()) for record in load_records(f)} for f in (one, other))
    assert len(second) == 3
    assert second.items() <= first.items()


def test_conformance_of_third_party_methods(
    plugin: str, monkeypatch: pytest.MonkeyPatch, printed: Callable[..., str]
) -> None:
    monkeypatch.syspath_prepend(plugin)
    method_cards.cache_clear()
    try:
        assert printed("check", "first").splitlines()[-1] == "first: conforms"
        assert "FAILED  repeated predictions are equal" in printed("check", "careless", status=1)
    finally:
        monkeypatch.undo()
        method_cards.cache_clear()


def test_map_writes_a_picture(tmp_path: Path, printed: Callable[..., str]) -> None:
    options = ("--budget", "smoke", "--methods", "majority", "--draw", "1", "--results", tmp_path)
    path = Path(printed("map", *options).strip())
    assert path.parent == tmp_path / "maps"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert re.fullmatch(r"simulated-majority-[0-9a-f]{8}\.png", path.name)
