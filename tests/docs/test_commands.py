"""Commands on pages: they are valid, and run as ``docs/commands.yaml`` states."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
from site_generator.pages import all_texts, generated_files
from site_generator.tested import commands_on, entry_of, read_commands

from mmrs_bench import cli
from mmrs_bench.cli.parser import COMMANDS
from mmrs_bench.commands.run import plan
from mmrs_bench.evaluation.cells import Suite
from mmrs_bench.paths import REPOSITORY

LIGHTNING = ("fit", "validate", "test")


@cache
def texts() -> list[str]:
    return all_texts(generated_files())


@cache
def commands() -> list[str]:
    return commands_on(texts())


def marked(kind: str) -> list[str]:
    known = read_commands().commands
    return [text for text in commands() if (entry := entry_of(text, known)) and getattr(entry, kind)]


def with_names(command: str) -> str:
    """A command with real names for those that a reader fills in."""
    for name, real in read_commands().placeholders.items():
        command = command.replace(name, real)
    return command


def arguments_of(command: str) -> list[str]:
    """The arguments of ``mmrs-bench`` in a command; a make target is asked what it calls."""
    words = shlex.split(with_names(command))
    if words[0] == "make":
        dry = ["make", "--dry-run", "--no-print-directory", *words[1:]]
        alone = {"PATH": os.environ["PATH"]}  # `make test RUN=...` hands its variables on
        called = subprocess.run(dry, cwd=REPOSITORY, check=True, capture_output=True, text=True, env=alone)
        words = shlex.split(called.stdout)
    assert words[0].endswith("mmrs-bench"), words
    return words[1:]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout to run commands in, with a folder of results."""
    for name in ("docs", "data_manifests"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    for name in ("benchmarks/results", "results"):
        (tmp_path / name).mkdir(parents=True)
        shutil.copy(REPOSITORY / "benchmarks" / "results" / "simulated-r1-quick.cells.json", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_has_an_entry_and_every_entry_a_command() -> None:
    known = read_commands().commands
    of_commands = {text: entry_of(text, known) for text in commands()}
    assert [text for text, entry in of_commands.items() if entry is None] == [], "add them to docs/commands.yaml"
    assert [entry.begins for entry in known if entry not in of_commands.values()] == [], "these have no command"


def test_the_parser_accepts_every_command() -> None:
    found = [part.strip() for text in commands() for part in text.split("&&") if part.strip().startswith("mmrs-bench")]
    for command in found:
        arguments = shlex.split(command)[1:]
        if arguments[0] not in LIGHTNING and "--config" not in arguments:
            cli._parse(arguments)  # raises what the command line would report
    assert len(found) > 40


def test_commands_in_sentences_name_commands_and_options_that_exist() -> None:
    lines = {code for text in texts() for code in re.findall(r"`mmrs-bench ([^`]+)`", text)}
    names = {*COMMANDS, *(name.split()[0] for name in COMMANDS)}
    for line in lines:
        words = line.partition(" && ")[0].split()
        if not words[0].islower():
            continue  # `mmrs-bench COMMAND --help`
        assert words[0] in names or words[0].startswith("--"), line
        if words[0] not in LIGHTNING and "--config" not in words:
            given = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert given <= {*cli._options_of(words), "--help", "--version"}, line


@pytest.mark.usefixtures("folder")
def test_commands_run(capsys: pytest.CaptureFixture[str]) -> None:
    for command in marked("run"):
        assert cli.main(arguments_of(command)) == 0, f"{command}: {capsys.readouterr().err}"


def test_cells_of_commands_can_be_planned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    as_planned = {
        "results": str(folder / "none"),
        "workers": 1,
        "cost": False,
        "needs": False,
        "simulate": False,
        "death_hours": 24.0,
        "device": "cpu",
        "precision": "32-true",
    }
    suite = {field.name for field in fields(Suite)}
    for command in marked("plan"):
        name, options = cli._parse(arguments_of(command.rpartition("&& ")[2]))
        assert name in ("run", "map")
        assert plan(**as_planned, **{name: options[name] for name in suite if name in options}) == 0
        assert "cells, 0 done" in capsys.readouterr().out, command
