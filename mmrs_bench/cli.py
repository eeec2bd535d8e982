"""The console script ``mmrs-bench``: arguments and errors. A command is imported when it is called."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, get_args

from jsonargparse import ArgumentParser

from mmrs_bench.config import DEFAULT_RESULTS, BudgetName, ExecutionConfig, PixelScope, Selection, SplitName
from mmrs_bench.errors import BenchError
from mmrs_bench.evaluation.cells import Suite
from mmrs_bench.evaluation.run.executors import EXECUTORS
from mmrs_bench.version import __version__

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit status: 0 success, 1 failure or loss of accuracy, 2 wrong input, 130 stopped by Ctrl-C.
    """
    try:
        name, options = _parse(argv)
        module, _, function = _COMMANDS[name].partition(":")
        status = int(getattr(import_module(f"mmrs_bench.commands.{module}"), function)(**options))
        sys.stdout.flush()
        return status
    except argparse.ArgumentError as error:
        return _usage_error(_readable(str(error)))
    except BenchError as error:
        return _usage_error(str(error))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `mmrs-bench list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE


def _usage_error(text: str) -> int:
    sys.stderr.write(f"mmrs-bench: error: {' '.join(text.split())}\n")
    return EXIT_USAGE


def _readable(text: str) -> str:
    """The parser's message with option names and types as on the command line."""
    text = re.sub(r'Parser key "([\w.]+)"(?: element \d+)?:', lambda m: f"--{m[1].replace('_', '-')}:", text)
    text = re.sub(r"<class '(\w+)'>", r"\1", text)
    return f"{text.rstrip('.')}. See mmrs-bench --help."


#: ``module:function`` of each command within `mmrs_bench.commands`.
_COMMANDS = {
    "run": "run:run",
    "plan": "run:plan",
    "leaderboard": "results:show_leaderboard",
    "compare": "results:compare",
    "map": "maps:draw_map",
    "sweep": "sweep:sweep",
    "regress": "regress:regress",
    "list": "catalogue:list_names",
    "data list": "data:list_scenes",
    "data fetch": "data:fetch",
    "data verify": "data:verify",
    "data where": "data:where",
    "check": "check:check",
    "version": "catalogue:show_version",
}


def _parse(argv: Sequence[str] | None) -> tuple[str, dict[str, Any]]:
    """The command's name and its options."""
    parsed = build_parser().parse_args(argv).as_dict()
    name = parsed["command"]
    options = parsed[name] or {}
    if name == "data":
        action = options["action"]
        name, options = f"data {action}", options[action] or {}
    options.pop("config", None)
    return name, options


def build_parser() -> ArgumentParser:
    """Build the parser of all commands."""
    parser = ArgumentParser(
        prog="mmrs-bench",
        description="Benchmark of few-shot land-cover classification with multimodal remote sensing.",
        epilog="README.md and docs/ describe set-up, protocol and file formats.",
        exit_on_error=False,
    )
    commands = parser.add_subcommands(dest="command", required=True, title="commands", description="")
    for name, (help_text, subparser) in {
        "run": ("compute cells; finished cells are not computed again", _run()),
        "plan": ("show what run would do", _plan()),
        "leaderboard": ("show and write the tables", _leaderboard()),
        "compare": ("paired comparison of two methods", _compare()),
        "map": ("class map of a whole scene", _map()),
        "sweep": ("accuracy over timesteps and blocks, for analysis", _sweep()),
        "regress": ("compare accuracies on the simulated scene with the baselines", _regress()),
        "list": ("methods, datasets, splits, budgets", _list()),
        "check": ("conformance tests of a method", _check()),
        "version": ("print the version", _parser(f"Print the version ({__version__}).")),
    }.items():
        commands.add_subcommand(name, subparser, help=help_text)
    _add_data_commands(commands)
    return parser


def _run() -> ArgumentParser:
    parser = _parser("Compute all cells that have no record, then show the leaderboard.")
    _add_suite(parser)
    _add_results(parser)
    _add_execution(parser)
    parser.add_argument("--force", action="store_true", help="compute finished cells again and replace their records")
    return parser


def _plan() -> ArgumentParser:
    parser = _parser("Show every cell with its key and state, and the expected time of the run.")
    _add_suite(parser)
    _add_results(parser)
    _add_workers(parser)
    return parser


def _leaderboard() -> ArgumentParser:
    parser = _parser("Show the tables of a results folder, and write them to RESULTS/leaderboard (md, csv, tex, html).")
    _add_results(parser)
    return parser


def _compare() -> ArgumentParser:
    parser = _parser("Compare two methods draw by draw.")
    for name in ("one", "other"):
        parser.add_argument(name, type=str, help="method or method:variant")
    _add_results(parser)
    return parser


def _map() -> ArgumentParser:
    parser = _parser("Train the method of one cell and classify the whole scene.")
    _add_suite(parser)
    _add_results(parser)
    _add_device(parser)
    parser.add_argument("--draw", type=int, default=0, help="the draw of the cell")
    parser.add_argument("--out", type=str, default=None, help="folder for the files (default: RESULTS/maps)")
    parser.add_argument("--tif", action="store_true", help="also write a GeoTIFF (needs the extra geo)")
    return parser


def _sweep() -> ArgumentParser:
    parser = _parser("Score a method over timesteps and blocks of its features. Uses query labels: for analysis only.")
    for name in ("timestep", "block"):
        parser.add_argument(f"--{name}s", nargs="+", type=int, required=True, help=f"values of the setting {name}")
    _add_suite(parser)
    _add_device(parser)
    parser.add_argument("--out", type=str, default=str(DEFAULT_RESULTS / "sweeps"), help="folder for the files")
    return parser


def _regress() -> ArgumentParser:
    parser = _parser("Compare accuracies on the simulated scene with the committed baselines; exit 1 on a loss.")
    parser.add_argument(
        "--update-baselines",
        "--update",
        dest="update_baselines_file",
        action="store_true",
        help="measure new baselines and print old -> new (needs a git checkout without changes)",
    )
    _add_results(parser, default="results/regress")
    _add_execution(parser)
    return parser


def _list() -> ArgumentParser:
    parser = _parser("List the names that other commands accept.")
    parser.add_argument("what", choices=["methods", "datasets", "splits", "budgets"], help="what to list")
    return parser


def _check() -> ArgumentParser:
    parser = _parser("Run the conformance tests on a method: shapes, determinism, label budget, saving.")
    parser.add_argument("method", type=str, help="name of the method")
    return parser


def _add_data_commands(commands: Any) -> None:
    data = _parser("Files of the scenes.")
    commands.add_subcommand("data", data, help="list, fetch and verify the files of scenes")
    actions = data.add_subcommands(dest="action", required=True, title="actions", description="")
    name: dict[str, Any] = {"type": str, "help": "name of a scene, or path of a manifest"}
    everything = _parser("List all scenes, and whether their files are present.")
    fetch = _parser("Fetch and verify the files of a scene.")
    fetch.add_argument("name", **name)
    fetch.add_argument("--from", dest="source", type=str, default=None, help="folder with files that you already have")
    verify = _parser("Verify the files of a scene against its manifest.")
    verify.add_argument("name", **name)
    where = _parser("Print the folder of a scene's files.")
    where.add_argument("name", nargs="?", default=None, **name)
    actions.add_subcommand("list", everything, help="all scenes")
    actions.add_subcommand("fetch", fetch, help="fetch a scene's files")
    actions.add_subcommand("verify", verify, help="verify a scene's files")
    actions.add_subcommand("where", where, help="print the folder of the files")


def _parser(description: str) -> ArgumentParser:
    return ArgumentParser(description=description, exit_on_error=False)


def _add_suite(parser: ArgumentParser) -> None:
    """Add the fields of `Suite`, which decide the numbers."""
    add, suite = parser.add_argument, Suite()
    add("--config", action="config", help="YAML file with any of these options (benchmarks/suite.yaml)")
    add("--datasets", "--dataset", **_several(suite.datasets), help="names, or paths of manifests")
    add("--splits", "--split", **_several(suite.splits, SplitName), help="split protocols")
    add("--shots", **_several(suite.shots), help="labels per class")
    add("--draws", type=int, default=suite.draws, help="number of support samples")
    add("--methods", "--method", **_several(suite.methods), help="name or name:variant; all: those without weights")
    add("--budget", choices=get_args(BudgetName), default=suite.budget, help="training lengths and query limit")
    add("--seeds", "--seed", **_several(suite.seeds), help="training seeds")
    add("--selection", choices=get_args(Selection), default=None, help="selection rule for trained states")
    add("--window", type=int, default=suite.window, help="side of the window in pixels, odd")
    add("--modalities", nargs="*", type=str, default=[], help="modalities that methods see (default: all)")
    add("--normalisation", choices=["zscore", "minmax"], default=suite.normalisation, help="per channel")
    scopes = get_args(PixelScope)
    add("--normalisation-scope", choices=scopes, default=suite.normalisation_scope, help="pixels it is fitted to")
    add("--unlabelled", choices=scopes, default=suite.unlabelled, help="pixels that pretraining may use")
    add("--pca", type=int | None, default=None, help="number of principal components that replace the HSI bands")


def _several(default: Sequence[Any], choices: Any = None) -> dict[str, Any]:
    """Arguments of an option with one or more values of the type of the default."""
    values = {"choices": get_args(choices)} if choices else {"type": type(default[0])}
    return {"nargs": "+", "default": list(default), **values}


def _add_results(parser: ArgumentParser, default: str = str(DEFAULT_RESULTS)) -> None:
    parser.add_argument("--results", type=str, default=default, help="folder of the records")


def _add_workers(parser: ArgumentParser) -> None:
    parser.add_argument("--workers", type=int | None, default=None, help="default: one per usable core; on a GPU 1")


def _add_device(parser: ArgumentParser) -> None:
    fields = ExecutionConfig.model_fields
    for name in ("device", "precision"):
        choices = get_args(fields[name].annotation)
        default = fields[name].default
        parser.add_argument(f"--{name}", choices=choices, default=default, help="recorded; not part of the cell's key")


def _add_execution(parser: ArgumentParser) -> None:
    _add_workers(parser)
    _add_device(parser)
    add = parser.add_argument
    add("--executor", choices=list(EXECUTORS), default="local", help="where the workers run")
    add("--executor-options", nargs="*", type=str, default=[], help="NAME=VALUE ... for slurm or ray")
    add("--keep-going", action="store_true", help="compute the other cells after one has failed")
