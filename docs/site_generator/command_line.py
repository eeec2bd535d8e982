"""The reference of the commands, from the parser itself."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from mmrs_bench.cli.parser import build_parser
from site_generator.markdown import block, code, table
from site_generator.repository import ROOT

#: Options that as many commands have are described once.
_COMMON = 4
#: Options that the parser adds to every command, or whose command line is Lightning's.
_LEFT_OUT = {"help", "print_config"}
_LIGHTNING = ("fit", "validate", "test")


def commands_page() -> str:
    """The Markdown of the reference of all commands and make targets."""
    commands = dict(_commands(build_parser()))
    rows = {name: [_row(action) for action in _options(parser)] for name, (parser, _) in commands.items()}
    times = Counter(tuple(row) for several in rows.values() for row in several)
    common = [row for row in rows["run"] if times[tuple(row)] >= _COMMON]
    parts = [
        "# Commands",
        "This page is generated from the parser of `mmrs-bench`. `mmrs-bench COMMAND --help` prints the same options.",
        "Exit status: 0 success, 1 failure or loss of accuracy, 2 wrong input, 130 stopped by Ctrl-C.",
        table(("command", "what it does"), [(f"[`{n}`](#{_anchor(n)})", text) for n, (_, text) in commands.items()]),
        "## Options of several commands",
        "Most of them describe the cells, so `run`, `plan`, `map` and `sweep` share them.",
        table(("option", "values", "default", "meaning"), common),
    ]
    for name, (parser, text) in commands.items():
        parts += _section(name, parser, text, [row for row in rows[name] if row not in common], rows[name], common)
    return "\n\n".join([*parts, *_make_section()]) + "\n"


def _commands(parser: Any, group: str = "") -> Iterator[tuple[str, tuple[Any, str]]]:
    """Names of all commands with their parsers and help texts; those with actions come as ``group action``."""
    subcommands = parser._subcommands_action
    texts = {choice.dest: choice.help for choice in subcommands._choices_actions}
    groups = []
    for name, inner in subcommands._name_parser_map.items():
        if getattr(inner, "_subcommands_action", None) is not None:
            groups.append((name, inner))
        else:
            yield f"{group}{name}", (inner, texts[name])
    for name, inner in groups:
        yield from _commands(inner, f"{name} ")


def _options(parser: Any) -> list[argparse.Action]:
    return [action for action in parser._actions if action.dest not in _LEFT_OUT]


def _row(action: argparse.Action) -> tuple[str, str, str, str]:
    names = " ".join(code(name) for name in action.option_strings) or code(str(action.metavar or action.dest))
    return names, _values(action), _default(action), (action.help or "").replace("%%", "%")


def _values(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "–"
    kind = " ".join(code(str(choice)) for choice in action.choices or ()) or _kind(action)
    return kind + {"+": ", one or more", "*": ", any number", "?": ", optional"}.get(str(action.nargs), "")


def _kind(action: Any) -> str:
    hint = str(getattr(action, "_typehint", None) or "text")
    for name, words in (("dict", "NAME VALUE"), ("int", "number"), ("float", "number"), ("str", "text")):
        if name in hint:
            return words
    return "text"


def _default(action: argparse.Action) -> str:
    value = action.default
    if value is None or isinstance(value, bool) or value in ("", [], {}, argparse.SUPPRESS):  # 0 is False for `in`
        return "required" if action.required else "–"
    return " ".join(code(str(each)) for each in (value if isinstance(value, list) else [value]))


def _section(
    name: str, parser: Any, text: str, own: Sequence[Any], every: Sequence[Any], common: Sequence[Any]
) -> list[str]:
    parts = [
        f"## {name} {{ #{_anchor(name)} }}",
        f"{text[0].upper()}{text[1:]}.",
        block(_usage(name, parser)),
    ]
    if name in _LIGHTNING:
        return [*parts, "Its options are those of LightningCLI: [Lightning](../lightning.md)."]
    if own:
        parts.append(table(("option", "values", "default", "meaning"), own))
    if len(own) < len(every):
        shared = " ".join(row[0].split(" ")[0] for row in every if row in common)
        parts.append(f"Also the [options of several commands](#options-of-several-commands) {shared}.")
    return parts


def _usage(name: str, parser: Any) -> str:
    places = [action for action in _options(parser) if not action.option_strings]
    words = [f"[{_word(place)}]" if place.nargs == "?" else _word(place) for place in places]
    required = [f"{a.option_strings[0]} {a.dest.upper()}" for a in _options(parser) if a.option_strings and a.required]
    return " ".join(["mmrs-bench", name, *words, *required, "[options]"])


def _word(action: argparse.Action) -> str:
    word = str(action.metavar or action.dest).upper()
    return f"{word} [{word} ...]" if action.nargs == "+" else word


def _anchor(name: str) -> str:
    return f"mmrs-bench-{name.replace(' ', '-')}"


def _make_section() -> list[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):.*?## (.*)", text, re.MULTILINE)
    settings = re.findall(r"^([A-Z]+) \?= *(.*)", text, re.MULTILINE)
    return [
        "## make",
        "Targets of the Makefile, for work in a checkout. Each calls one of the commands above, or a tool.",
        table(("target", "what it does"), [(code(f"make {name}"), words) for name, words in targets]),
        'Settings, for example `make bench SHOTS="2 5" DRAWS=10`:',
        table(("setting", "default"), [(code(name), code(value) if value else "–") for name, value in settings]),
    ]
