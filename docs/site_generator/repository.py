"""Links of pages to files of the repository that are no pages, and the pages that show these files."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

#: The checkout.
ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: Files outside ``docs`` that are pages of the site.
ROOT_PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
#: Links to these lead to another page.
MOVED = {"README.md": "index.md", "CITATION.cff": "citing.md"}
#: Folder of the pages that show files.
SOURCES = "source"
#: Files in ``docs`` that a page loads or offers as they are.
_STATIC = {".md", ".html", ".png", ".svg", ".csv", ".css"}
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".json": "json"}
_FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2[ ]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")


def linked_files(text: str, page: str) -> set[str]:
    """The files of the repository that a page links to and that get a page of their own.

    Args:
        text: The page's Markdown.
        page: Its path in the repository.
    """
    found = {_in_repository(link[1], page) for link in _LINK.finditer(_FENCE.sub("", text)) if _is_file(link[1])}
    return {path for path in found if _page_of(path).startswith(f"{SOURCES}/") and (ROOT / path).exists()}


def with_site_links(text: str, page: str, place: str) -> str:
    """A page's Markdown, with links that work on the site.

    Args:
        text: The Markdown.
        page: The page's path in the repository, which its links start from.
        place: The page's path on the site.
    """

    def link(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2] or ""
        if not _is_file(target):
            return found[0]
        return f"]({relpath(_page_of(_in_repository(target, page)), str(PurePosixPath(place).parent))}{anchor})"

    parts, start = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_LINK.sub(link, text[start : fence.start()]), fence[0]]
        start = fence.end()
    return "".join([*parts, _LINK.sub(link, text[start:])])


def source_page(path: str) -> str:
    """The Markdown of the page that shows a file, or lists a folder, of the repository."""
    file = ROOT / path
    if file.is_dir():
        names = sorted(child.name for child in file.iterdir() if child.suffix in _LANGUAGES)
        links = [f"- [{name}]({PurePosixPath(path).name}/{name}.md)" for name in names]
        return "\n".join([f"# {path}", "", *links, ""])
    text = file.read_text(encoding="utf-8")
    return f"# {path}\n\n```{_LANGUAGES.get(file.suffix, 'text')}\n{text.rstrip()}\n```\n"


def with_members(paths: set[str]) -> set[str]:
    """Paths, and the files that lie in those which are folders."""
    members = {
        f"{path}/{child.name}"
        for path in paths
        if (ROOT / path).is_dir()
        for child in (ROOT / path).iterdir()
        if child.suffix in _LANGUAGES
    }
    return paths | members


def _is_file(target: str) -> bool:
    return bool(target) and "://" not in target and not target.startswith("mailto:")


def _in_repository(target: str, page: str) -> str:
    return normpath(str(PurePosixPath(page).parent / target))


def _page_of(path: str) -> str:
    """The place on the site of what a path of the repository names."""
    inside = path.removeprefix("docs/")
    if path in ROOT_PAGES or path in MOVED:
        return (ROOT_PAGES | MOVED)[path]
    if inside != path and PurePosixPath(path).suffix in _STATIC:
        return inside
    if inside.startswith("tutorials/"):
        return f"{inside.removesuffix('.py')}.md"
    return f"{SOURCES}/{path}.md"
