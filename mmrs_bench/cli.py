"""The console script ``mmrs-bench``: arguments and errors. Commands are imported when they are called."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, get_args

from jsonargparse import ArgumentParser

from mmrs_bench.config import BudgetName, ExecutionConfig, PixelScope, Selection, SplitName, default_results
from mmrs_bench.errors import BenchError
from mmrs_bench.version import __version__

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141

_EPILOG = "Set up, protocol and file formats are described in README.md and docs/."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit status: 0 done, 1 something failed or got worse, 2 wrong input, 130 stopped by Ctrl-C.
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
    """The parser's message in the words of the command line."""
    text = re.sub(r'Parser key "([\w.]+)"(?: element \d+)?:', lambda m: f"--{m[1].replace('_', '-')}:", text)
    text = re.sub(r"<class '(\w+)'>", r"\1", text)
    return f"{text.rstrip('.')}. See mmrs-bench --help."


#: Where each command lives, as module:function within `mmrs_bench.commands`.
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
    """The parser of all commands."""
    parser = ArgumentParser(
        prog="mmrs-bench",
        description="Few-shot land-cover classification with multimodal remote sensing: one honest benchmark.",
        epilog=_EPILOG,
        exit_on_error=False,
    )
    commands = parser.add_subcommands(dest="command", required=True, title="commands", description="")

    run = _parser("Compute all cells that have no record yet, then show the leaderboard.")
    _add_suite(run)
    _add_results(run)
    _add_execution(run)
    run.add_argument("--force", action="store_true", help="compute finished cells again and replace their records")
    commands.add_subcommand("run", run, help="compute cells; what is finished is never computed again")

    plan = _parser("Show every cell, its key, its state and how long the rest will take.")
    _add_suite(plan)
    _add_results(plan)
    _add_workers(plan)
    commands.add_subcommand("plan", plan, help="show what run would do")

    board = _parser("Show the tables of a results folder, and write them to RESULTS/leaderboard (md, csv, tex, html).")
    _add_results(board)
    commands.add_subcommand("leaderboard", board, help="show and write the tables")

    compare = _parser("Compare two methods draw by draw.")
    compare.add_argument("one", type=str, help="method or method:variant")
    compare.add_argument("other", type=str, help="method or method:variant")
    _add_results(compare)
    commands.add_subcommand("compare", compare, help="paired comparison of two methods")

    draw = _parser("Compute one cell again and classify the whole raster with it.")
    _add_suite(draw)
    _add_results(draw)
    _add_device(draw)
    draw.add_argument("--draw", type=int, default=0, help="which draw to take")
    draw.add_argument("--out", type=str, default=None, help="folder for the files (default: RESULTS/maps)")
    draw.add_argument("--tif", action="store_true", help="also write a GeoTIFF (needs the extra geo)")
    commands.add_subcommand("map", draw, help="class map of a whole scene")

    sweep = _parser("Score a method over timesteps and blocks of its features: for analysis, it looks at query labels.")
    sweep.add_argument("--timesteps", nargs="+", type=int, required=True, help="values of the setting timestep")
    sweep.add_argument("--blocks", nargs="+", type=int, required=True, help="values of the setting block")
    _add_suite(sweep)
    _add_device(sweep)
    sweep.add_argument("--out", type=str, default=str(default_results() / "sweeps"), help="folder for the files")
    commands.add_subcommand("sweep", sweep, help="accuracy over timesteps and blocks, for analysis")

    regress = _parser("Compare OA, AA and kappa of the golden cells with the committed ones; exit 1 on a loss.")
    regress.add_argument(
        "--update-baselines",
        "--update",
        dest="update_baselines_file",
        action="store_true",
        help="measure new golden values and print old -> new (refuses a dirty checkout)",
    )
    _add_results(regress, default="results/regress")
    _add_execution(regress)
    commands.add_subcommand("regress", regress, help="golden metrics of the simulated scene")

    names = _parser("List what can be named on the command line.")
    names.add_argument("what", choices=["methods", "datasets", "splits", "budgets"], help="what to list")
    commands.add_subcommand("list", names, help="methods, datasets, splits, budgets")

    data = _parser("The scenes' files.")
    commands.add_subcommand("data", data, help="list, fetch and verify the scenes' files")
    actions = data.add_subcommands(dest="action", required=True, title="actions", description="")
    actions.add_subcommand("list", _parser("All scenes, and which of them are here."), help="all scenes")
    fetch = _dataset_parser("Fetch and verify a scene's files.")
    fetch.add_argument("--from", dest="source", type=str, default=None, help="folder with files you have already")
    actions.add_subcommand("fetch", fetch, help="fetch a scene's files")
    actions.add_subcommand("verify", _dataset_parser("Check a scene against its manifest."), help="check a scene")
    where = _dataset_parser("Print the folder of a scene's files.", optional=True)
    actions.add_subcommand("where", where, help="print where files lie")

    check = _parser("Run the conformance tests on a method: shapes, determinism, label budget, saving.")
    check.add_argument("method", type=str, help="name of the method")
    commands.add_subcommand("check", check, help="conformance tests of a method")
    commands.add_subcommand("version", _parser(f"Print the version ({__version__})."), help="print the version")
    return parser


def _parser(description: str) -> ArgumentParser:
    return ArgumentParser(description=description, exit_on_error=False)


def _dataset_parser(description: str, *, optional: bool = False) -> ArgumentParser:
    parser = _parser(description)
    help_text = "name of a scene, or path of a manifest"
    if optional:
        parser.add_argument("name", type=str, nargs="?", default=None, help=help_text)
    else:
        parser.add_argument("name", type=str, help=help_text)
    return parser


def _add_suite(parser: ArgumentParser) -> None:
    """Options that decide the numbers; the defaults are those of `mmrs_bench.evaluation.cells.Suite`."""
    add = parser.add_argument
    add("--config", action="config", help="YAML file with any of these options (benchmarks/suite.yaml)")
    add("--datasets", "--dataset", nargs="+", type=str, default=["simulated"], help="names, or paths of manifests")
    add("--splits", "--split", nargs="+", choices=get_args(SplitName), default=["random-v1"], help="split protocols")
    add("--shots", nargs="+", type=int, default=[2], help="labels per class")
    add("--draws", type=int, default=10, help="support samples")
    add("--methods", "--method", nargs="+", type=str, default=["all"], help="name or name:variant; all: no weights")
    add("--budget", choices=get_args(BudgetName), default="quick", help="training lengths and query limit")
    add("--seeds", "--seed", nargs="+", type=int, default=[0], help="training seeds")
    add("--selection", choices=get_args(Selection), default=None, help="how a trained state is chosen")
    add("--window", type=int, default=11, help="side of the window in pixels, odd")
    add("--modalities", nargs="*", type=str, default=[], help="modalities that methods see (default: all)")
    add("--normalisation", choices=["zscore", "minmax"], default="zscore", help="per channel")
    add("--normalisation-scope", choices=get_args(PixelScope), default="scene", help="pixels it is fitted on")
    add("--unlabelled", choices=get_args(PixelScope), default="scene", help="pixels that pretraining may see")
    add("--pca", type=int | None, default=None, help="principal components instead of the HSI's bands")


def _add_results(parser: ArgumentParser, default: str = str(default_results())) -> None:
    parser.add_argument("--results", type=str, default=default, help="folder of the records")


def _add_workers(parser: ArgumentParser) -> None:
    parser.add_argument("--workers", type=int | None, default=None, help="default: usable cores; on a GPU 1")


def _add_device(parser: ArgumentParser) -> None:
    fields = ExecutionConfig.model_fields
    for name in ("device", "precision"):
        choices = get_args(fields[name].annotation)
        parser.add_argument(f"--{name}", choices=choices, default=fields[name].default, help="recorded, never hashed")


def _add_execution(parser: ArgumentParser) -> None:
    _add_workers(parser)
    _add_device(parser)
    add = parser.add_argument
    add("--executor", choices=["local", "slurm", "ray"], default="local", help="who runs the workers")
    add("--executor-options", nargs="*", type=str, default=[], help="NAME=VALUE ... for slurm or ray")
    add("--keep-going", action="store_true", help="compute the other cells after one has failed")
