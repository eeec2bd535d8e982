"""The page in headless Chromium: sort, filter, search, open, follow links, narrow and printed pages, hostile names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.browser import ABSENT, CHROMIUM, DRIVER, ENTER, ESCAPE, Browser, open_browser
from helpers.pages import HOSTILE, hostile_records, page_of
from helpers.synthetic_records import fixed_set, make_record, varied_hits

from mmrs_bench.texts import printable

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=ABSENT)
Open = Callable[..., Browser]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def shown(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens a page of records; afterwards the console must be empty."""

    def show(page: str, address: str = "") -> Browser:
        path = tmp_path / "report.html"
        path.write_text(page, encoding="utf-8")
        browser.get(path.as_uri() + address)
        return browser

    yield show
    assert browser.messages() == [], "the console has messages"


@pytest.fixture(scope="module")
def page() -> str:
    return page_of(*fixed_set())


METHODS = "#results .open span"


def test_a_click_on_a_heading_sorts_within_each_protocol(shown: Open, page: str) -> None:
    browser = shown(page)
    assert browser.texts(METHODS)[:3] == ["rf", "cnn:no-lidar", "rf-spatial"]
    browser.click("[data-sort=label]")
    assert browser.texts(METHODS)[2:7] == ["cnn [last]", "majority", "rf-spatial", "svm", "cnn [paper-val]"]
    browser.click("[data-sort=label]")
    assert browser.texts(METHODS)[2:6] == ["svm", "rf-spatial", "majority", "cnn [last]"], "unranked ones stay last"
    assert browser.texts("[aria-sort=descending]") == ["Method▼"]


def test_symbols_are_hidden_from_screen_readers(shown: Open, page: str) -> None:
    browser = shown(page)
    assert browser.run("return document.querySelectorAll('[aria-hidden]').length") > 0
    assert browser.run("return document.querySelectorAll('[aria-hidden]:not([aria-hidden=true])').length") == 0


def test_one_list_sorts_over_all_protocols(shown: Open, page: str) -> None:
    browser = shown(page)
    browser.click("#apart")
    browser.click("[data-sort=oa]")
    values = [float(text.split(" ")[0]) for text in browser.texts("#results tbody tr > td:nth-of-type(7)")]
    assert len(values) == 12
    assert values == sorted(values, reverse=True)
    for key in ("scene", "split", "shots", "budget", "family"):
        browser.click(f"[data-sort={key}]")
        assert len(browser.texts(METHODS)) == 12


def test_the_small_intervals_fill_the_scale_of_the_rows_that_stand_together(shown: Open, page: str) -> None:
    browser = shown(page)
    ends = """return [...document.querySelectorAll("#results tbody")].map((body) => {
      const at = (end) => [...body.querySelectorAll(".strip .bar")].map((bar) => Number(bar.getAttribute(end)));
      return [Math.min(...at("x1")), Math.max(...at("x2"))];
    })"""
    assert browser.run(ends) == [[4, 100]] * len(browser.texts("#results .group")), "each protocol has its own scale"
    browser.click("#apart")
    assert browser.run(ends) == [[4, 100]], "one list has one scale"


def test_numbers_are_rounded_as_in_the_other_tables(shown: Open, page: str) -> None:
    values = [100 * 0.94105, 94.105, 62.125, 62.375, -62.125, 0.5, 1.5, 2.5, 0.25, 0.35, 1e-9, -1e-9, 99.995]
    browser = shown(page)
    function = re.search(r"function halfToEven.*?\n}\n", page, re.DOTALL)  # the page shows no function to others
    assert function is not None
    script = f"{function[0]} return arguments[0].map((value) => halfToEven(value, arguments[1]))"
    for digits in (0, 1, 2, 3):
        found = browser.run(script, values, digits)
        assert [float(text) for text in found] == [float(f"{value:.{digits}f}") for value in values], digits


def test_filters_and_search_leave_the_fitting_rows_and_can_be_linked(shown: Open, page: str) -> None:
    browser = shown(page)
    browser.click("input[name=scene][value=trento]")
    browser.click("input[name=shots][value='5']")
    assert browser.texts("#count") == ["5 of 12 rows"]
    browser.click("#ranked")
    assert browser.texts("#count") == ["4 of 12 rows"]
    browser.run(
        "const s = document.getElementById('search'); s.value = 'svm random'; s.dispatchEvent(new Event('input'))"
    )
    assert browser.texts(METHODS) == ["svm"]
    address = browser.address().partition("#")[2]
    assert shown(page, f"#{address}").texts(METHODS) == ["svm"]
    browser.click("#reset")
    browser.wait_for("document.getElementById('count').textContent === '12 of 12 rows'")


def test_imported_rows_have_a_column_and_a_filter_and_records_of_one_cell_are_told_apart(shown: Open) -> None:
    own = [make_record("rf", varied_hits(150, draw), draw=draw) for draw in range(2)]
    others = [make_record("rf", varied_hits(90, draw), draw=draw).with_origin("Lab (A)") for draw in range(2)]
    browser = shown(page_of([*own, *others]))
    assert browser.texts(METHODS) == ["rf", "rf [Lab (A)]"]
    assert browser.texts("#results td.origin") == ["here", "Lab (A)"]
    browser.click("input[name=origin][value='Lab (A)']")
    assert browser.texts(METHODS) == ["rf [Lab (A)]"]
    page, address = page_of([*own, *others]), f"#record-{own[0].key}"
    scores = []
    for end, title in (("", "rf, draw 0, seed 0"), ("-lab-a", "rf [Lab (A)], draw 0, seed 0")):
        shown(page, address + end).wait_for("document.getElementById('record').open")
        assert browser.texts("#record-title") == [title]
        scores.append(browser.texts("#record dd")[0])
    assert scores[0] != scores[1]
    assert browser.texts("#record dd").count("Lab (A)") == 1
    assert shown(page_of(own)).texts("[data-sort=origin], [data-filter=origin]") == []


def test_an_opened_row_leads_to_its_records_its_card_and_its_protocol(shown: Open, page: str) -> None:
    browser = shown(page)
    browser.click("#row-3 .open")
    browser.wait_for("document.querySelector('.details .draws')")
    assert browser.texts(".details h4")[0] == "7 draws"
    assert browser.texts(".details .classes tbody th") == ["water", "trees & shrubs", "roof_50%"]
    assert len(browser.texts(".details .confusion td")) == 9
    assert "window shared with a support window 10.1 %" in browser.texts(".details dd")[0]
    first = browser.texts(".details .draws a")[0]
    browser.click(".details .draws a")
    browser.wait_for("document.getElementById('record').open")
    assert browser.texts("#record-title") == ["svm, draw 0, seed 0"]
    assert browser.texts("#record dd")[0] == f"{first} %"
    assert any("support-cv" in text for text in browser.texts("#record pre"))
    browser.click("#record .close")
    browser.wait_for("!document.getElementById('record').open")
    browser.click(".details a[href^='#method-']")
    browser.wait_for("document.querySelector('.card.target h3')?.textContent === 'svm'")
    assert any("Melgani" in text for text in browser.texts(".card.target dd"))
    shown(page, "#protocol-1")
    browser.wait_for("document.querySelector('.card.target h3')?.textContent.startsWith('Trento')")


def test_the_keyboard_opens_a_row_and_closes_a_record(shown: Open, page: str) -> None:
    browser = shown(page)
    browser.run("document.querySelector('#row-0 .open').focus()")
    browser.press(ENTER)
    browser.wait_for("document.querySelector('.details .draws a')")
    browser.run("document.querySelector('.details .draws a').focus()")
    browser.press(ENTER)
    browser.wait_for("document.getElementById('record').open")
    browser.press(ESCAPE)
    browser.wait_for("!document.getElementById('record').open")


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
        browser.click(f"[data-view={view}]")
        assert len(browser.texts("figure")) == count, view
        assert len(browser.texts("figure:first-of-type .chart .mark")) == (4 if view == "curves" else 2), view
        bad = "return [...document.querySelectorAll('.chart *')].some((e) => /NaN|undefined/.test(e.outerHTML))"
        assert not browser.run(bad), view
    for view in ("reported", "protocols", "methods"):
        browser.click(f"[data-view={view}]")
        assert browser.texts("#main h3"), view
    browser.click("[data-view=dots]")
    browser.click("input[name=scene][value=muufl]")
    assert len(browser.texts("figure")) == 2
    browser.click("figure a")
    browser.wait_for("document.querySelector('.details .draws')")


def test_an_entry_of_the_legend_makes_the_other_curves_faint_until_it_is_pressed_again(shown: Open) -> None:
    values = [(method, quality, shots) for method, quality in (("rf", 150), ("svm", 120)) for shots in (2, 5)]
    records = [make_record(method, varied_hits(quality + shots, 0), shots=shots) for method, quality, shots in values]
    browser = shown(page_of(records), "#?view=curves")
    opacities = (
        "return [...document.querySelectorAll('.chart .line')].map((line) => Number(getComputedStyle(line).opacity))"
    )
    assert browser.texts(".legend button") == ["rf", "svm"]
    browser.click(".legend li:nth-of-type(2) button")
    assert browser.run(opacities) == [0.12, 1.0]
    assert browser.texts(".legend [aria-pressed=true]") == ["svm"]
    browser.click(".legend li:nth-of-type(1) button")
    assert browser.run(opacities) == [1.0, 0.12]
    browser.click(".legend li:nth-of-type(1) button")
    assert browser.run(opacities) == [1.0, 1.0]


def test_a_narrow_page_does_not_scroll_sideways_and_the_theme_can_be_chosen(shown: Open, page: str) -> None:
    browser = shown(page)
    browser.narrow(360)
    try:
        for view in ("table", "curves", "dots", "time", "reported", "protocols", "methods"):
            browser.click(f"[data-view={view}]")
            assert browser.run("return document.documentElement.scrollWidth") <= 360, view
    finally:
        browser.narrow(0)
    background = "return getComputedStyle(document.body).backgroundColor"
    found = set()
    for _ in range(3):
        browser.click("#theme")
        found.add(browser.run(background))
    assert len(found) == 2, "light and dark differ"


def test_hostile_names_are_shown_as_text_and_run_nothing(shown: Open) -> None:
    browser = shown(page_of(hostile_records()))
    assert set(browser.texts(METHODS)) == {printable(text) for text in HOSTILE.values()}
    for view in ("curves", "dots", "time", "protocols", "methods", "table"):
        browser.click(f"[data-view={view}]")
    for number in range(len(HOSTILE)):
        browser.click(f"#row-{number} .open")
    browser.wait_for(f"document.querySelectorAll('.details .draws').length === {len(HOSTILE)}")
    browser.click(".details .draws a")
    browser.wait_for("document.getElementById('record').open")
    assert browser.run("return [window.hit === undefined, document.images.length]") == [True, 0]
