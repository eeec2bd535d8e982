"""``list`` and ``version``."""

from __future__ import annotations

from typing import get_args

from mmrs_bench.commands.output import say, say_columns
from mmrs_bench.config import QUERY_LIMITS, SplitName
from mmrs_bench.methods.catalogue import CARD_DIR, method_cards
from mmrs_bench.paths import shown_path
from mmrs_bench.scenes.catalogue import load_manifest, shipped_names
from mmrs_bench.version import __version__

_SPLITS: dict[SplitName, str] = {
    "random-v1": "support drawn from all labelled pixels; comparable with papers, but windows overlap",
    "block-v1": "support and query in spatially disjoint blocks, with a buffer of one window",
    "official-v1": "train and test pixels of the scene's publisher, for scenes that have them",
}


def list_names(*, what: str | None) -> int:
    """Print the names of methods, datasets, splits or budgets; None prints all of them."""
    lists = {"methods": _methods, "datasets": _datasets, "splits": _splits, "budgets": _budgets}
    if what is not None:
        lists[what]()
        return 0
    for number, (name, show) in enumerate(lists.items()):
        if number:
            say()
        say(f"{name}:")
        show()
    return 0


def show_version() -> int:
    """Print the version."""
    say(__version__)
    return 0


def _methods() -> None:
    rows = [("method", "variants", "selection", "weights", "title")]
    for card in method_cards().values():
        variants = ", ".join(name for name in card.variants if name != "default") or "-"
        weights = ", ".join(card.needs_weights) or "-"
        rows.append((card.name, variants, ", ".join(card.selections), weights, card.title))
    say_columns(rows)


def _datasets() -> None:
    rows = [("dataset", "size", "classes", "modalities", "official split", "title")]
    for name in shipped_names():
        manifest = load_manifest(name)
        modalities = " + ".join(f"{m.name} {m.bands}" for m in manifest.modalities)
        official = "yes" if manifest.official_split else "-"
        size, classes = f"{manifest.height} x {manifest.width}", str(len(manifest.classes))
        rows.append((name, size, classes, modalities, official, manifest.title))
    say_columns(rows)


def _splits() -> None:
    say_columns((name, _SPLITS[name]) for name in get_args(SplitName))


def _budgets() -> None:
    rows = [("budget", "query pixels", f"training lengths are in {shown_path(CARD_DIR)}/*.yaml")]
    rows += [(name, "all" if limit is None else f"at most {limit}", "") for name, limit in QUERY_LIMITS.items()]
    say_columns(rows)
