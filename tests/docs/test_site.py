"""The built site: it builds in strict mode, loads nothing from elsewhere, and its links, anchors and search work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from helpers.browser import ABSENT, CHROMIUM, DRIVER, Browser, open_browser

from mmrs_bench.paths import REPOSITORY

#: Attributes whose address a browser loads without a click.
LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("link", "href"), ("source", "src")}


class Page(HTMLParser):
    """Links, loaded addresses and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id" and value:
                self.anchors.add(value)
            elif (tag, name) in LOADED and value:
                self.loaded.add(value)
            elif (tag, name) == ("a", "href") and value:
                self.links.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as by ``make docs``."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    # The report draws its content by a script; its own tests follow its links.
    found = [path for path in site.rglob("*.html") if path.name not in ("report.html", "404.html")]
    return {path: Page(path.read_text(encoding="utf-8")) for path in found}


def test_make_docs_sets_up_if_needed_and_builds_in_strict_mode(tmp_path: Path) -> None:
    command = ["make", "--dry-run", "docs", f"VENV={tmp_path / 'none'}"]
    own = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, cwd=REPOSITORY, env=own, check=True, capture_output=True, text=True)
    assert "-m venv" in done.stdout
    assert "mkdocs build --strict" in done.stdout


def inside(address: str) -> bool:
    return bool(address) and not re.match(r"[a-z]+:|//", address)


def test_links_and_anchors_exist(pages: dict[Path, Page]) -> None:
    assert len(pages) > 60
    for path, page in pages.items():
        for link in page.links | page.loaded:
            place, anchor = urldefrag(link)
            if not inside(link):
                continue
            target = (path.parent / unquote(place)).resolve() if place else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.name}: {link}"
            if anchor and target in pages:
                assert unquote(anchor) in pages[target].anchors, f"{path.name}: {link}"


def test_pages_load_nothing_from_elsewhere(pages: dict[Path, Page], site: Path) -> None:
    for path, page in pages.items():
        assert all(map(inside, page.loaded)), f"{path.name}: {sorted(page.loaded)}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style.name


def test_code_of_the_generator_is_no_part_of_the_site(site: Path) -> None:
    assert not list(site.rglob("*.py"))
    assert not (site / "commands.yaml").exists()
    assert (site / "report.html").stat().st_size > 50_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not (CHROMIUM and DRIVER):
        pytest.skip(ABSENT)
    with open_browser() as opened:
        yield opened


def test_pages_open_from_a_disk_without_messages(browser: Browser, site: Path) -> None:
    for page in (
        "index",
        "quickstart",
        "concepts/leakage",
        "methods/bdgf",
        "scenes/trento",
        "results",
        "reference/api",
    ):
        browser.get((site / f"{page}.html").as_uri())
        browser.wait_for("document.querySelector('.md-search__input') !== null")
        assert browser.messages() == [], page


def test_the_search_works_from_a_disk(browser: Browser, site: Path) -> None:
    browser.get((site / "index.html").as_uri() + "?q=leakage")
    browser.wait_for("document.querySelectorAll('.md-search-result__link').length > 3")
    assert "Leakage" in browser.texts(".md-search-result__item h1")[0]


def test_pages_fit_a_phone(browser: Browser, site: Path) -> None:
    browser.narrow(390)
    try:
        for page in ("index", "quickstart", "methods/bdgf", "methods/diffclip", "scenes/index", "reference/commands"):
            browser.get((site / f"{page}.html").as_uri())
            assert browser.run("return document.documentElement.scrollWidth") <= 390, page
    finally:
        browser.narrow(0)


def test_the_report_is_shown_on_the_page_of_results(browser: Browser, site: Path) -> None:
    browser.get((site / "results.html").as_uri())
    assert browser.run("return document.querySelector('iframe.report').getBoundingClientRect().width") > 1000
    browser.get((site / "report.html").as_uri())
    assert "committed results" in browser.run("return document.body.textContent")
    assert browser.messages() == []
