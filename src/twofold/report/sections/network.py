"""The network before and after, side by side: what became of each convolution can be pointed at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from ...conv import ConvGeometry, Skipped
from ...formats.graph import Shape
from ...lowrank import scheme
from ...planning.plan import Choice, Plan
from ...planning.text import count_text, error_text, shape_text
from ..data import Report
from ..layout import Block, lay_out
from ..svg import arrow, tip

_WIDTH, _HEIGHT = 176, 40
_LANE, _ROW = 212, 58
_GAP, _MARGIN = 96, 16
_TOP = 34


@dataclass(frozen=True)
class Drawing:
    """The picture and how large it is."""

    svg: Markup
    width: int
    height: int
    complete: bool


def drawing(report: Report) -> Drawing | None:
    """Draw both networks; None where the structure is not known."""
    plan = report.decided
    if report.graph is None or plan is None or not report.graph.nodes:
        return None
    choices = {choice.layer: choice for choice in plan.choices}
    chains = {
        name: scheme(one.scheme).chain(one.geometry, one.variant, one.ranks) for name, one in choices.items()
    }
    blocks = lay_out(report.graph, {name: len(chain) for name, chain in chains.items()})
    canvas = _Canvas(blocks, plan, choices, chains)
    return Drawing(Markup("").join(canvas.parts()), canvas.width, canvas.height, report.graph.complete)


@dataclass(frozen=True)
class _Canvas:
    blocks: tuple[Block, ...]
    plan: Plan
    choices: dict[str, Choice]
    chains: dict[str, tuple[ConvGeometry, ...]]

    @property
    def side(self) -> int:
        """Width of one of the two networks."""
        return (max(block.lane for block in self.blocks) + 1) * _LANE - (_LANE - _WIDTH)

    @property
    def width(self) -> int:
        return 2 * self.side + _GAP + 2 * _MARGIN

    @property
    def height(self) -> int:
        return max(block.row + block.rows for block in self.blocks) * _ROW + _TOP + _MARGIN

    def parts(self) -> Iterator[Markup]:
        skipped = {one.name: one for one in self.plan.skipped}
        for right, name in ((0, "before"), (1, "after")):
            yield Markup('<text class="head" x="{}" y="20">{}</text>').format(self._x(0, right), name)
        if self.side == _WIDTH:  # between branches, bands would cross what they do not belong to
            yield from map(self._band, (one for one in self.blocks if one.node.layer in self.choices))
        for right in (0, 1):
            for block in self.blocks:
                yield from (self._edge(self.blocks[source], block, right) for source in block.sources)
        for block in self.blocks:
            choice = self.choices.get(block.node.layer or "")
            if choice is None:
                stays = skipped.get(block.node.layer or "")
                yield from (self._plain(block, right, stays) for right in (0, 1))
                continue
            yield self._before(block, choice)
            yield from self._stack(block, choice)

    def _x(self, lane: int, right: int) -> int:
        return _MARGIN + lane * _LANE + right * (self.side + _GAP)

    @staticmethod
    def _y(row: int) -> int:
        return _TOP + row * _ROW

    def _box(
        self, at: tuple[int, int], height: int, css: str, words: tuple[str, str], text: str, link: str
    ) -> Markup:
        x, y = at
        attributes = Markup(' data-link="{}"').format(link) if link else ""
        middle = y + height / 2
        return Markup(
            '<g class="node {}" {}{}><rect x="{}" y="{}" width="{}" height="{}" rx="6"/>'
            '<text class="title" x="{}" y="{}">{}</text><text class="sub" x="{}" y="{}">{}</text></g>'
        ).format(
            css, tip(arrow(text)), attributes, x, y, _WIDTH, height,
            x + 10, middle - 3, _cut(words[0], 21), x + 10, middle + 13, _cut(arrow(words[1]), 25),
        )  # fmt: skip

    def _plain(self, block: Block, right: int, stays: Skipped | None) -> Markup:
        node = block.node
        kinds = " · ".join((node.kind, *block.with_kinds))
        lines = [node.name, kinds, *_shape_line(node.shape)]
        if stays is not None:
            lines += [shape_text(stays.geometry)] if stays.geometry else []
            lines += [f"MACs {count_text(stays.macs)}"] if stays.macs else []
            lines.append(f"stays: {stays.reason}")
        css = "conv" if stays is not None else "other"
        at = (self._x(block.lane, right), self._y(block.row))
        second = shape_text(stays.geometry) if stays is not None and stays.geometry is not None else kinds
        return self._box(at, _HEIGHT, css, (node.name, second), "\n".join(lines), f"{node.name}/{block.row}")

    def _before(self, block: Block, choice: Choice) -> Markup:
        node = block.node
        lines = [
            node.name,
            " · ".join((node.kind, *block.with_kinds)),
            shape_text(choice.geometry),
            *_shape_line(node.shape),
            f"MACs {count_text(choice.macs[0])}, params {count_text(choice.params[0])}",
            f"becomes {choice.label}",
            *_errors(choice),
        ]
        at = (self._x(block.lane, 0), self._y(block.row))
        height = (block.rows - 1) * _ROW + _HEIGHT
        words = (node.name, shape_text(choice.geometry))
        return self._box(at, height, "conv split", words, "\n".join(lines), f"{node.name}/{block.row}")

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
            at = (self._x(block.lane, 1), self._y(block.row + i))
            link = f"{block.node.name}/{block.row}"
            yield self._box(at, _HEIGHT, "factor", (name, shape_text(geometry)), "\n".join(lines), link)
            if i:
                x = at[0] + _WIDTH / 2
                yield Markup('<path class="edge hot" d="M{} {}V{}"/>').format(
                    x, at[1] - _ROW + _HEIGHT, at[1]
                )

    def _band(self, block: Block) -> Markup:
        left, right = self._x(block.lane, 0) + _WIDTH, self._x(block.lane, 1)
        top = self._y(block.row)
        bottom = top + (block.rows - 1) * _ROW + _HEIGHT
        return Markup('<path class="band" d="M{0} {2}H{1}V{3}H{0}Z"/>').format(left, right, top, bottom)

    def _edge(self, source: Block, target: Block, right: int) -> Markup:
        x1, x2 = (self._x(block.lane, right) + _WIDTH / 2 for block in (source, target))
        y1 = self._y(source.row + source.rows - 1) + _HEIGHT
        y2 = self._y(target.row)
        direct = source.row + source.rows == target.row
        if direct and x1 == x2:
            return Markup('<path class="edge" d="M{} {}V{}"/>').format(x1, y1, y2)
        if direct:
            middle = (y1 + y2) / 2
            return Markup('<path class="edge" d="M{} {}C{} {} {} {} {} {}"/>').format(
                x1, y1, x1, middle, x2, middle, x2, y2
            )
        # Past what lies between: out into the space beside the lanes, down, and in again.
        out = max(x1, x2) + _WIDTH / 2 + 12
        return Markup('<path class="edge far" d="M{} {}C{} {} {} {} {} {}V{}C{} {} {} {} {} {}"/>').format(
            x1, y1, x1, y1 + 16, out, y1, out, y1 + 24, y2 - 24, out, y2, x2, y2 - 16, x2, y2
        )  # fmt: skip


def _errors(choice: Choice) -> list[str]:
    found = []
    if choice.relative_error is not None:
        found.append(f"error of the layer {error_text(choice.relative_error)}")
    if choice.output_error is not None:
        found.append(f"error of the output, by it alone, {error_text(choice.output_error)}")
    return found


def _shape_line(shape: Shape | None) -> list[str]:
    return [] if not shape else ["gives " + " × ".join("?" if size is None else str(size) for size in shape)]


def _cut(text: str, most: int) -> str:
    """Long names keep their ends, which tell them apart."""
    return text if len(text) <= most else f"{text[: most // 3]}…{text[-(most - most // 3 - 1) :]}"
