"""``fit``, ``validate``, ``test`` and ``predict`` with the files of ``benchmarks/lightning``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mmrs_bench.cli import main
from mmrs_bench.cli.parser import build_parser
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.toolkit.checkpoints import read_checkpoint
from mmrs_bench.paths import BENCHMARK_DIR, REPOSITORY

FILES = {path.stem: path for path in sorted((BENCHMARK_DIR / "lightning").glob("*.yaml"))}
#: The training whose checkpoint a file names.
NEEDS = {
    "bdgf-probe": "bdgf-stage1",
    "bdgf-stage2": "bdgf-stage1",
    "diffclip-probe": "diffclip-stage1",
    "diffclip-stage2": "diffclip-stage1",
    "geodiffnet-f": "unidiff-source",
    "lds2ae-stage2": "lds2ae-stage1",
    "mae-stage2": "mae-stage1",
    "unidiff-stage-a": "unidiff-source",
    "unidiff-stage-b": "unidiff-stage-a",
}
CLASSIFIERS = (
    "bdgf-probe",
    "bdgf-stage2",
    "cnn",
    "coupled-cnn",
    "diffclip-probe",
    "diffclip-stage2",
    "endnet",
    "geodiffnet-f",
    "exvit",
    "hct",
    "mft",
    "lds2ae-stage2",
    "mae-stage2",
    "mivit",
    "msfmamba",
    "s2enet",
    "unidiff-stage-b",
)
#: Files of modules that differ from that of S2ENet by their network and loss, which tests of modules cover.
ALIKE = {"coupled-cnn", "endnet", "exvit", "hct", "mft", "mivit"}
#: The card of a file whose name is not that of a card.
CARDS = {"geodiffnet-f": "geodiffnet-f-tiny"} | dict.fromkeys(
    ("unidiff-source", "unidiff-stage-a", "unidiff-stage-b"), "unidiff-tiny"
)
#: How cards begin the names of the settings of a stage.
PREFIXES = {"unidiff-source": "source_", "unidiff-stage-a": "adapt_"}
#: What follows there, by the argument of the module.
SHORT_NAMES = {"learning_rate": "rate", "weight_decay": "decay"}
#: Settings of the adaptation, which the backbone of the same card is trained without.
NOT_OF_SOURCE = {"adaptation", "lora_rank", "pictures"}
SHORT = "--trainer.max_epochs 1 --trainer.enable_progress_bar false --trainer.enable_model_summary false"
TWO_STEPS = f"{SHORT} --trainer.limit_train_batches 2 --trainer.num_sanity_val_steps 0".split()

pytestmark = [
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),  # in LightningCLI
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:`ModelCheckpoint.*already exists"),
]


def each(names: Iterable[str]) -> Any:
    """Tests of one file each; those of `ALIKE` are slow."""
    return pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in ALIKE)) for n in names])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all trainings of this file run, because a stage reads the checkpoint of another."""
    return tmp_path_factory.mktemp("lightning")


@pytest.fixture(autouse=True)
def _in_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(workplace)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # seed_everything sets them for the process
        monkeypatch.setenv(name, "0")
    with torch.random.fork_rng(devices=[]):
        yield


def checkpoint_of(name: str) -> Path:
    """The checkpoint of two steps of a training, which runs at the first call."""
    path = Path("runs", name, "checkpoints", "last.ckpt")
    if not path.exists():
        if name in NEEDS:
            checkpoint_of(NEEDS[name])
        assert main(["fit", "--config", str(FILES[name]), *TWO_STEPS]) == 0
    return path


@each(FILES)
def test_every_file_trains(name: str) -> None:
    content = read_checkpoint(checkpoint_of(name))
    assert content["global_step"] == 2 or name in CLASSIFIERS
    class_path = yaml.safe_load(FILES[name].read_text())["model"]["class_path"]
    assert content["mmrs_bench_module"] == class_path


def parameters_of(section: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a class that a file names, by default those of the class."""
    module, _, name = section["class_path"].rpartition(".")
    defaults = inspect.signature(getattr(import_module(module), name)).parameters.values()
    return {p.name: p.default for p in defaults if p.default is not p.empty} | section.get("init_args", {})


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_the_settings_of_its_card(name: str) -> None:
    """With the budget ``quick``; a setting of the pretraining begins with ``pretrain_`` in a card."""
    content = yaml.safe_load(FILES[name].read_text())
    label, _, stage = name.partition("-stage")
    config = resolve_config(method_card(CARDS.get(name, label)), "default", "quick")
    prefix = PREFIXES.get(name, "pretrain_" if stage == "1" else "")
    module, data = parameters_of(content["model"]), parameters_of(content["data"])
    given = {**module, "epochs": content["trainer"]["max_epochs"], "components": data.get("pca")}
    given |= {"batch" if prefix else "batch_size": data["batch_size"], "steps": given["epochs"]}
    compared = []
    for found, value in given.items():
        of_stage = f"{prefix}{SHORT_NAMES.get(found, found) if prefix else found}"
        setting = of_stage if of_stage in config else found
        if setting in config and not (prefix == "source_" and setting in NOT_OF_SOURCE):
            assert _listed(value) == _listed(config[setting]), setting
            compared.append(setting)
    assert len(compared) >= 3


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


@each(CLASSIFIERS)
def test_classifiers_are_scored_with_their_checkpoint(name: str, printed: Callable[..., str]) -> None:
    given = ["--ckpt_path", checkpoint_of(name), "--data.init_args.query_limit", 40]
    shown = printed("test", "--config", FILES[name], *given, "--trainer.enable_progress_bar", "false")
    assert "test/OA" in shown


def test_hyperparameters_from_the_data_are_in_the_checkpoint() -> None:
    found = read_checkpoint(checkpoint_of("diffclip-stage2"))["hyper_parameters"]
    assert found["channels"] == {"hsi": 10, "lidar": 2}
    assert (found["num_classes"], found["window"], found["class_names"][0]) == (10, 11, "Meadow")


def test_predict_writes_pixels_and_targets(printed: Callable[..., str]) -> None:
    given = ["--ckpt_path", checkpoint_of("cnn"), "--data.init_args.query_limit", 40]
    shown = printed("predict", "--config", FILES["cnn"], *given, "--trainer.enable_progress_bar", "false")
    assert shown.splitlines()[-1] == f"written to {Path('runs/cnn/predictions.npz')}: targets of 40 pixels"
    with np.load("runs/cnn/predictions.npz") as found:
        assert len(found["pixel"]) == len(found["target"]) == 40
        assert set(found["target"]) <= set(range(10))


def test_the_loggers_of_the_file_write() -> None:
    checkpoint_of("cnn")
    assert list(Path("runs/cnn").rglob("metrics.csv"))
    assert list(Path("runs/cnn").rglob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("package", "logger"),
    [
        ("wandb", {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"offline": True}}),
        ("mlflow", {"class_path": "lightning.pytorch.loggers.MLFlowLogger", "init_args": {"save_dir": "runs/mlruns"}}),
    ],
)
def test_other_loggers_come_from_the_file(package: str, logger: dict[str, Any], tmp_path: Path) -> None:
    if find_spec(package) is None:
        pytest.skip(f"the package {package} is not installed; it is no dependency")
    content = yaml.safe_load(FILES["cnn"].read_text())
    content["trainer"]["logger"] = logger
    content["trainer"].pop("callbacks")
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", str(path), *TWO_STEPS]) == 0


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("fit", "--model nowhere.Module", "model: class_path nowhere.Module: No module named 'nowhere'"),
        ("fit", "--model.init_args.widht 3", "Option 'widht' is not accepted"),
        ("fit", "--trainer.devices 99 --trainer.accelerator cpu", "trainer.devices is 99, but this process may use"),
        ("fit", "--trainer.accelerator gpu --trainer.devices 99", "change the section trainer"),
        ("fit", "--trainer.max_epochs many", "trainer.max_epochs is many, expected int"),
        ("fit", "--bogus 1", "unrecognized arguments: --bogus"),
        ("fit", "--data.init_args.scene simulatd", "did you mean simulated"),
        ("fit", "--data.init_args.window 4", "window 4 is even"),
        ("test", "--ckpt_path best", "ckpt_path best is known to the process that trained only; give the path"),
        ("test", "--ckpt_path nowhere.ckpt", "nowhere.ckpt: cannot be read as a checkpoint"),
        ("test", "--ckpt_path CKPT --data.init_args.pca 4", "trained with channels {'hsi': 48, 'lidar': 2} instead of"),
        (
            "test",
            "--ckpt_path CKPT --model mmrs_bench.methods.msfmamba.module.MsfMambaModule",
            "contains mmrs_bench.methods.cnn.module.CnnModule, expected",
        ),
        ("test", "", "test without --ckpt_path would use a network that was not trained; give the checkpoint"),
        ("predict", "", "predict without --ckpt_path would use a network that was not trained"),
        ("validate", "--ckpt_path CKPT", "selection last has no validation pixels"),
    ],
)
def test_wrong_input_gives_one_line(
    command: str, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(checkpoint_of("cnn")) if word == "CKPT" else word for word in arguments.split()]
    capsys.readouterr()
    assert main([command, "--config", str(FILES["cnn"]), *given]) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("mmrs-bench: error")]
    assert message in line


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_a_command_without_a_configuration_names_one(command: str, refused: Callable[..., str]) -> None:
    assert "the section model is missing; give --config FILE" in refused(command)


def test_the_help_lists_the_commands() -> None:
    listed = re.findall(r"^    (\w+) ", build_parser().format_help(), re.MULTILINE)
    assert {"fit", "validate", "test", "predict"} <= set(listed)


def test_a_module_that_predicts_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--ckpt_path", str(checkpoint_of("diffclip-stage1")), "--data.init_args.query_limit", "40"]
    assert main(["predict", "--config", str(FILES["diffclip-stage1"]), *given]) == 2
    assert "MaskedDiffusionPretrainer predicts nothing" in capsys.readouterr().err


PAGE = (REPOSITORY / "docs" / "lightning.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.filterwarnings("ignore:You are running in a notebook")
def test_the_python_examples_of_the_page_run() -> None:
    names: dict[str, Any] = {"__name__": "examples"}
    exec("\n".join(blocks("python")), names)  # noqa: S102
    assert sum(map(len, names["targets"])) == len(names["data"].query)


def test_the_commands_of_the_page_are_those_of_the_files() -> None:
    commands = [line.split() for block in blocks("bash") for line in block.splitlines()]
    assert {words[1] for words in commands} == {"fit", "validate", "test", "predict"}
    for words in commands:
        assert REPOSITORY / words[3] in FILES.values()
    (logger,) = map(yaml.safe_load, blocks("yaml"))
    assert logger["trainer"]["logger"] == yaml.safe_load(FILES["cnn"].read_text())["trainer"]["logger"]
