"""The network before and after, side by side: what became of each convolution can be pointed at.

The network before is drawn in a mirror, so that the longest paths of both run beside each other in the
middle, and what branches off goes outwards. Runs of layers in which nothing changed are one block each.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ...conv import ConvGeometry, Skipped
from ...formats.graph import Shape
from ...lowrank import scheme
from ...planning.plan import Choice, Plan
from ...text import count_text, error_text, shape_text
from ..data import Report
from ..folding import Block
from ..layout import lay_out
from ..routes import HEIGHT, WIDTH, Point, Routes, height_of, route
from ..svg import arrow, tip

_BETWEEN, _MARGIN = 64, 16
_TOP = 34
#: Radius of an edge's corners.
_ROUND = 6.0
#: Names that are listed of a folded run.
_LISTED = 12
#: What parts of a name follow.
_SEPARATOR = re.compile(r"[^\w]|_")


@dataclass(frozen=True)
class Drawing:
    """The image and how large it is.

    Attributes:
        svg: what is drawn.
        width: of the whole, in pixels.
        height: of the whole.
        folded: how many layers stand in blocks of several.
    """

    svg: Markup
    width: int
    height: int
    folded: int


def drawings(report: Report) -> tuple[Drawing, ...]:
    """Draw both networks with runs of unchanged layers folded and, where there are such, every layer, too.

    Nothing where the structure is not known, or nothing changed.
    """
    plan, graph = report.plan, report.graph
    if graph is None or plan is None or not graph.nodes or not plan.choices:
        return ()
    choices = {choice.layer: choice for choice in plan.choices}
    chains = {
        name: scheme(one.scheme).chain(one.geometry, one.variant, one.ranks) for name, one in choices.items()
    }
    heights = {name: len(chain) for name, chain in chains.items()}

    def draw(changed: Collection[str] | None) -> Drawing:
        blocks = lay_out(graph, heights, changed)
        canvas = _Canvas(blocks, route(blocks), plan, choices, chains)
        folded = sum(len(block.folded) for block in blocks)
        return Drawing(Markup("").join(canvas.parts()), canvas.width, canvas.height, folded)

    first = draw(choices)
    return (first, draw(None)) if first.folded else (first,)


@dataclass(frozen=True)
class _Canvas:
    blocks: tuple[Block, ...]
    routes: Routes
    plan: Plan
    choices: dict[str, Choice]
    chains: dict[str, tuple[ConvGeometry, ...]]

    @property
    def width(self) -> int:
        return 2 * self.routes.width + _BETWEEN + 2 * _MARGIN

    @property
    def height(self) -> int:
        return self.routes.height + _TOP + _MARGIN

    def parts(self) -> Iterator[Markup]:
        skipped = {one.name: one for one in self.plan.skipped}
        if self.routes.width == WIDTH:  # beside branches, bands would cross what they do not belong to
            yield from map(self._band, (one for one in self.blocks if one.node.layer in self.choices))
        for right in (0, 1):
            yield from (self._edge(way, right) for way in self.routes.ways.values())
        for block in self.blocks:
            choice = self.choices.get(block.node.layer or "")
            if block.folded:
                yield from (self._fold(block, right) for right in (0, 1))
            elif choice is None:
                stays = skipped.get(block.node.layer or "")
                yield from (self._plain(block, right, stays) for right in (0, 1))
            else:
                yield self._before(block, choice)
                yield from self._stack(block, choice)
        # The heads stay in sight: the page moves them along with the view.
        yield Markup('<g class="heads"><rect x="-4000" y="-4000" width="{}" height="{}"/>').format(
            self.width + 8000, 4000 + _TOP - 6
        )
        for right, name in ((0, "before"), (1, "after")):
            yield Markup('<text x="{}" y="19">{}</text>').format(self._x(0, WIDTH, right), name)
        yield Markup("</g>")

    def _x(self, x: float, width: int, right: int) -> float:
        """Left end, in one of the two networks, of what the routes have at x."""
        return _MARGIN + (x + self.routes.width + _BETWEEN if right else self.routes.width - x - width)

    def _place(self, block: Block, right: int, row: int = 0) -> tuple[float, int]:
        x, y = self.routes.place(block)
        return self._x(x, WIDTH, right), y + _TOP + (height_of(row + 1) - HEIGHT)

    def _box(
        self, at: tuple[float, int], height: int, css: str, words: tuple[str, str], text: str, link: str,
        names: str = "",
    ) -> Markup:  # fmt: skip
        x, y = at
        attributes = Markup(' data-link="{}"').format(link) if link else ""
        attributes += Markup(' data-names="{}"').format(names) if names else ""
        middle = y + height / 2
        return Markup(
            '<g class="node {}" {}{}><rect x="{}" y="{}" width="{}" height="{}" rx="6"/>'
            '<text class="title" x="{}" y="{}">{}</text><text class="sub" x="{}" y="{}">{}</text></g>'
        ).format(
            css, tip(arrow(text)), attributes, x, y, WIDTH, height,
            x + 10, middle - 3, _end_of(words[0], 25), x + 10, middle + 13,
            textwrap.shorten(arrow(words[1]), 30, placeholder=" …"),
        )  # fmt: skip

    def _fold(self, block: Block, right: int) -> Markup:
        nodes = [one.node for one in block.folded]
        count = f"{len(nodes)} unchanged"
        listed = [f"{node.name} ({node.op_type})" for node in nodes[:_LISTED]]
        listed += [f"and {len(nodes) - _LISTED} more"] if len(nodes) > _LISTED else []
        names = "\n".join(node.name for node in nodes)
        words = (count, f"to {_end_of(nodes[-1].name, 26)}")
        link = f"{block.node.name}/{block.layer}.{block.lane}"
        return self._box(
            self._place(block, right), HEIGHT, "fold", words, "\n".join([count, *listed]), link, names
        )

    def _plain(self, block: Block, right: int, stays: Skipped | None) -> Markup:
        node = block.node
        op_types = " · ".join((node.op_type, *block.with_op_types))
        lines = [node.name, op_types, *_shape_line(node.shape)]
        if stays is not None:
            lines += [shape_text(stays.geometry)] if stays.geometry else []
            lines += [f"MACs {count_text(stays.macs)}"] if stays.macs else []
            lines.append(f"stays: {stays.reason}")
        css = "conv" if stays is not None else "other"
        at = self._place(block, right)
        second = shape_text(stays.geometry) if stays is not None and stays.geometry is not None else op_types
        return self._box(
            at, HEIGHT, css, (node.name, second), "\n".join(lines), f"{node.name}/{block.layer}.{block.lane}"
        )

    def _before(self, block: Block, choice: Choice) -> Markup:
        node = block.node
        lines = [
            node.name,
            " · ".join((node.op_type, *block.with_op_types)),
            shape_text(choice.geometry),
            *_shape_line(node.shape),
            f"MACs {count_text(choice.macs[0])}, params {count_text(choice.params[0])}",
            f"becomes {choice.label}",
            *_errors(choice),
        ]
        at = self._place(block, 0)
        height = height_of(block.rows)
        words = (node.name, shape_text(choice.geometry))
        return self._box(
            at, height, "conv split", words, "\n".join(lines), f"{node.name}/{block.layer}.{block.lane}"
        )

    def _stack(self, block: Block, choice: Choice) -> Iterator[Markup]:
        chain = self.chains[choice.layer]
        owner = block.node.name == choice.layer and len(choice.becomes) == len(chain)
        for i, geometry in enumerate(chain):
            name = choice.becomes[i] if owner else f"{block.node.name} {i + 1}/{len(chain)}"
            lines = [
                name,
                f"{i + 1} of {len(chain)} in place of {block.node.name}",
                shape_text(geometry),
                f"params {count_text(geometry.params)}",
                f"together: {choice.label}",
                f"MACs {count_text(choice.macs[1])} instead of {count_text(choice.macs[0])}",
                *_errors(choice),
            ]
            at = self._place(block, 1, i)
            link = f"{block.node.name}/{block.layer}.{block.lane}"
            yield self._box(at, HEIGHT, "factor", (name, shape_text(geometry)), "\n".join(lines), link)
            if i:
                x, above = at[0] + WIDTH / 2, self._place(block, 1, i - 1)[1]
                yield Markup('<path class="edge hot" d="M{} {}V{}"/>').format(x, above + HEIGHT, at[1])

    def _band(self, block: Block) -> Markup:
        left, top = self._place(block, 0)
        return Markup('<path class="band" d="M{0} {2}H{1}V{3}H{0}Z"/>').format(
            left + WIDTH, self._place(block, 1)[0], top, top + height_of(block.rows)
        )

    def _edge(self, way: tuple[Point, ...], right: int) -> Markup:
        corners = [(self._x(x, 0, right), y + _TOP) for x, y in way]
        return Markup('<path class="edge" d="{}"/>').format(_rounded(corners))


def _rounded(corners: Sequence[Point]) -> str:
    """A path along axes whose corners are round."""
    parts = ["M{:g} {:g}".format(*corners[0])]
    for before, at, behind in zip(corners, corners[1:], corners[2:], strict=False):
        radius = min(_ROUND, _length(before, at) / 2, _length(at, behind) / 2)
        parts.append(
            "L{:g} {:g}Q{:g} {:g} {:g} {:g}".format(
                *_toward(at, before, radius), *at, *_toward(at, behind, radius)
            )
        )
    return "".join([*parts, "L{:g} {:g}".format(*corners[-1])])


def _length(one: Point, other: Point) -> float:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])


def _toward(one: Point, other: Point, by: float) -> Point:
    """The point so far from one towards another, along an axis."""
    share = by / _length(one, other)
    return one[0] + share * (other[0] - one[0]), one[1] + share * (other[1] - one[1])


def _errors(choice: Choice) -> list[str]:
    found = []
    if choice.relative_error is not None:
        found.append(f"error of the layer {error_text(choice.relative_error)}")
    if choice.output_error is not None:
        found.append(f"error of the output, by it alone, {error_text(choice.output_error)}")
    return found


def _shape_line(shape: Shape | None) -> list[str]:
    return [] if not shape else ["gives " + " × ".join("?" if size is None else str(size) for size in shape)]


def _end_of(text: str, most: int) -> str:
    """The last parts of a long name, which tell names apart; of one long word its end."""
    if len(text) <= most:
        return text
    starts = [match.end() for match in _SEPARATOR.finditer(text) if len(text) - match.end() < most]
    return "…" + text[starts[0] if starts else len(text) + 1 - most :]
