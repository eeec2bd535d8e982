"""Pages of methods: the list of all of them, and what the pages of families take from the cards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mmrs_bench.config import MethodSpec
from mmrs_bench.evaluation.report.page.cards import family_of
from mmrs_bench.methods.catalogue import method_cards
from site_generator.markdown import code, details, table

#: Families by page; a page tells of one paper or one kind of method.
PAGES = {
    "classical": "classical",
    "cnn": "cnn",
    "coupled_cnn": "coupled-cnn",
    "endnet": "endnet",
    "lds2ae": "lds2ae",
    "mivit": "mivit",
    "msfmamba": "msfmamba",
    "mft": "mft",
    "exvit": "exvit",
    "clip": "diffclip",
    "bdgf": "bdgf",
    "s2enet": "s2enet",
    "hct": "hct",
    "unidiff": "unidiff",
}
_BUDGETS = ("smoke", "quick", "paper")


def methods_index() -> str:
    """The Markdown of the list of methods."""
    rows = []
    for card in method_cards().values():
        rows.append((f"[{card.name}]({_page(card)}.md#card-{card.name})", card.title, _needs(card), _learns(card)))
    lead = (
        "Every method has a card, a YAML file with all of its settings. `--methods all` means those that need no "
        "pretrained weights and are no ablation or probe of another one. `mmrs-bench list methods` prints this list. "
        "[Add your own](../adding-a-method.md)."
    )
    columns = ("method", "what it is", "needs", "learns from")
    return "\n\n".join(["# Methods", lead, table(columns, rows)]) + "\n"


def cards_section(page: str) -> str:
    """The cards of the methods that a page tells of; empty if it is no page of methods.

    Args:
        page: Name of the page in ``docs/methods``.
    """
    cards = [card for card in method_cards().values() if _page(card) == page]
    return "\n\n".join(["## Cards", *(_card(card) for card in cards)]) + "\n" if cards else ""


def _page(card: MethodSpec) -> str:
    return PAGES[family_of(card)]


def _needs(card: MethodSpec) -> str:
    return ", ".join(code(name) for name in card.needs_weights) or "–"


def _learns(card: MethodSpec) -> str:
    pixels = "labels and unlabelled pixels" if card.uses_unlabelled else "labels"
    return pixels + (f"; weights from {card.external_data}" if card.external_data != "none" else "")


def _card(card: MethodSpec) -> str:
    facts = [
        ("reference", card.reference),
        ("class", code(card.class_path)),
        ("version", str(card.version)),
        ("learns from", _learns(card)),
        ("needs", _needs(card)),
        ("selection rules", ", ".join(map(code, card.selections))),
        ("card", f"[benchmarks/methods/{card.name}.yaml](../../benchmarks/methods/{card.name}.yaml)"),
    ]
    parts = [f"### {card.name} {{ #card-{card.name} }}", card.title, table(("", ""), facts)]
    if card.config:
        parts.append(details(f"Settings of {card.name} by budget", table(("setting", *_BUDGETS), _settings(card))))
    changed = {name: variant for name, variant in card.variants.items() if name != "default"}
    if changed:
        rows = [(code(f"{card.name}:{n}"), _changes(v.config), v.unranked or "–") for n, v in changed.items()]
        parts.append(details(f"Variants of {card.name}", table(("variant", "changes", "never ranked, because"), rows)))
    return "\n\n".join(parts)


def _settings(card: MethodSpec) -> list[Sequence[str]]:
    return [
        (code(name), *(_value({**card.config, **card.budgets.get(budget, {})}[name]) for budget in _BUDGETS))  # type: ignore[call-overload]
        for name in card.config
    ]


def _changes(config: dict[str, Any]) -> str:
    return ", ".join(f"{code(name)} {_value(value)}" for name, value in config.items()) or "–"


def _value(value: Any) -> str:
    return code(value if isinstance(value, str) else json.dumps(value, default=str))
