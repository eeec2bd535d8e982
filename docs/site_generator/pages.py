"""All generated pages of the site, and what is added to written ones."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from mmrs_bench.api.results import load_results
from mmrs_bench.evaluation.report.entries import group_records
from mmrs_bench.evaluation.report.leaderboard import ranking
from mmrs_bench.evaluation.report.page.document import build_document
from mmrs_bench.evaluation.report.page.page import render_page
from mmrs_bench.evaluation.report.reported import load_reported
from mmrs_bench.methods.catalogue import method_cards
from site_generator import command_line, diagrams, fields, methods, scenes, tested
from site_generator.repository import DOCS, ROOT, ROOT_PAGES
from site_generator.tutorials import tutorial_page

#: Committed records.
RESULTS = ROOT / "benchmarks" / "results"
#: A comment of a page in whose place the site has a diagram: its name and its caption.
_FIGURE = re.compile(r"^<!-- figure ([\w-]+): (.*?) -->$", re.MULTILINE | re.DOTALL)
_GENERATED = "/*"


def generated_files() -> dict[str, str | bytes]:
    """Content of all generated pages and files by their place on the site."""
    found: dict[str, str | bytes] = {place: (ROOT / path).read_text("utf-8") for path, place in ROOT_PAGES.items()}
    for script in sorted((DOCS / "tutorials").glob("*.py")):
        found[f"tutorials/{script.stem}.md"] = tutorial_page(script)
    for name, (path, manifest) in scenes.scene_manifests().items():
        found[f"scenes/{name}.md"] = scenes.scene_page(name, path, manifest)
    found |= {
        "scenes/index.md": scenes.scenes_index(),
        "methods/index.md": methods.methods_index(),
        "reference/commands.md": command_line.commands_page(),
        "reference/manifest.md": fields.manifest_page(),
        "reference/record.md": fields.record_page(),
        "reference/card.md": fields.card_page(),
        "report.html": _report(),
    }
    found["reference/tested-commands.md"] = tested.tested_page(all_texts(found))
    return found


def all_texts(generated: dict[str, str | bytes]) -> list[str]:
    """The Markdown of all pages, written and generated."""
    return [
        *tested.written_pages().values(),
        *(str(text) for place, text in generated.items() if place.endswith(".md")),
    ]


def completed(markdown: str, place: str) -> str:
    """A page's Markdown with its diagrams and, on a page of methods, with their cards."""
    markdown = _FIGURE.sub(lambda found: diagrams.figure(found[1], " ".join(found[2].split())), markdown)
    path = PurePosixPath(place)
    if path.parent == PurePosixPath("methods") and path.stem != "index":
        markdown += "\n" + methods.cards_section(path.stem)
    return markdown


def with_generated(nav: Any, generated: dict[str, Any]) -> Any:
    """A navigation in which an entry ``folder/*`` is replaced by the generated pages of the folder."""
    if isinstance(nav, dict):
        return {title: with_generated(entry, generated) for title, entry in nav.items()}
    if not isinstance(nav, list):
        return nav
    entries: list[Any] = []
    for entry in nav:
        if isinstance(entry, str) and entry.endswith(_GENERATED):
            folder = PurePosixPath(entry.removesuffix(_GENERATED))
            inside = [place for place in generated if PurePosixPath(place).parent == folder]
            entries += [{PurePosixPath(place).stem: place} for place in inside if not place.endswith("index.md")]
        else:
            entries.append(with_generated(entry, generated))
    return entries


def _report() -> str:
    """The interactive page of the committed records."""
    found = load_results(RESULTS)
    groups = group_records(found.records, found.failures)
    document = build_document(groups, [ranking(group) for group in groups], load_reported(), method_cards())
    return render_page(document, title="mmrs-bench: committed results")
