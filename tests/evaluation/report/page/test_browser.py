"""The page in headless Chromium: sort, filter, search, open, follow links, narrow and printed pages, hostile names."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.pages import HOSTILE, hostile_records, page_of
from helpers.synthetic_records import fixed_set, make_record, varied_hits

from mmrs_bench.texts import printable

webdriver = pytest.importorskip("selenium.webdriver", reason="needs the package selenium (extra dev)")
Open = Callable[..., Any]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Chromium and its driver (Debian: chromium chromium-driver)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(20)
    yield driver
    driver.quit()


@pytest.fixture
def shown(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a page of records; afterwards the console must be empty."""

    def show(page: str, address: str = "") -> Any:
        path = tmp_path / "report.html"
        path.write_text(page, encoding="utf-8")
        browser.get(path.as_uri() + address)
        return browser

    browser.set_window_size(1400, 1000)
    yield show
    assert browser.get_log("browser") == [], "the console has messages"


def texts(browser: Any, selector: str) -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent.trim())", selector
    )
    return found


def click(browser: Any, selector: str) -> None:
    event = "new MouseEvent('click', { bubbles: true, cancelable: true })"  # links in figures have no method `click`
    browser.execute_script(f"document.querySelector(arguments[0]).dispatchEvent({event})", selector)


def wait_for(browser: Any, condition: str) -> None:
    """Wait until a JavaScript expression is true."""
    done = browser.execute_async_script(
        "const [condition, done] = arguments; const holds = new Function('return ' + condition);"
        "let tries = 0; (function again() { if (holds()) done(true); else if ((tries += 1) > 500) done(false);"
        "else setTimeout(again, 20); })()",
        condition,
    )
    assert done, condition


@pytest.fixture(scope="module")
def page() -> str:
    return page_of(*fixed_set())


METHODS = "#results .open span"


def test_a_click_on_a_heading_sorts_within_each_protocol(shown: Open, page: str) -> None:
    browser = shown(page)
    assert texts(browser, METHODS)[:3] == ["rf", "cnn:no-lidar", "rf-spatial"]
    click(browser, "[data-sort=label]")
    assert texts(browser, METHODS)[2:7] == ["cnn [last]", "majority", "rf-spatial", "svm", "cnn [paper-val]"]
    click(browser, "[data-sort=label]")
    assert texts(browser, METHODS)[2:6] == ["svm", "rf-spatial", "majority", "cnn [last]"], "unranked ones stay last"
    assert texts(browser, "[aria-sort=descending]") == ["Method▼"]


def test_one_list_sorts_over_all_protocols(shown: Open, page: str) -> None:
    browser = shown(page)
    click(browser, "#apart")
    click(browser, "[data-sort=oa]")
    values = [float(text.split(" ")[0]) for text in texts(browser, "#results tbody tr > td:nth-of-type(7)")]
    assert len(values) == 12
    assert values == sorted(values, reverse=True)
    for key in ("scene", "split", "shots", "budget", "family"):
        click(browser, f"[data-sort={key}]")
        assert len(texts(browser, METHODS)) == 12


def test_filters_and_search_leave_the_fitting_rows_and_can_be_linked(shown: Open, page: str) -> None:
    browser = shown(page)
    click(browser, "input[name=scene][value=trento]")
    click(browser, "input[name=shots][value='5']")
    assert texts(browser, "#count") == ["5 of 12 rows"]
    click(browser, "#ranked")
    assert texts(browser, "#count") == ["4 of 12 rows"]
    browser.execute_script(
        "const s = document.getElementById('search'); s.value = 'svm random'; s.dispatchEvent(new Event('input'))"
    )
    assert texts(browser, METHODS) == ["svm"]
    address = browser.current_url.partition("#")[2]
    assert texts(shown(page, f"#{address}"), METHODS) == ["svm"]
    click(browser, "#reset")
    wait_for(browser, "document.getElementById('count').textContent === '12 of 12 rows'")


def test_an_opened_row_leads_to_its_records_its_card_and_its_protocol(shown: Open, page: str) -> None:
    browser = shown(page)
    click(browser, "#row-3 .open")
    wait_for(browser, "document.querySelector('.details .draws')")
    assert texts(browser, ".details h4")[0] == "7 draws"
    assert texts(browser, ".details .classes tbody th") == ["water", "trees & shrubs", "roof_50%"]
    assert len(texts(browser, ".details .confusion td")) == 9
    assert "window shared with a support window 10.1 %" in texts(browser, ".details dd")[0]
    first = texts(browser, ".details .draws a")[0]
    click(browser, ".details .draws a")
    wait_for(browser, "document.getElementById('record').open")
    assert texts(browser, "#record-title") == ["svm, draw 0, seed 0"]
    assert texts(browser, "#record dd")[0] == f"{first} %"
    assert any("support-cv" in text for text in texts(browser, "#record pre"))
    click(browser, "#record .close")
    wait_for(browser, "!document.getElementById('record').open")
    click(browser, ".details a[href^='#method-']")
    wait_for(browser, "document.querySelector('.card.target h3')?.textContent === 'svm'")
    assert any("Melgani" in text for text in texts(browser, ".card.target dd"))
    shown(page, "#protocol-1")
    wait_for(browser, "document.querySelector('.card.target h3')?.textContent.startsWith('Trento')")


def test_the_keyboard_opens_a_row_and_closes_a_record(shown: Open, page: str) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = shown(page)
    browser.execute_script("document.querySelector('#row-0 .open').focus()")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    wait_for(browser, "document.querySelector('.details .draws a')")
    browser.execute_script("document.querySelector('.details .draws a').focus()")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    wait_for(browser, "document.getElementById('record').open")
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait_for(browser, "!document.getElementById('record').open")


def test_every_view_is_drawn_and_the_figures_show_the_filtered_methods(shown: Open) -> None:
    records = [
        make_record(method, varied_hits(quality + 5 * shots, draw), draw=draw, shots=shots, scene=f"{scene}-r1")
        for scene in ("muufl", "trento")
        for shots in (2, 5)
        for method, quality in (("rf", 150), ("svm", 120))
        for draw in range(3)
    ]
    browser = shown(page_of(records))
    panels = {"curves": 2, "dots": 4, "ranks": 2, "time": 4}
    for view, count in panels.items():
        click(browser, f"[data-view={view}]")
        assert len(texts(browser, "figure")) == count, view
        assert len(texts(browser, "figure:first-of-type .chart .mark")) == (4 if view == "curves" else 2), view
        bad = "return [...document.querySelectorAll('.chart *')].some((e) => /NaN|undefined/.test(e.outerHTML))"
        assert not browser.execute_script(bad), view
    for view in ("reported", "protocols", "methods"):
        click(browser, f"[data-view={view}]")
        assert texts(browser, "#main h3"), view
    click(browser, "[data-view=dots]")
    click(browser, "input[name=scene][value=muufl]")
    assert len(texts(browser, "figure")) == 2
    click(browser, "figure a")
    wait_for(browser, "document.querySelector('.details .draws')")


def test_a_narrow_page_does_not_scroll_sideways_and_the_theme_can_be_chosen(shown: Open, page: str) -> None:
    browser = shown(page)
    size = {"width": 360, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for view in ("table", "curves", "dots", "time", "reported", "protocols", "methods"):
            click(browser, f"[data-view={view}]")
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 360, view
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    background = "return getComputedStyle(document.body).backgroundColor"
    found = set()
    for _ in range(3):
        click(browser, "#theme")
        found.add(browser.execute_script(background))
    assert len(found) == 2, "light and dark differ"


def test_hostile_names_are_shown_as_text_and_run_nothing(shown: Open) -> None:
    browser = shown(page_of(hostile_records()))
    assert set(texts(browser, METHODS)) == {printable(text) for text in HOSTILE.values()}
    for view in ("curves", "dots", "time", "protocols", "methods", "table"):
        click(browser, f"[data-view={view}]")
    for number in range(len(HOSTILE)):
        click(browser, f"#row-{number} .open")
    wait_for(browser, f"document.querySelectorAll('.details .draws').length === {len(HOSTILE)}")
    click(browser, ".details .draws a")
    wait_for(browser, "document.getElementById('record').open")
    assert browser.execute_script("return [window.hit === undefined, document.images.length]") == [True, 0]
