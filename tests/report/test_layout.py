"""The page at the widths of a desk and of a phone: no name is broken, and nothing is cut off or overlaps."""

from __future__ import annotations

import pytest

#: Every word in sight that lies on more than one line; names may break behind their separators.
BROKEN_WORDS = r"""() => {
  const broken = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    if (text.parentElement.closest("script, svg, code, dd, .long, #tip")) continue;
    for (const word of text.data.matchAll(/[^\s.\/_:\\-]+/g)) {
      const range = document.createRange();
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      const lines = new Set([...range.getClientRects()].map(rect => Math.round(rect.top)));
      if (lines.size > 1) broken.push(word[0]);
    }
  }
  return broken;
}"""
#: Every box that sticks out of what should hold it, and cells that overlap.
CUT = r"""() => {
  const cut = [];
  const inside = (one, other, slack = 1) =>
    one.left >= other.left - slack && one.right <= other.right + slack;
  const check = (what, holder) => {
    for (const element of document.querySelectorAll(what)) {
      if (!element.getClientRects().length) continue;
      const range = document.createRange();
      range.selectNodeContents(element);
      const held = [element.getBoundingClientRect(), ...range.getClientRects()];
      const box = element.closest(holder).getBoundingClientRect();
      if (held.some(rect => rect.width && !inside(rect, box))) cut.push([what, element.textContent]);
    }
  };
  check("th, td", "section");
  check("th, td", "th, td");
  check("h1, .lead, .about", "header");
  check("figure, li, .tile, .class, summary, .key, .hint, dd, .copy", "section");
  check(".tile *", ".tile");
  check("svg.chart text, svg.chart circle", "svg");
  check(".tools *", ".canvas");
  for (const row of document.querySelectorAll("tr")) {
    const cells = [...row.cells].map(cell => cell.getBoundingClientRect()).filter(rect => rect.width);
    cells.forEach((one, i) => cells.slice(i + 1).forEach(other => {
      const apart = one.right <= other.left + 1 || other.right <= one.left + 1
        || one.bottom <= other.top + 1 || other.bottom <= one.top + 1;
      if (!apart) cut.push(["overlap", row.textContent.slice(0, 60)]);
    }));
  }
  for (const node of document.querySelectorAll(".node")) {
    const box = node.querySelector("rect").getBBox();
    for (const text of node.querySelectorAll("text")) {
      const own = text.getBBox();
      if (own.x < box.x || own.x + own.width > box.x + box.width) cut.push(["node", text.textContent]);
    }
  }
  return cut;
}"""
SIZES = {
    "desk": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}


@pytest.fixture(params=["page_file", "long_file"])
def file(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("size", SIZES)
def test_no_word_breaks_and_nothing_is_cut(opened, file, size):
    page = opened(file, **SIZES[size])
    page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    assert page.evaluate(BROKEN_WORDS) == []
    assert page.evaluate(CUT) == []
    width = SIZES[size]["viewport"]["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("size", SIZES)
def test_the_curve_is_in_sight_and_can_be_read(opened, file, size):
    page = opened(file, **SIZES[size])
    (chart,) = [one for one in page.locator("#tradeoff .chart").all() if one.is_visible()]
    line, width = chart.locator(".line").bounding_box(), SIZES[size]["viewport"]["width"]
    assert line["x"] >= 0
    assert line["x"] + line["width"] <= width
    assert line["width"] > 0.5 * width or size == "desk"
    shown = chart.evaluate("one => one.getBoundingClientRect().width / one.viewBox.baseVal.width")
    assert 11 * shown >= 9  # pixels of the text at the ticks
    assert chart.locator(".label").all_text_contents() == [
        "MACs after / before",
        "output error, predicted (relative)",
    ]


@pytest.mark.parametrize("size", SIZES)
def test_no_point_lies_on_an_axis(opened, file, size):
    """The axes begin beside the data: with room, but not with a third of the chart."""
    page = opened(file, **SIZES[size])
    (chart,) = [one for one in page.locator("#tradeoff .chart").all() if one.is_visible()]
    points = chart.locator("circle").evaluate_all(
        "all => all.map(one => [one.cx.baseVal.value, one.cy.baseVal.value])"
    )
    grid = chart.evaluate(
        """one => {
          const box = [...one.querySelectorAll(".grid")].map(line => line.getBBox());
          const left = Math.min(...box.map(b => b.x)), right = Math.max(...box.map(b => b.x + b.width));
          return [left, right, Math.min(...box.map(b => b.y)), Math.max(...box.map(b => b.y + b.height))];
        }"""
    )
    left, right, top, bottom = grid
    xs, ys = [x for x, _ in points], [y for _, y in points]
    assert left + 8 <= min(xs) <= left + 0.1 * (right - left)
    assert right - 0.1 * (right - left) <= max(xs) <= right - 8
    assert top + 6 <= min(ys) <= top + 0.1 * (bottom - top)
    assert bottom - 0.1 * (bottom - top) <= max(ys) <= bottom - 6
