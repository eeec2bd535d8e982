"""Methods and scenes by name: the shipped ones, and those that installed packages add by entry point.

Cards are plain YAML, so listing and planning import no method's code. A third party registers a method with an
entry point of group ``mmrs_bench.methods`` whose value is a ``pathlib.Path`` of such a card, and a scene with one
of group ``mmrs_bench.scenes`` whose value is the path of a manifest.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrs_bench.config import BudgetName, MethodSpec
from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.paths import BENCHMARK_DIR
from mmrs_bench.plugins import entry_point_paths
from mmrs_bench.reading import read_yaml, validated

if TYPE_CHECKING:
    pass


METHOD_GROUP = "mmrs_bench.methods"
CARD_DIR = BENCHMARK_DIR / "methods"


def read_method_card(path: Path) -> MethodSpec:
    """Read one method card.

    A card with ``extends: NAME`` starts from the fields of another card, in the same folder or among the shipped ones.
    Its ``config`` and ``budgets`` are merged into that card's key by key; every other field replaces that card's.

    Raises:
        ConfigError: If the file cannot be read or a field is wrong; file and field are named.
    """
    return validated(MethodSpec, _card_fields(path, ()), where=path, error=ConfigError)


def _card_fields(path: Path, extended_by: tuple[Path, ...]) -> Any:
    fields = read_yaml(path, error=ConfigError, advice="give the path of a method card (.yaml)")
    if not isinstance(fields, dict) or "extends" not in fields:
        return fields
    name = fields.pop("extends")
    candidates = [folder / f"{name}.yaml" for folder in (path.parent, CARD_DIR)]
    base_path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if base_path is None:
        raise ConfigError(f"{path}: extends {name!r}, but there is no {name}.yaml in {path.parent} or {CARD_DIR}")
    chain = (*extended_by, path)
    if base_path in chain:
        raise ConfigError(f"{path}: extends {name!r}, which extends this card; remove one of the two")
    return _merged(_card_fields(base_path, chain), fields)


def _merged(base: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """The fields of a base card with those of a card that extends it."""
    fields = {**base, **changes}
    for name in ("config", "budgets"):
        old, new = base.get(name), changes.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            fields[name] = {**old, **new}
            if name == "budgets":
                for budget in old.keys() & new.keys():
                    fields[name][budget] = {**old[budget], **new[budget]}
    return fields


@cache
def method_cards() -> dict[str, MethodSpec]:
    """All known methods by name.

    Raises:
        ConfigError: If a card is faulty, two cards share a name, or an entry point does not give a card's path.
    """
    paths = sorted(CARD_DIR.glob("*.yaml"))
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
