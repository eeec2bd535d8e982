"""Which commands of the pages are run by tests, from ``docs/commands.yaml``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmrs_bench.errors import ConfigError
from mmrs_bench.reading import read_yaml, validated
from site_generator.markdown import block
from site_generator.repository import DOCS, ROOT

FILE = DOCS / "commands.yaml"
_BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
#: Languages of blocks with commands.
_SHELL = {"", "bash", "sh"}
#: First words of commands; other lines of blocks are output or contents of files.
_PROGRAMS = ("make ", "mmrs-bench ", "pip ", ".venv/bin/", "python ", "ray ", "sbatch ", "git ", "export ", "apt-get ")


class Entry(BaseModel):
    """How commands are tested.

    Attributes:
        begins: Beginning of the commands that it is about.
        run: Whether ``tests/docs/test_commands.py`` runs them.
        plan: Whether it plans their cells only, because the trainings take long.
        tests: A file of tests that runs them, if needed on smaller data or with shorter trainings.
        reason: Why no test runs them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    begins: str = Field(min_length=4)
    run: bool = False
    plan: bool = False
    tests: str = ""
    reason: str = ""

    @model_validator(mode="after")
    def _one(self) -> Entry:
        if sum(map(bool, (self.run, self.plan, self.tests, self.reason))) != 1:
            raise ValueError("give one of run, plan, tests and reason")
        if self.tests and not (ROOT / self.tests).is_file():
            raise ValueError(f"there is no file {self.tests}")
        return self

    @property
    def status(self) -> str:
        """How they are tested, in words."""
        if self.plan:
            return "its cells are planned by `tests/docs/test_commands.py`; `tests/methods` trains every method"
        tests = "tests/docs/test_commands.py" if self.run else self.tests
        return f"run by `{tests}`" if tests else f"not run: {self.reason}"


class _Commands(BaseModel):
    model_config = ConfigDict(extra="forbid")

    placeholders: dict[str, str]
    commands: list[Entry]


def read_commands(file: Path = FILE) -> _Commands:
    """The entries of the file, and what stands for names that a user fills in.

    Raises:
        ConfigError: If the file is faulty.
    """
    fields: Any = read_yaml(file, error=ConfigError, advice="see the comment at its top")
    return validated(_Commands, fields, where=file, error=ConfigError)


def written_pages() -> dict[str, str]:
    """The Markdown of the pages in the repository, by path."""
    paths = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def commands_on(texts: Iterable[str]) -> list[str]:
    """All commands on pages, each once, sorted."""
    return sorted({command for text in texts for command in commands_in(text)})


def entry_of(command: str, known: list[Entry]) -> Entry | None:
    """The first entry that a command begins with; None if there is none."""
    return next((entry for entry in known if command.startswith(entry.begins)), None)


def tested_page(texts: Iterable[str]) -> str:
    """The Markdown of the list of commands on pages with these texts."""
    known = read_commands().commands
    found: dict[str, list[str]] = {}
    for command in commands_on(texts):
        entry = entry_of(command, known)
        found.setdefault(entry.status if entry else "Not listed", []).append(command)
    lead = (
        "Every command on these pages, and how it is tested. The real parser checks the options of all `mmrs-bench` "
        "commands."
    )
    parts = [f"{status[0].upper()}{status[1:]}:\n\n" + block("\n".join(found[status])) for status in sorted(found)]
    return "\n\n".join(["# Commands that are tested", lead, *parts]) + "\n"


def commands_in(text: str) -> list[str]:
    """The commands in the blocks of a Markdown page, in order: one line each, without comments."""
    found = []
    for _, language, content in _BLOCK.findall(text):
        if language not in _SHELL:
            continue
        for line in re.sub(r"\\\n\s*", "", content).splitlines():
            command = _without_comment(line.strip()).rstrip("& ")
            if command.startswith(_PROGRAMS):
                found.append(command)
    return found


def _without_comment(line: str) -> str:
    return re.split(r"\s+#\s", line)[0].strip()
