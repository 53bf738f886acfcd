"""The ways of the edges of a network that is laid out: along gutters and gaps, past every block.

Between two layers there is a gap over the whole width, and beside every lane there is a gutter over the
whole height; no block reaches into either. An edge leaves its source downwards into the gap below, turns
there, and enters its target from the gap above it. Where layers lie between, it goes down a gutter, or its
own lane where that is free; edges of one source share that way and part from it one by one. In a gap and in
a gutter every source has a track of its own where others are in the way; both are as wide as these need.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from .folding import Block

#: Sizes of a block, distances between blocks where no track needs more, and between two tracks.
WIDTH, HEIGHT = 200, 40
_GUTTER, _GAP, _TRACK = 36, 18, 8
#: Between the places at which edges enter one block.
_PORT = 12

#: A place (x, y).
Point = tuple[float, float]
#: Where an edge goes down: ("lane", number) or ("gutter", number), that left of the lane of this number.
_Way = tuple[str, int]


@dataclass(frozen=True)
class Routes:
    """Where everything is drawn.

    Attributes:
        lanes: left side of each lane.
        tops: top of each layer.
        ways: (source, target) -> the corners of the edge, from the source's bottom to the target's top.
        width: of the whole.
        height: of the whole.
    """

    lanes: tuple[int, ...]
    tops: tuple[int, ...]
    ways: Mapping[tuple[int, int], tuple[Point, ...]]
    width: int
    height: int

    def place(self, block: Block) -> tuple[int, int]:
        """Left and top of a block."""
        return self.lanes[block.lane], self.tops[block.layer]


def height_of(rows: int) -> int:
    """Height of a block, or of each part of one that is drawn as several."""
    return rows * (HEIGHT + _GAP) - _GAP


def route(blocks: Sequence[Block]) -> Routes:
    """Find a way for every edge."""
    downs, taken = _ways_down(blocks)
    gutters = _gutter_tracks(blocks, downs)
    lanes, gutter_x = _across(blocks, gutters)
    place = _Places(blocks, lanes, gutter_x, gutters, downs, taken)
    spans = _spans(place)
    gaps = {gap: _colored(one) for gap, one in spans.items()}
    tops = _down(blocks, gaps)
    ways = {}
    for target, block in enumerate(blocks):
        for source in block.sources:
            ways[source, target] = _way(place, source, target, gaps, tops)
    bottom = max(tops[block.layer] + height_of(block.rows) for block in blocks)
    right = max([lanes[-1] + WIDTH, *(x for way in ways.values() for x, _ in way)])
    return Routes(tuple(lanes), tuple(tops), ways, round(right), bottom)


def _ways_down(blocks: Sequence[Block]) -> tuple[dict[int, tuple[_Way, int]], set[tuple[int, int]]]:
    """For each source of edges over layers between: where they go down, and to the gap above which layer.

    Gives the cells (lane, layer) in which there is something, too.
    """
    last: dict[int, int] = {}
    for block in blocks:
        for source in block.sources:
            if block.layer > blocks[source].layer + 1:
                last[source] = max(last.get(source, 0), block.layer)
    taken = {(block.lane, block.layer) for block in blocks}
    found: dict[int, tuple[_Way, int]] = {}
    for source, layer in last.items():
        own = blocks[source]
        cells = {(own.lane, between) for between in range(own.layer + 1, layer)}
        if cells & taken:
            found[source] = (("gutter", own.lane + 1), layer)
        else:
            taken |= cells
            found[source] = (("lane", own.lane), layer)
    return found, taken


def _gutter_tracks(blocks: Sequence[Block], downs: Mapping[int, tuple[_Way, int]]) -> dict[int, _Tracks]:
    spans: dict[int, dict[int, tuple[float, float]]] = defaultdict(dict)
    for source, ((place, number), layer) in downs.items():
        if place == "gutter":
            spans[number][source] = (blocks[source].layer, layer)
    return {number: _colored(one) for number, one in spans.items()}


@dataclass(frozen=True)
class _Tracks:
    """Tracks beside each other.

    Attributes:
        of: the track of each source, from 0.
        count: how many there are.
    """

    of: Mapping[int, int]
    count: int


def _colored(spans: Mapping[int, tuple[float, float]]) -> _Tracks:
    """The first free track for each, short spans first, so that long ones lie outside of them."""
    tracks: list[list[tuple[float, float]]] = []
    of: dict[int, int] = {}
    for source, (low, high) in sorted(spans.items(), key=lambda one: (one[1][1] - one[1][0], one[0])):
        free = (i for i, track in enumerate(tracks) if all(high < a or b < low for a, b in track))
        number = next(free, len(tracks))
        if number == len(tracks):
            tracks.append([])
        tracks[number].append((low, high))
        of[source] = number
    return _Tracks(of, len(tracks))


def _across(blocks: Sequence[Block], gutters: Mapping[int, _Tracks]) -> tuple[list[int], dict[int, int]]:
    """Left sides of the lanes, and of the first track of each gutter."""
    count = max(block.lane for block in blocks) + 1
    lanes: list[int] = []
    first: dict[int, int] = {}
    x = 0
    for number in range(count + 1):
        tracks = gutters[number].count if number in gutters else 0
        if number:
            first[number] = x + _GUTTER // 2
            x += _GUTTER + max(tracks - 1, 0) * _TRACK
        if number < count:
            lanes.append(x)
            x += WIDTH
    return lanes, first


@dataclass(frozen=True)
class _Places:
    """The horizontal places of what edges touch."""

    blocks: Sequence[Block]
    lanes: Sequence[int]
    gutter_x: Mapping[int, int]
    gutters: Mapping[int, _Tracks]
    downs: Mapping[int, tuple[_Way, int]]
    taken: Set[tuple[int, int]]

    def middle(self, block: int) -> float:
        return self.lanes[self.blocks[block].lane] + WIDTH / 2

    def down(self, source: int) -> float:
        place, number = self.downs[source][0]
        if place == "lane":
            return self.middle(source)
        return self.gutter_x[number] + self.gutters[number].of[source] * _TRACK

    def port(self, source: int, target: int) -> float:
        """Where an edge enters: straight from above in the middle; others beside, as their sources stand."""
        middle, own = self.middle(target), self.blocks[target]
        others = [one for one in own.sources if not self._is_straight(one, target)]
        if source not in others:
            return middle
        if len(own.sources) == 1 and (own.lane, own.layer - 1) not in self.taken:
            return middle  # nothing else comes down there
        left = sorted((one for one in others if self.blocks[one].lane < own.lane), key=self._order)
        right = sorted((one for one in others if self.blocks[one].lane >= own.lane), key=self._order)
        step = min(_PORT, (WIDTH / 2 - 8) / max(len(left), len(right), 1))
        if source in left:
            return middle - step * (len(left) - left.index(source))
        return middle + step * (right.index(source) + 1)

    def _is_straight(self, source: int, target: int) -> bool:
        one, other = self.blocks[source], self.blocks[target]
        free = one.layer == other.layer - 1 or self.downs[source][0][0] == "lane"
        return one.lane == other.lane and free

    def _order(self, block: int) -> tuple[int, int]:
        return self.blocks[block].lane, -self.blocks[block].layer


def _spans(place: _Places) -> dict[int, dict[int, tuple[float, float]]]:
    """How far each source's edges reach across in each gap; the gap's number is that of the layer below."""
    reach: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for target, block in enumerate(place.blocks):
        for source in block.sources:
            entry, start = place.port(source, target), place.middle(source)
            upper = place.blocks[source].layer + 1
            if block.layer == upper:
                reach[upper][source] += [start, entry]
                continue
            x = place.down(source)
            reach[upper][source] += [start, x]
            reach[block.layer][source] += [x, entry]
    return {
        gap: {source: (min(xs), max(xs)) for source, xs in one.items() if min(xs) < max(xs)}
        for gap, one in reach.items()
    }


def _down(blocks: Sequence[Block], gaps: Mapping[int, _Tracks]) -> list[int]:
    """Tops of the layers."""
    count = max(block.layer for block in blocks) + 1
    rows = [1] * count
    for block in blocks:
        rows[block.layer] = max(rows[block.layer], block.rows)
    tops, y = [], 0
    for layer in range(count):
        tracks = gaps[layer].count if layer in gaps else 0
        y += _GAP + max(tracks - 1, 0) * _TRACK if layer else 0
        tops.append(y)
        y += height_of(rows[layer])
    return tops


def _way(
    place: _Places, source: int, target: int, gaps: Mapping[int, _Tracks], tops: Sequence[int],
) -> tuple[Point, ...]:  # fmt: skip
    """The corners of one edge."""
    own, block = place.blocks[source], place.blocks[target]
    start, entry = place.middle(source), place.port(source, target)

    def level(gap: int) -> float:
        """The source's track in a gap, counted from the bottom, where the next layer begins."""
        tracks = gaps.get(gap)
        return tops[gap] - _GAP / 2 - (tracks.of.get(source, 0) if tracks else 0) * _TRACK

    upper = level(own.layer + 1)
    corners: list[Point] = [(start, tops[own.layer] + height_of(own.rows)), (start, upper)]
    if block.layer > own.layer + 1:
        x, lower = place.down(source), level(block.layer)
        corners += [(x, upper), (x, lower), (entry, lower)]
    else:
        corners.append((entry, upper))
    return tuple(_without_repeats([*corners, (entry, float(tops[block.layer]))]))


def _without_repeats(corners: Iterable[Point]) -> list[Point]:
    """Without corners at which nothing turns."""
    found: list[Point] = []
    for corner in corners:
        if found and corner == found[-1]:
            continue
        if len(found) > 1 and (
            found[-2][0] == found[-1][0] == corner[0] or found[-2][1] == found[-1][1] == corner[1]
        ):
            found.pop()
        found.append(corner)
    return found
