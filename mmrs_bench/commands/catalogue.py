"""``list`` and ``version``."""

from __future__ import annotations

from typing import get_args

from mmrs_bench.commands.output import say, say_columns
from mmrs_bench.config import QUERY_LIMITS, SplitName
from mmrs_bench.evaluation.listing import methods_table, scenes_table
from mmrs_bench.evaluation.report.tables import Table
from mmrs_bench.methods.catalogue import CARD_DIR
from mmrs_bench.paths import shown_path
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
    _say_table(methods_table())


def _datasets() -> None:
    _say_table(scenes_table())


def _say_table(table: Table) -> None:
    say_columns([[column.title for column in table.shown], *map(table.texts, table.rows)])


def _splits() -> None:
    say_columns((name, _SPLITS[name]) for name in get_args(SplitName))


def _budgets() -> None:
    rows = [("budget", "query pixels", f"training lengths are in {shown_path(CARD_DIR)}/*.yaml")]
    rows += [(name, "all" if limit is None else f"at most {limit}", "") for name, limit in QUERY_LIMITS.items()]
    say_columns(rows)
