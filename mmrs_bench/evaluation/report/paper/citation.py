"""BibTeX of what some results use, and their protocol in words for the methods section of a paper."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from mmrs_bench.config import MethodSpec
from mmrs_bench.evaluation.report.entries import Group, mean_leakage
from mmrs_bench.evaluation.report.render import latex_escape
from mmrs_bench.evaluation.report.statistics import separable
from mmrs_bench.scenes.catalogue import load_manifest, shipped_names
from mmrs_bench.texts import one_line
from mmrs_bench.version import __version__

#: Entry of the suite; the same title as in CITATION.cff.
SUITE_KEY = "mmrs-bench"
_TITLE = "mmrs-bench: few-shot land-cover classification with multimodal remote sensing on one honest protocol"
SUITE = f"""\
@misc{{{SUITE_KEY},
  author = {{{{The mmrs-bench developers}}}},
  title  = {{{{{_TITLE}}}}},
  note   = {{software, version {__version__}}},
}}
"""
_ENTRY = re.compile(r"^(?=@)", re.MULTILINE)
_KEY = re.compile(r"^\s*@\w+\{\s*([^,\s]+)\s*,", re.MULTILINE)


def bibtex(groups: Iterable[Group], cards: Mapping[str, MethodSpec]) -> str:
    """Entries of the suite, the scenes and the methods of some results.

    Entries are those of manifests and cards, each once. A card without entries that names a paper in words has a
    ``misc`` with these words: replace it by the publisher's entry. Before the entries of methods stands what each
    reproduces; BibTeX ignores text outside of entries.
    """
    groups = list(groups)
    cited = [cards[name] for name in _methods(groups) if _cited(cards.get(name))]
    words = "".join(f"Method {card.name}: {one_line(card.reference)}\n" for card in cited).replace("@", "(at)")
    scenes = _split_entries(_scene_entries(groups).values())
    methods = (entry for entry in _split_entries(map(_method_entries, cited)) if entry not in scenes)
    return "\n".join([SUITE, *scenes, words, *methods])


def _split_entries(texts: Iterable[str]) -> list[str]:
    """The entries of several texts, each once: scenes, or methods, may share a paper."""
    parts = (part.strip() for text in texts for part in _ENTRY.split(text))
    return list(dict.fromkeys(f"{part}\n" for part in parts if part))


def methods_paragraph(groups: Sequence[Group], cards: Mapping[str, MethodSpec]) -> str:
    """The protocol of some results as LaTeX text: one paragraph for each split, window and budget."""
    families: dict[tuple[tuple[str, str], ...], list[Group]] = {}
    for group in groups:
        if group.ranked:
            same = tuple((k, v) for k, v in group.fields.items() if k not in ("scene", "shots"))
            families.setdefault(same, []).append(group)
    entries = _scene_entries(groups)
    return "\n\n".join(_paragraph(family, cards, entries) for family in families.values())


def _paragraph(groups: Sequence[Group], cards: Mapping[str, MethodSpec], entries: Mapping[str, str]) -> str:
    records = [record for group in groups for entry in group.ranked for record in entry.records]
    data = records[0].protocol.data
    draws = sorted({len(entry.draws) for group in groups for entry in group.ranked})
    seeds = sorted({len(entry.seeds) for group in groups for entry in group.ranked})
    rules = sorted({record.protocol.data.selection for record in records})
    leakage = [mean_leakage([r for e in g.ranked for r in e.records])["shared_window"] for g in groups]
    scored = f"at most {data.query_limit:,} query pixels were" if data.query_limit else "all query pixels were"
    modalities = f" Only the modalities {_and(data.modalities)} were used." if data.modalities else ""
    modalities += f" The HSI was reduced to {data.pca} principal components." if data.pca is not None else ""
    if data.drop:
        modalities += f" Predictions were made without the modalities {_and(data.drop)}, which training had."
    compared = any(separable([entry.by_draw("oa") for entry in group.ranked]) for group in groups)
    several = f" and {_range(seeds)} seeds of training" if seeds[-1] > 1 else ""
    version = groups[0].fields["version"].removeprefix("v")
    sentences = (
        f"Results were computed with mmrs-bench {version}~\\cite{{{SUITE_KEY}}}.{_imported(groups)}",
        f"{_trainings(groups, cards, entries)} (split {data.split}, windows of {data.window} x {data.window} pixels, "
        f"budget {records[0].protocol.budget}).{modalities}",
        f"Means and standard deviations are over {_range(draws)} draw{'s' if draws[-1] > 1 else ''} of the labelled "
        f"pixels{several}.",
        f"Each draw is the same for all methods, and {scored} scored.",
        f"The trained state was chosen by the rule {' or '.join(rules)}, without query labels.",
        f"Images were normalised by {data.normalisation}, fitted on the pixels of the {data.normalisation_scope}.",
        f"Methods that learn from unlabelled pixels took those of the {data.unlabelled}.",
        f"{_percent(leakage)} of the query windows share a pixel with a support window.",
        "Methods were compared over common draws by the exact two-sided Wilcoxon signed-rank test with Holm's "
        "correction at 0.05."
        if compared
        else "",
    )
    return " ".join(filter(None, sentences))


def _trainings(groups: Sequence[Group], cards: Mapping[str, MethodSpec], entries: Mapping[str, str]) -> str:
    """Which methods were trained with which shots on which scenes; methods with the same ones together."""
    scenes = {
        g.fields["scene"]: _with_citation(g.scene_label, _entry_keys(entries.get(g.scene_id, ""))) for g in groups
    }
    shots: dict[tuple[str, str], dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for group in groups:
        for method in (entry.method_id for entry in group.ranked):
            shots[method.name, method.method][group.fields["scene"]].add(group.shots)
    trained: dict[str, list[str]] = defaultdict(list)
    for (name, card), of_method in sorted(shots.items()):
        by_shots: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for scene, found in of_method.items():
            by_shots[tuple(sorted(found))].append(scenes[scene])
        texts = [
            f"{_and(map(str, counts))} labelled pixels of each class of {_and(dict.fromkeys(of_shots))}"
            for counts, of_shots in by_shots.items()
        ]
        cited = _entry_keys(_method_entries(cards[card])) if _cited(cards.get(card)) else ""
        trained[_and(texts)].append(_with_citation(name, cited))
    parts = (
        f"{_and(names)} {'was' if len(names) == 1 else 'were'} trained on {text}" for text, names in trained.items()
    )
    return "; ".join(parts)


def _imported(groups: Iterable[Group]) -> str:
    """A sentence about results of others, after a blank; empty if there are none."""
    methods = {entry.method_id for group in groups for entry in group.ranked if entry.method_id.origin}
    found = sorted({f"{method.name} by {method.origin}" for method in methods})
    return f" Those of {_and(_with_citation(text, '') for text in found)} were imported." if found else ""


def _percent(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return rf"{low}\,\%" if low == high else rf"{low} to {high}\,\%"


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _and(texts: Iterable[str]) -> str:
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def _with_citation(text: str, keys: str) -> str:
    # Text outside of entries must not contain an "@", so that all output can be one .bib file.
    shown = latex_escape(one_line(text)).replace("@", r"\char64{}")
    return f"{shown}~\\cite{{{keys}}}" if keys else shown


def _methods(groups: Iterable[Group]) -> list[str]:
    """Names of the ranked methods, sorted."""
    return sorted({entry.method_id.method for group in groups for entry in group.ranked})


def _cited(card: MethodSpec | None) -> bool:
    """Whether a card names something to cite."""
    return card is not None and bool(card.citation or not card.reference.startswith("none"))


def _method_entries(card: MethodSpec) -> str:
    """The entries of a card; without any, one with its words."""
    if card.citation:
        return card.citation
    title, note = latex_escape(one_line(card.title)), latex_escape(one_line(card.reference))
    return f"@misc{{{SUITE_KEY}-{card.name},\n  title = {{{{{title}}}}},\n  note  = {{{note}}},\n}}\n"


def _scene_entries(groups: Iterable[Group]) -> dict[str, str]:
    """The BibTeX entries of shipped manifests, by the id of their scene; a scene without an entry is left out."""
    tags = {group.fields["scene"].partition("@")[0]: group.scene_id for group in groups}
    found = {}
    for manifest in map(load_manifest, shipped_names()):
        if manifest.tag in tags and _entry_keys(manifest.citation):
            found[tags[manifest.tag]] = manifest.citation.strip() + "\n"
    return found


def _entry_keys(entries: str) -> str:
    """The keys of BibTeX entries as the argument of a citation."""
    return ",".join(_KEY.findall(entries))
