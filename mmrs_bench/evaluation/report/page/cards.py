"""What the page shows of a method's card."""

from __future__ import annotations

import json
from typing import Any

from mmrs_bench.config import MethodSpec

#: Where the folders of shipped methods are, one for each family.
_PACKAGE = "mmrs_bench.methods."
#: Family of a method without an installed card, or whose class is in a file of its own.
OTHER = "other"


def family_of(card: MethodSpec | None) -> str:
    """The family of a method: the folder of its class below ``mmrs_bench.methods``, or the name of another package."""
    module = card.class_path.partition(":")[0] if card else ""
    if not module or not all(part.isidentifier() for part in module.split(".")):
        return OTHER
    return module.removeprefix(_PACKAGE).partition(".")[0]


def card_data(card: MethodSpec) -> dict[str, Any]:
    """The fields of a card that readers of results need; settings are JSON text."""
    return {
        "name": card.name,
        "title": card.title,
        "reference": card.reference,
        "version": card.version,
        "family": family_of(card),
        "class": card.class_path.rpartition("/")[2],
        "selections": card.selections,
        "unlabelled": card.uses_unlabelled,
        "external": card.external_data,
        "weights": card.needs_weights,
        "settings": json.dumps(card.config, indent=1, default=str),
        "budgets": {name: json.dumps(changes, default=str) for name, changes in card.budgets.items()},
        "variants": [
            [name, variant.unranked, json.dumps(variant.config, default=str)] for name, variant in card.variants.items()
        ],
    }
