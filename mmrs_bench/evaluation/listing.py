"""Tables of the known methods and scenes. Building them imports no code of methods and reads no images."""

from __future__ import annotations

from mmrs_bench.evaluation.report.tables import Column, Section, Table, Value
from mmrs_bench.methods.catalogue import method_cards
from mmrs_bench.scenes.catalogue import load_manifest, shipped_names

METHOD_COLUMNS = (
    Column("name", "method", fixed=True),
    Column("variants", "variants"),
    Column("selections", "selection"),
    Column("weights", "weights"),
    Column("title", "title"),
    Column("reference"),
)
SCENE_COLUMNS = (
    Column("name", "dataset", fixed=True),
    Column("size", "size"),
    Column("classes", "classes", "number"),
    Column("modalities", "modalities"),
    Column("official_split", "official split"),
    Column("title", "title"),
)


def methods_table() -> Table:
    """The shipped and installed methods.

    Returns:
        A table with the columns ``name``, ``variants`` (without ``default``), ``selections``, ``weights`` (required
        checkpoints), ``title`` and ``reference``; several names are separated by commas.
    """
    rows: list[dict[str, Value]] = [
        {
            "name": card.name,
            "variants": ", ".join(name for name in card.variants if name != "default") or None,
            "selections": ", ".join(card.selections),
            "weights": ", ".join(card.needs_weights) or None,
            "title": card.title,
            "reference": card.reference,
        }
        for card in method_cards().values()
    ]
    return Table("methods", METHOD_COLUMNS, (Section("", tuple(rows)),), in_csv=True)


def scenes_table() -> Table:
    """The shipped and installed scenes, and the simulated twins of real ones.

    Returns:
        A table with the columns ``name``, ``size`` (height x width in pixels), ``classes``, ``modalities`` (with their
        channels), ``official_split`` (``yes`` or None) and ``title``.
    """
    rows: list[dict[str, Value]] = []
    for name in shipped_names():
        manifest = load_manifest(name)
        rows.append(
            {
                "name": name,
                "size": f"{manifest.height} x {manifest.width}",
                "classes": len(manifest.classes),
                "modalities": " + ".join(f"{m.name} {m.bands}" for m in manifest.modalities),
                "official_split": "yes" if manifest.official_split else None,
                "title": manifest.title,
            }
        )
    return Table("scenes", SCENE_COLUMNS, (Section("", tuple(rows)),), in_csv=True)
