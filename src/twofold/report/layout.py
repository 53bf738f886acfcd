"""A network laid out from top to bottom: layers in rows, branches in lanes.

Activations and normalisations are drawn as part of what they follow. A convolution that was decomposed is as
many rows high as its stack is long, so that the network before and the network after have the same outline.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..formats.graph import NetGraph, Node

#: Kinds that follow a layer and change neither sizes nor channels.
_FOLDED = re.compile(
    r"(p|leaky|c|r|thresholded)?relu6?|batch_?norm(alization)?(\d?d)?|scale|bias|dropout\d?d?|sigmoid|tanh|clip|"
    r"c?elu|selu|silu|gelu|mish|hard_?swish|hard_?sigmoid|swish|identity|instance_?norm(alization)?(\d?d)?|"
    r"group_?norm(alization)?|power|split",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Block:
    """What is drawn as one.

    Attributes:
        node: its first node.
        with_kinds: kinds of the nodes that were drawn into it.
        sources: positions of the blocks that feed it.
        row: its first row, from the top.
        rows: how many it has.
        lane: its lane, from the left.
    """

    node: Node
    with_kinds: tuple[str, ...]
    sources: tuple[int, ...]
    row: int = 0
    rows: int = 1
    lane: int = 0


def lay_out(graph: NetGraph, heights: Mapping[str, int]) -> tuple[Block, ...]:
    """Place a network.

    Args:
        graph: the network.
        heights: rows of the convolutions that have more than one, by the name of the layer.
    """
    blocks = _folded(graph)
    rows: list[int] = []
    for block in blocks:
        ends = [rows[i] + _height(blocks[i], heights) for i in block.sources]
        rows.append(max(ends, default=0))
    lanes = _lanes(blocks, rows, [_height(block, heights) for block in blocks])
    return tuple(
        Block(block.node, block.with_kinds, block.sources, row, _height(block, heights), lane)
        for block, row, lane in zip(blocks, rows, lanes, strict=True)
    )


def _height(block: Block, heights: Mapping[str, int]) -> int:
    return heights.get(block.node.layer or "", 1)


def _folded(graph: NetGraph) -> list[Block]:
    readers = [0] * len(graph.nodes)
    for node in graph.nodes:
        for source in node.sources:
            readers[source] += 1
    of_node: list[int] = []
    parts: list[tuple[Node, list[str], tuple[int, ...]]] = []
    for node in graph.nodes:
        alone = len(node.sources) == 1 and readers[node.sources[0]] == 1
        if alone and node.layer is None and _FOLDED.fullmatch(node.kind):
            block = of_node[node.sources[0]]
            parts[block][1].append(node.kind)
            of_node.append(block)
            continue
        of_node.append(len(parts))
        parts.append((node, [], tuple(dict.fromkeys(of_node[source] for source in node.sources))))
    return [Block(node, tuple(kinds), sources) for node, kinds, sources in parts]


def _lanes(blocks: Sequence[Block], rows: Sequence[int], heights: Sequence[int]) -> list[int]:
    """A lane for each block: its first source's where that path is the longest one on, else a free one."""
    beyond = [0] * len(blocks)
    for i in reversed(range(len(blocks))):
        for source in blocks[i].sources:
            beyond[source] = max(beyond[source], beyond[i] + heights[i])
    heirs: dict[int, int] = {}
    for i, block in enumerate(blocks):
        for source in block.sources[:1]:
            best = heirs.get(source)
            if best is None or beyond[i] > beyond[best]:
                heirs[source] = i
    taken: list[list[tuple[int, int]]] = []
    lanes: list[int] = []
    for i, block in enumerate(blocks):
        own = lanes[block.sources[0]] if block.sources else 0
        start = own if not block.sources or heirs.get(block.sources[0]) == i else own + 1
        span = (rows[i], rows[i] + heights[i])
        lane = start
        while lane < len(taken) and any(low < span[1] and span[0] < high for low, high in taken[lane]):
            lane += 1
        while lane >= len(taken):
            taken.append([])
        taken[lane].append(span)
        lanes.append(lane)
    return lanes
