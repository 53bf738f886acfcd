"""The page in a real browser: it renders, stays silent and offline, sorts, tells, zooms, and fits a phone."""

from __future__ import annotations

import re

import pytest
from tests.report.nets import hostile_report

from twofold.report.page import page as made


def column(page, number):
    return page.eval_on_selector_all(
        "#layer-table tbody tr", f"rows => rows.map(row => row.cells[{number}].textContent)"
    )


def becomes(page, condition):
    """Wait for what a gesture brings about; the page's own rules forbid playwright's way to."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(condition)


def test_every_part_is_there_and_visible(opened):
    page = opened()
    for part in ("summary", "network", "tradeoff", "layers", "curves", "samples", "origin"):
        assert page.locator(f"#{part}").bounding_box()["height"] > 50, part
    assert page.title().startswith("decomposition: net.prototxt")


def test_the_table_sorts_both_ways_by_number(opened, long_file):
    page = opened(long_file)
    heads = page.locator("#layer-table thead th")
    at = [text.strip() for text in heads.all_inner_texts()].index("layer error")
    before = column(page, 0)
    heads.nth(at).locator("button").click()
    errors = [float(text) for text in column(page, at)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[-1]
    heads.nth(at).locator("button").click()
    assert [float(text) for text in column(page, at)] == sorted(errors)
    assert heads.nth(at).get_attribute("aria-sort") == "ascending"
    assert sorted(column(page, 0)) == sorted(before)


def test_a_layer_tells_its_shape_rank_cost_and_error(opened):
    page = opened()
    tip = page.locator("#tip")
    assert tip.is_hidden()
    page.locator(".graph .factor").first.hover()
    text = tip.inner_text()
    factors = int(re.search(r"1 of ([23]) in place of \w+", text)[1])
    assert re.search(r"MACs .* instead of", text)
    assert "error of the layer" in text
    assert re.search(r"(spatial|channel|depthwise) .*\d+", text)
    assert page.locator(".graph .lit").count() == 1 + factors  # the layer itself and its successors
    page.mouse.move(5, 5)
    assert tip.is_hidden()
    assert page.locator(".graph .lit").count() == 0


def test_the_network_moves_and_zooms(opened):
    page = opened()
    graph = page.locator(".graph").first
    graph.scroll_into_view_if_needed()

    def box():
        return [float(number) for number in graph.get_attribute("viewBox").split()]

    start, place = box(), graph.bounding_box()
    page.locator("[data-zoom=in]").first.click()
    assert box()[2] == pytest.approx(0.75 * start[2])
    page.mouse.move(place["x"] + 30, place["y"] + 200)
    page.mouse.down()
    page.mouse.move(place["x"] + 80, place["y"] + 160)
    page.mouse.up()
    moved = box()
    assert moved[2] == pytest.approx(0.75 * start[2])
    page.mouse.wheel(0, 300)  # the image was clicked, so that the wheel is its own
    becomes(page, f"document.querySelector('.graph').viewBox.baseVal.width > {moved[2]} + 1")
    page.locator("[data-zoom=all]").first.click()
    x, y, width, height = box()
    assert x <= 0
    assert y <= 0
    assert x + width >= float(graph.get_attribute("data-width")) - 0.01
    assert y + height >= float(graph.get_attribute("data-height")) - 0.01


def test_the_drawing_opens_at_the_first_change_and_goes_to_the_next(opened, long_file):
    page = opened(long_file)
    canvas = page.locator(".canvas").first

    def in_sight():
        """Titles of the decomposed layers that lie in the drawing."""
        return canvas.evaluate(
            """canvas => {
              const box = canvas.querySelector(".graph").getBoundingClientRect();
              return [...canvas.querySelectorAll(".split")].filter(node => {
                const own = node.getBoundingClientRect();
                return own.top >= box.top && own.bottom <= box.bottom;
              }).map(node => node.querySelector(".title").textContent);
            }"""
        )

    assert in_sight()[0] == "…denselayer4.conv1"
    assert canvas.locator(".fold").count() == 2 * 21
    canvas.get_by_role("button", name="next change").click()
    assert in_sight()[0] == "…denselayer4.conv2"
    canvas.get_by_role("button", name="previous change").click()
    assert in_sight()[0] == "…denselayer4.conv1"
    canvas.get_by_role("searchbox").fill("block3.denselayer14.conv1")
    assert in_sight()[0] == "…denselayer14.conv1"
    assert canvas.locator("output").inner_text() == "1 of 1"
    canvas.get_by_role("searchbox").fill("denselayer2.conv1")  # one that is folded away
    assert canvas.locator(".fold.match").count() == 2
    canvas.get_by_role("searchbox").fill("nowhere")
    assert canvas.locator("output").inner_text() == "no such layer"
    assert page.locator(".canvas").count() == 2
    assert page.locator(".canvas").nth(1).is_hidden()
    page.get_by_text("unchanged ones unfolded").click()
    assert page.locator(".canvas").nth(1).locator(".fold").count() == 0


def test_a_finger_scrolls_the_page_past_the_drawing(opened):
    page = opened(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    graph = page.locator(".graph").first
    graph.scroll_into_view_if_needed()
    box, before = graph.bounding_box(), page.evaluate("scrollY")
    seen = graph.get_attribute("viewBox")
    touch = page.context.new_cdp_session(page)
    x, y = box["x"] + 100, max(box["y"], 0) + 300
    for kind, points in [
        ("touchStart", [{"x": x, "y": y}]),
        *(("touchMove", [{"x": x, "y": y - 20 * step}]) for step in range(1, 11)),
        ("touchEnd", []),
    ]:
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    becomes(page, f"scrollY > {before} + 100")
    assert graph.get_attribute("viewBox") == seen


def test_a_dot_of_the_trade_off_gives_its_command(opened):
    page = opened()
    code = page.locator("#tradeoff .copy code")
    chart = page.locator("#tradeoff .wide")
    chosen = chart.locator(".mark.chosen").get_attribute("data-budget")
    assert 0.3 < float(chosen) <= 0.5
    assert code.inner_text().endswith(f"-o out-{chosen} --macs {chosen}")
    dot = chart.locator(".dots [data-budget]").nth(3)
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
