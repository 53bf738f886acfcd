"""Draw the README's picture: a piece of VGG-16 before and after one convolution became two.

Widths of the maps are to the scale of their channels, bars to that of multiply-accumulates (MACs), which
come from twofold's own arithmetic. Run it from anywhere; it writes `before_after.svg` beside itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twofold.conv import ConvGeometry

SIZE = (80, 80)  # of the maps in block 3 of VGG-16, for a 320 x 320 picture
RANK = 96  # as twofold may choose for half the MACs or less

# Pixels of the drawing.
WIDTH, HEIGHT = 900, 464
ROWS = (108, 318)  # vertical middle of each net
PER_CHANNEL = 0.28
FACE = 84  # height of a map
DEPTH = 20  # how far its side leans back
CELL = 11  # of a kernel's grid
BAR = 96 / 3.8e9  # length per MAC

STYLE = """
  .card { fill: #ffffff; stroke: #d0d7de; }
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
  .small { font-size: 12px; fill: #59636e; }
  .row { font-size: 15px; font-weight: 600; }
  .arrow { stroke: #59636e; fill: none; stroke-width: 1.5; }
  .head { fill: #59636e; }
  .map { fill: #dbe4ee; stroke: #8193a8; } .top { fill: #eaf0f6; stroke: #8193a8; }
  .side { fill: #c3d0de; stroke: #8193a8; }
  .thin { fill: #ffd8b0; stroke: #c8691c; } .thintop { fill: #ffe9d1; stroke: #c8691c; }
  .thinside { fill: #f7bf86; stroke: #c8691c; }
  .cell { fill: #8193a8; stroke: #ffffff; } .hot { fill: #d9731a; stroke: #ffffff; }
  .off { fill: none; stroke: #d0d7de; }
  .bar { fill: #8193a8; } .hotbar { fill: #d9731a; }
  @media (prefers-color-scheme: dark) {
    .card { fill: #0d1117; stroke: #3d444d; }
    text { fill: #f0f6fc; } .small { fill: #9198a1; }
    .arrow { stroke: #9198a1; } .head { fill: #9198a1; }
    .map { fill: #2d3a4a; stroke: #7f93aa; } .top { fill: #3a4a5e; stroke: #7f93aa; }
    .side { fill: #222d3a; stroke: #7f93aa; }
    .thin { fill: #6e3f14; stroke: #f0903c; } .thintop { fill: #8a5220; stroke: #f0903c; }
    .thinside { fill: #532e0c; stroke: #f0903c; }
    .cell { fill: #7f93aa; stroke: #0d1117; } .hot { fill: #f0903c; stroke: #0d1117; }
    .off { stroke: #3d444d; }
    .bar { fill: #7f93aa; } .hotbar { fill: #f0903c; }
  }
"""


@dataclass(frozen=True)
class Conv:
    """A convolution and where it is drawn: the middle of its kernel's grid."""

    name: str
    geometry: ConvGeometry
    x: float
    hot: bool = False


def conv(name: str, c_in: int, c_out: int, kernel: tuple[int, int], x: float, hot: bool = False) -> Conv:
    geometry = ConvGeometry.of(c_out, c_in, kernel, pad=(kernel[0] // 2, kernel[1] // 2))
    return Conv(name, geometry, x, hot)


MAPS = ((40.0, 128), (230.0, 256), (600.0, 256), (790.0, 256))  # left edge, channels
THIN_AT = 426.0
BEFORE = (
    conv("conv3_1", 128, 256, (3, 3), 158),
    conv("conv3_2", 256, 256, (3, 3), 458, hot=True),
    conv("conv3_3", 256, 256, (3, 3), 738),
)
AFTER = (
    BEFORE[0],
    conv("conv3_2_0", 256, RANK, (3, 1), 374, hot=True),
    conv("conv3_2_1", RANK, 256, (1, 3), 542, hot=True),
    BEFORE[2],
)


def cuboid(x: float, middle: float, channels: int, thin: bool = False) -> str:
    """A map: as wide as it has channels."""
    top, width, lean = middle - FACE / 2 + DEPTH / 2, channels * PER_CHANNEL, DEPTH * 0.7
    right, bottom = x + width, top + FACE - DEPTH / 2
    names = ("thin", "thintop", "thinside") if thin else ("map", "top", "side")
    return (
        f'<rect class="{names[0]}" x="{x:g}" y="{top:g}" width="{width:g}" height="{bottom - top:g}"/>'
        f'<path class="{names[1]}" d="M{x:g} {top:g}l{lean:g} {-DEPTH}h{width:g}l{-lean:g} {DEPTH}z"/>'
        f'<path class="{names[2]}" d="M{right:g} {top:g}l{lean:g} {-DEPTH}V{bottom - DEPTH:g}'
        f'L{right:g} {bottom:g}z"/>'
    ) + label(x + width / 2, bottom + 17, str(channels), "small")


def label(x: float, y: float, text: str, kind: str = "") -> str:
    """Text with its middle at x."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="middle">{text}</text>'


def grid(one: Conv, middle: float) -> str:
    """The kernel's taps in a 3 x 3 grid, its name, and its bar of MACs."""
    rows, columns = one.geometry.kernel
    cells = []
    for row in range(3):
        for column in range(3):
            used = (rows == 3 or row == 1) and (columns == 3 or column == 1)
            kind = ("hot" if one.hot else "cell") if used else "off"
            x, y = one.x + (column - 1.5) * CELL, middle + (row - 1.5) * CELL
            cells.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{CELL}" height="{CELL}"/>')
    macs = one.geometry.macs(SIZE)
    length = macs * BAR
    below = middle + FACE / 2 + 34
    return "".join(
        [
            *cells,
            label(one.x, middle - 44, one.name),
            label(one.x, middle - 27, f"{rows}×{columns}", "small"),
            f'<rect class="{"hotbar" if one.hot else "bar"}" x="{one.x - length / 2:g}" y="{below:g}" '
            f'width="{length:g}" height="8" rx="2"/>',
            label(one.x, below + 23, f"{macs / 1e9:.2f} GMACs", "small"),
        ]
    )


def net(middle: float, title: str, convs: tuple[Conv, ...], thin: bool) -> Iterator[str]:
    yield f'<text class="row" x="24" y="{middle - 70:g}">{title}</text>'
    maps = sorted([*MAPS, (THIN_AT, RANK)] if thin else MAPS)
    for (left, channels), (right, _), one in zip(maps, maps[1:], convs, strict=False):
        start, end = left + channels * PER_CHANNEL + DEPTH * 0.7 + 5, right - 5
        gap = 1.5 * CELL + 6
        line = f"M{start:g} {middle:g}H{one.x - gap:g}M{one.x + gap:g} {middle:g}H{end - 5:g}"
        yield f'<path class="arrow" d="{line}"/>'
        yield f'<path class="head" d="M{end:g} {middle:g}l-8 -4v8z"/>'
        yield grid(one, middle)
    for left, channels in maps:
        yield cuboid(left, middle, channels, thin and left == THIN_AT)


def drawing() -> str:
    before, after = (sum(c.geometry.macs(SIZE) for c in row if c.hot) for row in (BEFORE, AFTER))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-labelledby="title">',
        '<title id="title">A 3×3 convolution of 256 to 256 channels becomes a 3×1 and a 1×3 convolution with '
        f"{RANK} channels between them</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8"/>',
        *net(ROWS[0], "before", BEFORE, thin=False),
        *net(ROWS[1], "after", AFTER, thin=True),
        label(
            WIDTH / 2,
            HEIGHT - 16,
            f"conv3_2: {before / 1e9:.2f} GMACs become {after / 1e9:.2f} (ratio {after / before:.2f}); "
            "its neighbours, their names and their shapes stay as they are.",
            "small",
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    target = Path(__file__).with_suffix(".svg")
    target.write_text(drawing(), encoding="utf-8")
    print(target)
