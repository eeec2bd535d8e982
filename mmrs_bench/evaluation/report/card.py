"""The protocol card, which is printed with every table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized

from mmrs_bench.evaluation.report.entries import Entry, Group, mean_leakage
from mmrs_bench.evaluation.report.statistics import separable
from mmrs_bench.evaluation.results.schema import Record

#: Labels and texts.
Card = Sequence[tuple[str, str]]


def protocol_card(group: Group, entries: Sequence[Entry]) -> tuple[tuple[str, str], ...]:
    """Label and text of everything that is needed to interpret or repeat a table of these entries (at least one)."""
    records = [record for entry in entries for record in entry.records]
    first = records[0]
    data = first.protocol.data
    draws, seeds = _counts(entry.draws for entry in entries), _counts(entry.seeds for entry in entries)
    modalities = " + ".join(f"{name} ({channels})" for name, channels in first.modalities.items())
    missing = f"; predicted without {' + '.join(data.drop)}, whose mean stands in its place" if data.drop else ""
    limit = f", at most {data.query_limit:,} query pixels scored" if data.query_limit else ""
    labels = sorted({r.labels_used for r in records})
    rules = " or ".join(sorted({entry.method_id.selection for entry in entries}))
    scope = "scene (transductive, without labels)" if data.unlabelled == "scene" else data.unlabelled
    leakage = mean_leakage(records)
    if separable([entry.by_draw("oa") for entry in entries]):
        groups = "a group is not separable from its best (exact paired Wilcoxon over common draws, Holm, 0.05)"
    else:
        groups = "no groups, because there are too few common draws or methods"
    return (
        ("scene", f"{first.protocol.scene} (fingerprint {first.protocol.scene_fingerprint[:8]})"),
        ("modalities", f"{modalities or '–'}; {len(first.class_names)} classes{missing}"),
        (
            "protocol",
            f"{data.split}, shots {data.shots}, draws {draws} (nested over shots), seeds per draw {seeds}, "
            f"window {data.window} (borders reflected), budget {first.protocol.budget}{limit}",
        ),
        ("labels", f"selection {rules}; labels used {'/'.join(map(str, labels))}; unlabelled pixels: {scope}"),
        ("input", f"{data.normalisation} fitted on {data.normalisation_scope}; PCA {data.pca or 'none'}"),
        (
            "leakage",
            f"query windows sharing a pixel with a support window {leakage['shared_window']:.1f} %, containing a "
            f"support pixel {leakage['centre_inside']:.1f} %; query pixels in a polygon of a support pixel "
            f"{leakage['same_component']:.1f} %",
        ),
        ("score", f"mean ± sd (ddof 1) over draws, in percent; {groups}"),
        ("code", _code(records)),
        ("signature", group.signature(entries)),
    )


def _counts(found: Iterable[Sized]) -> str:
    """How many there are, as a range if the numbers differ."""
    low, *others = sorted(set(map(len, found)))
    return f"{low}-{others[-1]}" if others else str(low)


def merged_card(cards: Iterable[tuple[int, Card]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The cards of several shot counts of one protocol as one: labels, each with its texts and their shots.

    A text that is equal for all shots stands there once, without shots.
    """
    lines: dict[str, dict[int, str]] = {}
    for shots, card in cards:
        for label, text in card:
            lines.setdefault(label, {})[shots] = text
    return [(label, _once(texts)) for label, texts in lines.items()]


def _once(texts: Mapping[int, str]) -> list[tuple[str, str]]:
    if len(set(texts.values())) == 1:
        return [("", next(iter(texts.values())))]
    return [(f"{shots} shot{'' if shots == 1 else 's'}", text) for shots, text in texts.items()]


def _code(records: Sequence[Record]) -> str:
    def alternatives(values: Iterable[str]) -> str:
        return " / ".join(value for value, _ in Counter(values).most_common(3))

    states = alternatives(
        "no checkout"
        if r.provenance.commit is None
        else f"{r.provenance.commit[:7]} {'dirty' if r.provenance.dirty else 'clean'}"
        for r in records
    )
    torch = alternatives(r.provenance.packages.get("torch", "none") for r in records)
    devices = alternatives(f"{r.execution.device} {r.execution.precision}" for r in records)
    return f"v{records[0].protocol.code_version} @ {states}; torch {torch}; device {devices}"
