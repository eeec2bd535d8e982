"""The parser of the console script: every command with its options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

from jsonargparse import ArgumentParser

from mmrs_bench.config import (
    DEFAULT_RESULTS,
    BudgetName,
    ExecutionConfig,
    LoggerName,
    PixelScope,
    Selection,
    SplitName,
    TrainerFlags,
)
from mmrs_bench.evaluation.cells import Suite
from mmrs_bench.evaluation.run.executors import EXECUTORS
from mmrs_bench.paths import BENCHMARK_DIR, shown_path
from mmrs_bench.version import __version__

#: In help texts, where a percent sign begins a placeholder.
_SUITES = shown_path(BENCHMARK_DIR / "suites").replace("%", "%%")


def build_parser() -> ArgumentParser:
    """Build the parser of all commands."""
    description = "Benchmark of few-shot land-cover classification with multimodal remote sensing."
    epilog = "README.md and docs/ of the source code describe set-up, protocol and file formats."
    parser = ArgumentParser(prog="mmrs-bench", description=description, epilog=epilog, exit_on_error=False)
    commands = parser.add_subcommands(dest="command", required=True, title="commands", description="")
    parser.add_argument("--version", action="version", version=__version__, help="print the version")
    actions = {}
    for group, description in GROUPS.items():
        grouped = ArgumentParser(description=f"{description}.", exit_on_error=False)
        commands.add_subcommand(group, grouped, help=description)
        actions[group] = grouped.add_subcommands(dest="action", required=True, title="actions", description="")
    for name, (_, help_text, options) in COMMANDS.items():
        subparser = ArgumentParser(description=f"{help_text}.", exit_on_error=False)
        for add in options:
            add(subparser)
        group, _, action = name.rpartition(" ")
        (actions[group] if group else commands).add_subcommand(action, subparser, help=help_text)
    return parser


#: Adds one or more options to a parser.
_Options = Callable[[ArgumentParser], object]


def _option(*names: str, **settings: Any) -> _Options:
    return lambda parser: parser.add_argument(*names, **settings)


def _several(default: Sequence[Any], choices: Any = None) -> dict[str, Any]:
    """Settings of an option with one or more values of the default's type."""
    values = {"choices": get_args(choices)} if choices else {"type": type(default[0])}
    return {"nargs": "+", "default": list(default), **values}


def _suite(parser: ArgumentParser) -> None:
    """Add the fields of `Suite`, which decide the numbers."""
    add, suite, scopes = parser.add_argument, Suite(), get_args(PixelScope)
    add("--config", action="config", help=f"YAML file with any of these options, such as those in {_SUITES}")
    add("--datasets", "--dataset", **_several(suite.datasets), help="names, or paths of manifests")
    add("--splits", "--split", **_several(suite.splits, SplitName), help="split protocols")
    add("--shots", **_several(suite.shots), help="labels per class")
    add("--draws", type=int, default=suite.draws, help="number of support samples")
    add("--methods", "--method", **_several(suite.methods), help=_METHODS_HELP)
    add("--budget", choices=get_args(BudgetName), default=suite.budget, help="training lengths and query limit")
    add("--seeds", "--seed", **_several(suite.seeds), help="training seeds")
    add("--selection", choices=get_args(Selection), default=None, help="selection rule for trained states")
    add("--window", type=int, default=suite.window, help="side of the window in pixels, odd")
    add("--modalities", nargs="*", type=str, default=[], help="modalities that methods see (default: all)")
    add("--drop", nargs="*", type=str, default=[], help="modalities that are missing in predictions, not in training")
    add("--normalisation", choices=["zscore", "minmax"], default=suite.normalisation, help="per channel")
    add("--normalisation-scope", choices=scopes, default=suite.normalisation_scope, help="pixels it is fitted to")
    add("--unlabelled", choices=scopes, default=suite.unlabelled, help="pixels that pretraining may use")
    add("--pca", type=int | None, default=None, help="number of principal components that replace the HSI bands")


def _device(parser: ArgumentParser) -> None:
    for name in ("device", "precision"):
        field = ExecutionConfig.model_fields[name]
        choices, text = get_args(field.annotation), "recorded; not part of the cell's key"
        parser.add_argument(f"--{name}", choices=choices, default=field.default, help=text)


def _results(default: str) -> _Options:
    return _option("--results", type=str, default=default, help="folder of the records")


def _out(default: str | None, text: str) -> _Options:
    return _option("--out", type=str, default=default, help=text)


def _values(setting: str) -> _Options:
    return _option(f"--{setting}s", nargs="+", type=int, required=True, help=f"values of the setting {setting}")


def _method(name: str) -> _Options:
    return _option(name, type=str, help="name, name:variant, or path of a card (.yaml), also with :variant")


def _scene(**settings: Any) -> _Options:
    return _option("name", type=str, help="name of a scene, or path of a manifest", **settings)


_RESULTS = _results(str(DEFAULT_RESULTS))
_SWEEPS = _out(str(DEFAULT_RESULTS / "sweeps"), "folder for the files")
_COLUMNS = _option("--columns", **_several(["oa"]), help="metrics in paper.tex, e.g. oa aa kappa")
_SOURCES = _option("--results", **_several([str(DEFAULT_RESULTS)]), help="one or more folders of records")
_PAGE = _out("report", "folder for report.html")
_MAPS = _out(None, "folder for the files (default: RESULTS/maps)")
_DRAW = _option("--draw", type=int, default=0, help="the draw of the cell")
_THREADS = _option("--threads", type=int, default=1, help="threads of the predictions")
_TIF = _option("--tif", action="store_true", help="also write a GeoTIFF (needs the extra geo)")
_COST = _option(
    "--cost", action="store_true", help="measure time and memory of the cells to do with short trainings (minutes)"
)
_NEEDS = _option("--needs", action="store_true", help="show GPUs, memory and hours by method")
_SIMULATE = _option("--simulate", action="store_true", help="simulate the run on 1 to 256 workers, some of which die")
_DEATHS = _option("--death-hours", type=float, default=24.0, help="--simulate: mean hours until a worker dies; 0: none")
_FORCE = _option("--force", action="store_true", help="compute finished cells again and replace their records")
_SAVE = _option("--save-models", action="store_true", help="keep the fitted model of each cell in RESULTS/models")
_UPDATE = _option("--update-baselines", "--update", action="store_true", help="measure new baselines, print old -> new")
_CHECKED = _option("--methods", "--method", **_several(["all"]), help="names; all: every method that has baselines")
_FROM = _option("--from", dest="source", type=str, default=None, help="folder with files that you already have")
_WHAT = _option(
    "what", choices=["methods", "datasets", "splits", "budgets"], nargs="?", default=None, help="default: everything"
)
_WEIGHTS = _option("name", type=str, help="name of a checkpoint, see mmrs-bench weights list")
_MODEL = _option("model", type=str, help="folder that run --save-models wrote, or the record of its cell")
_SCENE = _option("--scene", type=str, default=None, help="name, or path of a manifest (default: the training scene)")
_MAP_FILE = _option(
    "--out", type=str, required=True, help="file for the classes: .tif (needs the extra geo), .png, .pdf, .npy"
)
_MISSING = _option(
    "--drop", nargs="*", type=str, default=None, help="modalities not to use; the scene may lack them (default: as run)"
)
_PLACE = _option("--device", choices=["auto", "cpu", "cuda"], default="cpu", help="where the model runs")
_EXPORTED = _option("source", type=str, help="results folder, or folder of a model, or the record of its cell")
_EXPORT = _option("--out", type=str, required=True, help=".zip file or new folder for results; .ckpt file for a model")
_ORIGIN = _option("--origin", type=str | None, default=None, help="who computed the results, as tables name them")
_CONTACT = _option("--contact", type=str | None, default=None, help="address or page for questions about the results")
_EXPORT_FILE = _option("source", type=str, help=".zip file or folder that mmrs-bench export wrote")
_OTHER_NAME = _option("--origin", type=str | None, default=None, help="another name for the origin in these tables")
_REPLACE_ORIGIN = _option("--replace", action="store_true", help="replace earlier results of the same origin")
_STAGE = _option("--pretrained", action="store_true", help="the module of stage 1, from the cache")
_ANY_DEVICE = _option("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where the self-tests run")
_UNTIMED = _option("--no-timing", action="store_true", help="leave out the times of the hot paths")
_JSON = _option("--json", dest="file", type=str | None, default=None, help="also write everything to this file")
_METHODS_HELP = "name, name:variant, or path of a card (.yaml); all: those without weights, but no ablations and probes"
_FOLDERS = _option("folders", nargs="+", type=str, metavar="RESULTS", help="results folders")
_COLLECTED = _option("--out", type=str, required=True, help="folder of the collected files")
_REPLACE = _option("--replace", action="store_true", help="replace records of the same cells, also of other versions")
_PAGES = _option("pages", nargs="+", type=str, metavar="PAGE", help="Markdown files")
_CHECK = _option("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
_WATCHED = _option(
    "results",
    nargs="?",
    type=str,
    default=str(DEFAULT_RESULTS),
    metavar="DIR",
    help="its results folder",
)
_ONCE = _option("--once", action="store_true", help="show the state of this moment, and end")
_PROFILE = _option("--profile", type=str | None, default=None, help="YAML file of a cluster, see docs/clusters.md")
_DETACH = _option("--detach", action="store_true", help="submit the Slurm jobs and end; see watch")
#: Commands with actions.
GROUPS = {"data": "list, fetch and verify the files of scenes", "weights": "list and fetch pretrained checkpoints"}
_WORKERS = _option("--workers", type=int | None, default=None, help="default: one per usable core; on a GPU 1")


def _execution(parser: ArgumentParser) -> None:
    _WORKERS(parser)
    _device(parser)
    add = parser.add_argument
    add("--executor", choices=list(EXECUTORS), default="local", help="where the workers run")
    add("--executor-options", nargs="*", type=str, default=[], help="NAME=VALUE ... for slurm or ray")
    add("--keep-going", action="store_true", help="compute the other cells after one has failed")


def _training(parser: ArgumentParser) -> None:
    """Add how cells train, which does not change their results."""
    add, fields = parser.add_argument, ExecutionConfig.model_fields
    add("--threads", type=int, default=1, help="threads of each worker; recorded, see docs/clusters.md")
    add("--devices", type=int, default=1, help="GPUs or CPU cores of each long training (Lightning's ddp)")
    add("--logger", **_several(fields["logger"].default, LoggerName), help="where trainings log, without a network")
    flags = ", ".join(TrainerFlags.model_fields)
    add("--trainer", type=dict[str, Any], default={}, help=f"--trainer.NAME VALUE: Lightning's {flags}")


#: Each command's ``module:function`` within `mmrs_bench.commands`, help text and options.
COMMANDS: dict[str, tuple[str, str, Sequence[_Options]]] = {
    "demo": (
        "demo:demo",
        "a first look: table, curves and map on simulated data, in less than a minute",
        [_option("--out", default="demo", metavar="DIR", help="folder of the files")],
    ),
    "run": (
        "run:run",
        "compute missing cells, then show the leaderboard",
        [_suite, _RESULTS, _execution, _PROFILE, _DETACH, _training, _FORCE, _SAVE],
    ),
    "plan": (
        "run:plan",
        "show every cell with its state, and the expected time",
        [_suite, _RESULTS, _WORKERS, _COST, _NEEDS, _SIMULATE, _DEATHS, _device],
    ),
    "watch": (
        "run:watch",
        "show the progress of a run in another terminal or on a cluster, until it ends",
        [_WATCHED, _ONCE],
    ),
    "leaderboard": (
        "results:show_leaderboard",
        "show the tables, and write them to RESULTS/leaderboard",
        [_RESULTS, _COLUMNS],
    ),
    "report": (
        "results:report",
        "write one interactive page of all results, which opens without a network",
        [_SOURCES, _PAGE],
    ),
    "cite": (
        "results:cite",
        "print BibTeX of the suite, scenes and methods of results, and their protocol in words",
        [_SOURCES],
    ),
    "compare": ("results:compare", "compare two methods draw by draw", [_method("one"), _method("other"), _RESULTS]),
    "collect": (
        "results:collect_records",
        "collect the records of results folders into small files with checksums, one per scene and budget",
        [_FOLDERS, _COLLECTED, _REPLACE],
    ),
    "tables": (
        "results:write_tables",
        "generate the tables of results in Markdown pages from records",
        [_PAGES, _RESULTS, _CHECK],
    ),
    "map": (
        "results:draw_map",
        "classify a whole scene with one or more methods, on one sheet",
        [_suite, _RESULTS, _device, _THREADS, _DRAW, _MAPS, _TIF],
    ),
    "predict": (
        "models:predict",
        "classify a scene with a fitted model",
        [_MODEL, _SCENE, _MISSING, _MAP_FILE, _PLACE, _THREADS],
    ),
    "export": (
        "models:export",
        "write results for others, with checksums, or a Lightning checkpoint of a fitted model",
        [_EXPORTED, _EXPORT, _STAGE, _ORIGIN, _CONTACT],
    ),
    "import": (
        "models:import_records",
        "add the results of others to a results folder; tables show their origin",
        [_EXPORT_FILE, _RESULTS, _OTHER_NAME, _REPLACE_ORIGIN],
    ),
    "sweep": (
        "sweep:sweep",
        "score a method over timesteps and blocks of its features (uses query labels: for analysis only)",
        [_values("timestep"), _values("block"), _suite, _device, _SWEEPS],
    ),
    "regress": (
        "regress:regress",
        "compare accuracies on the simulated scene with the committed baselines; exit 1 on a loss",
        [_UPDATE, _CHECKED, _results("results/regress"), _execution],
    ),
    "list": ("catalogue:list_names", "list the names of methods, datasets, splits or budgets", [_WHAT]),
    "data list": ("data:list_scenes", "list all scenes, and whether their files are present", []),
    "data fetch": ("data:fetch", "fetch and verify the files of a scene", [_scene(), _FROM]),
    "data verify": ("data:verify", "verify the files of a scene against its manifest", [_scene()]),
    "data where": ("data:where", "print the folder of a scene's files", [_scene(nargs="?", default=None)]),
    "weights list": ("weights:list_weights", "list all checkpoints, and whether they are present", []),
    "weights fetch": ("weights:fetch", "fetch and verify a checkpoint", [_WEIGHTS]),
    # Their options are those of LightningCLI, see commands/lightning.py; so is predict with --config.
    "fit": ("lightning", "train a LightningModule on a data module; --config FILE (LightningCLI)", []),
    "validate": ("lightning", "validate a LightningModule; --config FILE (LightningCLI)", []),
    "test": ("lightning", "score a LightningModule on the query; --config FILE (LightningCLI)", []),
    "check": ("check:check", "run the conformance tests of a method", [_method("method")]),
    "doctor": (
        "doctor:doctor",
        "show what this machine has, test every module on it, and time the hot paths; exit 1 if a test fails",
        [_ANY_DEVICE, _UNTIMED, _JSON, _RESULTS],
    ),
    "version": ("catalogue:show_version", "print the version", []),
}
