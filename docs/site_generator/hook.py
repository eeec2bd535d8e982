"""Hook of MkDocs: adds the generated pages, and makes links and formulas of the others work on the site."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from site_generator import pages, repository
from site_generator.markdown import with_formulas

#: Pages and files that are generated: place on the site -> content.
_generated: dict[str, str | bytes] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Generate the pages, and list them in the navigation."""
    _generated.clear()
    _generated.update(pages.generated_files())
    config.nav = pages.with_generated(config.nav, _generated)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and those that show files which others link to."""
    written = [file.src_uri for file in files if file.src_uri.endswith(".md")]
    texts = {f"docs/{place}": pages.completed((repository.DOCS / place).read_text("utf-8"), place) for place in written}
    texts |= {path: str(_generated[place]) for place, path in _origins().items()}
    linked = {file for path, text in texts.items() for file in repository.linked_files(text, path)}
    for path in sorted(repository.with_members(linked)):
        _generated[f"{repository.SOURCES}/{path}.md"] = repository.source_page(path)
    for place, content in _generated.items():
        hidden = place.startswith(f"{repository.SOURCES}/")
        file = File.generated(config, place, content=content)
        files.append(file)
        if hidden:
            file.inclusion = file.inclusion.NOT_IN_NAV
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files of the repository lead to pages of the site, and draw figures."""
    place = page.file.src_uri
    if place.startswith(f"{repository.SOURCES}/"):
        return markdown
    origin = _origins().get(place, f"docs/{place}")
    return repository.with_site_links(pages.completed(markdown, place), origin, place)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draw formulas."""
    return with_formulas(html)


def _origins() -> dict[str, str]:
    """Generated pages by place, with the path in the repository that their links start from."""
    places = {place: path for path, place in repository.ROOT_PAGES.items()}
    return {
        place: places.get(place, f"docs/{place}")
        for place in _generated
        if place.endswith(".md") and not place.startswith(f"{repository.SOURCES}/")
    }


__all__: list[Any] = ["on_config", "on_files", "on_page_content", "on_page_markdown"]
