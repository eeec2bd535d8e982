"""The console script ``mmrs-bench``: arguments and errors. A command is imported when it is called."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentParser

from mmrs_bench.cli.parser import COMMANDS, GROUPS, build_parser
from mmrs_bench.config import OPENMP_SPINS
from mmrs_bench.errors import BenchError, ConfigError, PreflightError, nearest
from mmrs_bench.texts import one_line, prepare_streams

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
    prepare_streams()
    os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_SPINS)  # read when torch is imported
    os.environ["MPLBACKEND"] = "agg"  # files only; an inherited backend may need a display, or be unknown
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        if _is_lightning(given):
            return int(import_module("mmrs_bench.commands.lightning").run_lightning(given))
        name, options = _parse(given)
        module, _, function = COMMANDS[name][0].partition(":")
        status = int(getattr(import_module(f"mmrs_bench.commands.{module}"), function)(**options))
        sys.stdout.flush()
        return status
    except argparse.ArgumentError as error:
        return _usage_error(_readable(str(error), given))
    except PreflightError as error:
        return max(map(_usage_error, error.faults))
    except BenchError as error:
        return _usage_error(str(error))
    except BrokenPipeError:  # `mmrs-bench list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return _usage_error(f"{error.filename}: the path, or a name in it, is too long; choose a shorter one")
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _is_lightning(argv: Sequence[str]) -> bool:
    """Whether Lightning's command line has to run these arguments."""
    configured = any(word == "-c" or word.partition("=")[0] == "--config" for word in argv)
    return argv[:1] in (["fit"], ["validate"], ["test"]) or (argv[:1] == ["predict"] and configured)


def _usage_error(text: str) -> int:
    sys.stderr.write(f"mmrs-bench: error: {one_line(text)}\n")
    return EXIT_USAGE


def _readable(text: str, argv: Sequence[str]) -> str:
    """The parser's message with option names and types as on the command line, and what was probably meant."""
    text = re.sub(r'Parser key "([\w.]+)"(?: element \d+)?:', lambda m: f"--{m[1].replace('_', '-')}:", text)
    text = re.sub(r"<class '(\w+)'>", r"\1", text).rstrip(".")
    if not (command := _command(argv)):
        return f"{text}. {_suggestion(text, argv)}See mmrs-bench --help."
    if text.startswith("the following arguments are required: "):
        text = text.replace(f"{command.replace(' ', '.')}.", "")
    return f"{text}. {_suggestion(text, argv)}See mmrs-bench {command} --help."


def _suggestion(text: str, argv: Sequence[str]) -> str:
    """What was probably meant, as a sentence that ends with a blank; empty if nothing is similar.

    Args:
        text: The parser's message.
        argv: The arguments.
    """
    options = _options_of(argv)
    if found := re.search(r"(?s)^--([\w-]+):.*Got value: (\S+,\S*)", text):
        option, parts = f"--{found[1]}", found[2].replace(",", " ").split()
        return f"Separate values by blanks: {option} {' '.join(parts)}. " if options.get(option) == "+" else ""
    if found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", text):
        choices, parts = re.findall(r"[\w-]+", found[2]), found[1].split(",")
        if len(parts) > 1 and set(parts) <= set(choices):
            return f"Separate values by blanks: {' '.join(parts)}. "
        return _did_you_mean(nearest(found[1], choices))
    if found := re.search(r"[Uu]nrecognized arguments?: (--[\w-]+)", text):
        return _did_you_mean(nearest(found[1], options))
    if re.match(r"unrecognized arguments: [^-]", text, re.IGNORECASE) and (place := _only_place(argv)):
        return f"Give one {place}, not several (* may stand for more than one). "
    return ""


def _did_you_mean(names: Sequence[str]) -> str:
    return f"Did you mean {' or '.join(names)}? " if names else ""


def _options_of(argv: Sequence[str]) -> dict[str, object]:
    """The options of the command in some arguments, with their numbers of values (``nargs``)."""
    return {option: action.nargs for action in _actions_of(argv) for option in action.option_strings}


def _only_place(argv: Sequence[str]) -> str:
    """The name of the argument that a command takes beside its options; empty if it does not take exactly one."""
    places = [action for action in _actions_of(argv) if not action.option_strings]
    return str(places[0].metavar or places[0].dest) if len(places) == 1 and places[0].nargs in (None, "?") else ""


def _actions_of(argv: Sequence[str]) -> list[argparse.Action]:
    """The options and other arguments of the command in some arguments."""
    name = _command(argv)
    parser = ArgumentParser(exit_on_error=False)
    for add in COMMANDS[name][2] if name else ():
        add(parser)
    return list(parser._actions)


def _command(argv: Sequence[str]) -> str | None:
    """The name of the command in some arguments; None if there is none."""
    return next((name for name in (" ".join(argv[:2]), *argv[:1]) if name in COMMANDS), None)


def _parse(argv: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The command's name and its options."""
    parsed = build_parser().parse_args(argv).as_dict()
    name = parsed["command"]
    options = parsed[name] or {}
    if name in GROUPS:
        action = options["action"]
        name, options = f"{name} {action}", options[action] or {}
    options.pop("config", None)
    if name == "map" and any(word.partition("=")[0] == "--draws" for word in argv):
        raise ConfigError("map shows one draw: use --draw NUMBER, counted from 0, in place of --draws")
    return name, options
