"""The console script: output, imports, and messages for wrong input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmrs_bench.cli import main
from mmrs_bench.commands.options import make_suite
from mmrs_bench.evaluation.cells import build_cells
from mmrs_bench.evaluation.results.records import load_records
from mmrs_bench.methods.catalogue import method_cards
from mmrs_bench.paths import BENCHMARK_DIR
from mmrs_bench.scenes.catalogue import shipped_names
from mmrs_bench.version import __version__

HEAVY = ("torch", "lightning", "sklearn", "scipy", "skimage", "matplotlib", "torchmetrics")
RUN = [sys.executable, "-c", "import sys; from mmrs_bench.cli import main; sys.exit(main())"]


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run([*RUN, *arguments], capture_output=True, text=True, env=environment, timeout=200)


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
def test_quick_commands_import_no_numerical_libraries(arguments: str, tmp_path: Path) -> None:
    """Imports of these packages take seconds."""
    script = (
        "import sys\n"
        "from mmrs_bench.cli import main\n"
        "try:\n"
        "    status = main(sys.argv[1:])\n"
        "except SystemExit as error:\n"
        "    status = error.code\n"
        "assert not status, status\n"
        f"sys.stderr.write(' '.join(name for name in {HEAVY!r} if name in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments.split()], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def write_manifest(folder: Path) -> Path:
    """A real scene whose files do not exist and have no address."""
    part = {"file": "cube.npy"}
    fields = {
        "schema": 1,
        "id": "mine",
        "revision": "r1",
        "title": "A user's own scene",
        "height": 20,
        "width": 20,
        "modalities": [{"name": "hsi", "sensor": "s", "bands": 3, "parts": [part]}],
        "ground_truth": {"parts": [{"file": "labels.npy", "axes": "hw"}]},
        "classes": [{"id": k, "name": f"c{k}", "color": f"#00000{k}", "count": 30} for k in (1, 2)],
        "sources": [{"file": "cube.npy", "bytes": 4800, "sha256": "0" * 64}, {"file": "labels.npy"}],
        "terms": "Mine.",
        "citation": "Me.",
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


WRONG_INPUT = [
    ("", "command"),
    ("bogus", "invalid choice: 'bogus'"),
    ("run --bogus", "unrecognized arguments: --bogus"),
    ("run --shots two", "--shots: Expected a int. Got value: two"),
    ("run --shots", "expected at least one argument"),
    ("run --shots 0", "shots 0: "),
    ("run --shots -1", "shots -1: "),
    ("run --shots 100000", "has only"),
    ("run --draws 0", "draws 0: "),
    ("run --window 8", "window 8 is even"),
    ("run --window 2001", "window 2001 is larger than simulated"),
    ("run --dataset simulatd", "unknown dataset 'simulatd': did you mean simulated"),
    ("run --dataset nowhere.yaml", "nowhere.yaml: "),
    ("run --methods majorty", "unknown method 'majorty': did you mean majority"),
    ("run --methods majority:big", "unknown variant of majority 'big'"),
    ("run --modalities radar", "unknown modality of simulated 'radar': did you mean"),
    ("run --split random", "invalid choice: 'random'"),
    ("run --budget huge", "invalid choice: 'huge'"),
    ("run --workers 0", "workers 0: "),
    ("run --executor-options a=b", "the local executor has none"),
    ("run --executor slurm --executor-options partition", "write it as NAME=VALUE"),
    ("run --config nowhere.yaml", "nowhere.yaml"),
    ("run --selection paper-val --methods majority", "does not support the selection rule"),
    ("plan --draws none", "--draws: Expected a int"),
    ("plan --shots 0", "shots 0: "),
    ("plan --methods majorty", "did you mean majority"),
    ("map --shots 2 5 --methods majority", "these options describe 2"),
    ("map --methods majority --draw -1", "draws are numbered from 0"),
    ("leaderboard --results nowhere", "nowhere contains no records"),
    ("compare majority rf --results nowhere", "nowhere contains no records"),
    ("data", "data.action"),
    ("data fetch nowhere", "unknown dataset 'nowhere'"),
    ("data verify simulatd", "did you mean simulated"),
    ("list everything", "invalid choice: 'everything'"),
    ("list method", "Did you mean methods?"),
    ("leaderbord", "Did you mean leaderboard?"),
    ("data fech trento", "Did you mean fetch?"),
    ("run --metods rf", "Did you mean --methods?"),
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
    arguments: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert shown.err.startswith("mmrs-bench: error: ")
    assert message in shown.err
    assert not (tmp_path / "results" / "records").exists()


def test_a_results_folder_that_cannot_be_written_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["run", "--methods", "majority", "--results", str(tmp_path / "file" / "results")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot write" in line


@pytest.mark.parametrize("name", ["run", "plan", "leaderboard"])
def test_a_corrupt_record_is_named_and_nothing_is_overwritten(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "records" / "simulated-r1" / "majority" / "x-0123456789abcdef.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"schema": 1, "key":')
    assert main([name, "--results", str(tmp_path), *(["--methods", "majority"] if name != "leaderboard" else [])]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert "delete the file" in line
    assert path.read_text() == '{"schema": 1, "key":'
    assert [p for p in (tmp_path / "records").rglob("*") if p.is_file()] == [path]


def test_missing_data_give_one_line_and_no_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_manifest(tmp_path)
    results = tmp_path / "results"
    assert main(["run", "--dataset", str(manifest), "--methods", "majority", "--results", str(results)]) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("mmrs-bench: error: ")]
    assert "cube.npy" in line
    assert "0" * 64 in line
    assert "4,800 bytes" in line
    assert load_records(results) == []


def test_the_command_line_has_priority_over_the_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "suite.yaml"
    config.write_text("shots: [2, 5]\ndraws: 1\nmethods: [majority]\n")
    assert main(["plan", "--config", str(config), "--results", str(tmp_path)]) == 0
    assert "2 cells, 0 done, 2 to do" in capsys.readouterr().out
    assert main(["plan", "--config", str(config), "--shots", "3", "--results", str(tmp_path)]) == 0
    assert "1 cells, 0 done" in capsys.readouterr().out
    config.write_text("shotz: [2]\n")
    assert main(["plan", "--config", str(config)]) == 2
    assert "shotz" in capsys.readouterr().err


def test_the_shipped_suite_is_valid() -> None:
    options = yaml.safe_load((BENCHMARK_DIR / "suite.yaml").read_text())
    assert set(options["datasets"]) <= set(shipped_names())
    cells = build_cells(make_suite(options))
    assert {cell.protocol.budget for cell in cells} == {"paper"}
    assert len(cells) == len({cell.key for cell in cells}) > 1000


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mmrs_bench", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == __version__


def test_a_list_without_a_name_contains_all_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    all_lines = capsys.readouterr().out
    for what in ("methods", "datasets", "splits", "budgets"):
        assert main(["list", what]) == 0
        assert f"{what}:\n{capsys.readouterr().out}" in all_lines


def test_lists_contain_all_names(capsys: pytest.CaptureFixture[str]) -> None:
    for what, names in (("methods", method_cards()), ("datasets", shipped_names())):
        assert main(["list", what]) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == list(names)


def test_data_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == shipped_names()
    assert main(["data", "where"]) == 0
    assert capsys.readouterr().out.strip() == os.environ["MMRS_BENCH_DATA"]
    assert main(["data", "verify", "simulated"]) == 0
    assert "no files" in capsys.readouterr().out
    manifest = write_manifest(tmp_path)
    assert main(["data", "verify", str(manifest)]) == 1
    assert "WRONG" in capsys.readouterr().out
    assert main(["data", "fetch", str(manifest), "--from", str(tmp_path / "none")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_a_closed_pipe_is_not_an_error() -> None:
    """As in ``mmrs-bench list methods | true``."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*RUN, "list", "methods"], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
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
        card = {
            "name": name.lower(),
            "version": 1,
            "class_path": f"third_party_methods:{name}",
            "title": "a stranger",
            "reference": "none",
        }
        (site / f"{name.lower()}.yaml").write_text(yaml.safe_dump(card))
    return str(site)


def test_a_third_party_method_from_plan_to_leaderboard(plugin: str, tmp_path: Path) -> None:
    """An installed method beside shipped ones: failure record, resumption, and equal record bodies in a second run."""
    shared = ["--budget", "smoke", "--methods", "nearest-prototype", "cnn", "first", "--workers", "1"]
    one, other = tmp_path / "one", tmp_path / "other"

    done = command("run", *shared, "--draws", "2", "--keep-going", "--results", str(one), PYTHONPATH=plugin)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 7
    assert lines[2].startswith("[3/6] first simulated-r1 random-v1 2-shot draw 0: OA ")
    assert lines[5] == (
        "[6/6] FAILED first simulated-r1 random-v1 2-shot draw 1: the loss is NaN in epoch 3; lower the learning rate"
    )
    assert lines[6] == "5 of 6 cells are done, 1 failed; run the same command again to retry"
    assert "the loss is NaN" in done.stdout, "the table does not show the failure"
    assert not list((one / "logs").iterdir()), "a worker printed something"

    plan = command("plan", *shared, "--draws", "2", "--results", str(one), PYTHONPATH=plugin)
    assert [line[line.index("random-v1") :].split()[4] for line in plan.stdout.splitlines()[1:7]] == [
        *["done"] * 5,
        "failed",
    ]
    again = command("run", *shared, "--draws", "1", "--results", str(one), PYTHONPATH=plugin)
    assert (again.returncode, again.stderr) == (
        0,
        "all 3 cells are done; nothing to compute (--force computes them again)\n",
    )
    fresh = command("run", *shared, "--draws", "1", "--results", str(other), PYTHONPATH=plugin)
    assert fresh.returncode == 0
    first = {record.key: json.dumps(record.body(), sort_keys=True) for record in load_records(one)}
    second = {record.key: json.dumps(record.body(), sort_keys=True) for record in load_records(other)}
    assert len(second) == 3
    assert second.items() <= first.items()


def test_conformance_of_third_party_methods(
    plugin: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(plugin)
    method_cards.cache_clear()
    try:
        assert main(["check", "first"]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "first: conforms"
        assert main(["check", "careless"]) == 1
        assert "FAILED  repeated predictions are equal" in capsys.readouterr().out
    finally:
        monkeypatch.undo()
        method_cards.cache_clear()


def test_map_writes_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--budget", "smoke", "--methods", "majority", "--draw", "1", "--results", str(tmp_path)]
    assert main(["map", *options]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.parent == tmp_path / "maps"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "majority-random-v1-2shot-draw01" in path.name
