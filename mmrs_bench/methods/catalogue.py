"""Methods and scenes by name: the shipped ones, and those that installed packages add by entry point.

Cards are plain YAML, so listing and planning import no method's code. A third party registers a method with an
entry point of group ``mmrs_bench.methods`` whose value is a ``pathlib.Path`` of such a card, and a scene with one
of group ``mmrs_bench.scenes`` whose value is the path of a manifest.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from mmrs_bench.config import BudgetName, MethodSpec
from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.paths import BENCHMARK_DIR
from mmrs_bench.plugins import entry_point_paths

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


METHOD_GROUP = "mmrs_bench.methods"


def read_method_card(path: Path) -> MethodSpec:
    """Read one method card.

    Raises:
        ConfigError: If the file cannot be read or a field is wrong; file and field are named.
    """
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        return MethodSpec.model_validate(fields)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as a method card: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {'; '.join(map(_describe, error.errors()))}") from error


def _describe(fault: ErrorDetails) -> str:
    field = ".".join(map(str, fault["loc"])) or "(whole card)"
    known = {
        "missing": "is missing; add it",
        "extra_forbidden": f"is not a field of a method card; the fields are {', '.join(MethodSpec.model_fields)}",
    }
    other = f"{fault['msg']} (found {fault['input']!r})"
    return f"{field}: {known.get(fault['type'], other)}"


@cache
def method_cards() -> dict[str, MethodSpec]:
    """All known methods by name.

    Raises:
        ConfigError: If a card is faulty, two cards share a name, or an entry point does not give a card's path.
    """
    paths = sorted((BENCHMARK_DIR / "methods").glob("*.yaml"))
    paths += [path for _, path in entry_point_paths(METHOD_GROUP)]
    cards: dict[str, MethodSpec] = {}
    for path in paths:
        card = read_method_card(path)
        if card.name in cards:
            raise ConfigError(f"{path}: the method name {card.name!r} is taken; choose another name")
        cards[card.name] = card
    return cards


def method_card(name: str) -> MethodSpec:
    """The card of a method.

    Raises:
        ConfigError: If there is no such method; the nearest names are suggested.
    """
    cards = method_cards()
    if name not in cards:
        raise unknown_name("method", name, cards)
    return cards[name]


def resolve_config(card: MethodSpec, variant: str, budget: BudgetName) -> dict[str, Any]:
    """A method's settings under a budget and variant (defaults, then budget, then variant).

    Raises:
        ConfigError: If the variant is unknown, or a budget or variant names a setting that has no default.
    """
    if variant not in card.variants:
        raise unknown_name(f"variant of {card.name}", variant, card.variants)
    config = dict(card.config)
    for where, changes in (
        (f"budget {budget}", card.budgets.get(budget, {})),
        (f"variant {variant}", card.variants[variant].config),
    ):
        for name in changes:
            if name not in config:
                raise unknown_name(f"setting in {where} of {card.name}", name, config)
        config.update(changes)
    return config
