"""The page in a real browser: it renders, stays silent and offline, sorts, tells, zooms, and fits a phone."""

from __future__ import annotations

import re

import pytest
from tests.report import browser
from tests.report.nets import hostile_report, report_of

from twofold.report.page import page as made

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = browser.find()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed, and none could be")


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(made(report_of(tmp_path_factory.mktemp("net"))), encoding="utf-8")
    return path


@pytest.fixture
def opened(chromium, page_file):
    """Opens the page; at the end nothing may have been said, raised, or fetched."""
    contexts, said, fetched = [], [], []

    def open_page(file=page_file, **options):
        context = chromium.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: fetched.append(request.url))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in fetched if not url.startswith(("file:", "data:"))] == []


def column(page, number):
    return page.eval_on_selector_all(
        "#layer-table tbody tr", f"rows => rows.map(row => row.cells[{number}].textContent)"
    )


def test_every_part_is_there_and_visible(opened):
    page = opened()
    for part in ("summary", "network", "tradeoff", "layers", "curves", "samples", "origin"):
        assert page.locator(f"#{part}").bounding_box()["height"] > 50, part
    assert page.title().startswith("decomposition: net.prototxt")


def test_the_table_sorts_both_ways_by_number(opened):
    page = opened()
    heads = page.locator("#layer-table thead th")
    at = [text.strip() for text in heads.all_inner_texts()].index("ratio")
    before = column(page, 0)
    heads.nth(at).locator("button").click()
    ratios = [float(text or 1) for text in column(page, at)]
    assert ratios == sorted(ratios, reverse=True)
    heads.nth(at).locator("button").click()
    ratios = [float(text or 1) for text in column(page, at)]
    assert ratios == sorted(ratios)
    assert heads.nth(at).get_attribute("aria-sort") == "ascending"
    assert sorted(column(page, 0)) == sorted(before)


def test_a_layer_tells_its_shape_rank_cost_and_error(opened):
    page = opened()
    tip = page.locator("#tip")
    assert tip.is_hidden()
    page.locator("#graph .factor").first.hover()
    text = tip.inner_text()
    assert re.search(r"1 of 2 in place of \w+", text)
    assert re.search(r"MACs .* instead of", text)
    assert "error of the layer" in text
    assert re.search(r"(spatial|channel) .*\d+", text)
    assert page.locator("#graph .lit").count() == 3  # the layer itself and its two successors
    page.mouse.move(5, 5)
    assert tip.is_hidden()
    assert page.locator("#graph .lit").count() == 0


def test_the_network_moves_and_zooms(opened):
    page = opened()
    graph = page.locator("#graph")
    graph.scroll_into_view_if_needed()

    def box():
        return [float(number) for number in graph.get_attribute("viewBox").split()]

    start, place = box(), graph.bounding_box()
    page.locator("[data-zoom=in]").click()
    assert box()[2] == pytest.approx(0.75 * start[2])
    page.mouse.move(place["x"] + 30, place["y"] + 200)
    page.mouse.down()
    page.mouse.move(place["x"] + 80, place["y"] + 160)
    page.mouse.up()
    moved = box()
    assert moved[2] == pytest.approx(0.75 * start[2])
    page.mouse.wheel(0, 300)  # the image was clicked, so that the wheel is its own
    page.wait_for_function(f"document.getElementById('graph').viewBox.baseVal.width > {moved[2]} + 1")
    page.locator("[data-zoom=all]").click()
    x, y, width, height = box()
    assert x <= 0
    assert y <= 0
    assert x + width >= float(graph.get_attribute("data-width")) - 0.01
    assert y + height >= float(graph.get_attribute("data-height")) - 0.01


def test_a_dot_of_the_trade_off_gives_its_command(opened):
    page = opened()
    code = page.locator("#tradeoff .copy code")
    chosen = page.locator("#tradeoff .mark.chosen").get_attribute("data-budget")
    assert 0.3 < float(chosen) <= 0.5
    assert code.inner_text().endswith(f"-o out-{chosen} --macs {chosen}")
    dot = page.locator("#tradeoff .dots [data-budget]").nth(3)
    dot.click()
    assert f"--macs {dot.get_attribute('data-budget')}" in code.inner_text()
    assert f"-o out-{dot.get_attribute('data-budget')}" in code.inner_text()


def test_a_phone_needs_no_sideways_scrolling(opened):
    page = opened(viewport={"width": 360, "height": 780}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("visualViewport.width") == 360


def test_dark_is_dark_and_light_is_light(opened):
    def lightness(page, property_name):
        color = page.evaluate(f"getComputedStyle(document.body)['{property_name}']")
        return sum(map(int, re.findall(r"\d+", color)[:3]))

    light, dark = opened(color_scheme="light"), opened(color_scheme="dark")
    assert lightness(light, "background-color") > 700
    assert lightness(light, "color") < 200
    assert lightness(dark, "background-color") < 100
    assert lightness(dark, "color") > 600


def test_names_that_hold_html_do_nothing(opened, tmp_path):
    file = tmp_path / "hostile.html"
    file.write_text(made(hostile_report()), encoding="utf-8")
    page = opened(file)
    assert page.evaluate("window.broken") is None
    assert page.locator("img[src=x]").count() == 0
    assert "<img src=x" in page.locator("#layer-table").inner_text()
