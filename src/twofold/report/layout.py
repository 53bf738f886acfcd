"""A network laid out from top to bottom: what can be computed at once in one layer, branches in lanes.

Activations and normalisations are drawn as part of what they follow. A convolution that was decomposed is as
many rows high as its stack is long, so that the network before and the network after have the same outline. A
layer is as high as its highest block, so that between two layers there is always room to pass (`routes`).
Where nothing changed over several layers, these are drawn as one block (`folding`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import count

from ..formats.graph import NetGraph, Node
from .folding import Block, fold, layers_of

#: Types that follow a layer and change neither sizes nor channels.
_FOLDED = re.compile(
    r"(p|leaky|c|r|thresholded)?relu6?|batch_?norm(alization)?(\d?d)?|scale|bias|dropout\d?d?|sigmoid|tanh|clip|"
    r"c?elu|selu|silu|gelu|mish|hard_?swish|hard_?sigmoid|swish|identity|instance_?norm(alization)?(\d?d)?|"
    r"group_?norm(alization)?|power|split|softplus|softsign|erf",
    re.IGNORECASE,
)
#: What joins a value with an activation of it.
_GATE = re.compile("mul", re.IGNORECASE)


def lay_out(
    graph: NetGraph, heights: Mapping[str, int], changed: Collection[str] | None = None
) -> tuple[Block, ...]:
    """Place a network.

    Args:
        graph: the network.
        heights: rows of the convolutions that have more than one, by the name of the layer.
        changed: names of the layers that were decomposed; runs of others are folded. None folds nothing.
    """
    blocks = _with_activations(graph)
    blocks = blocks if changed is None else fold(blocks, changed)
    layers = layers_of(blocks)
    lanes = _lanes(blocks, layers)
    return tuple(
        replace(block, layer=layer, rows=heights.get(block.node.layer or "", 1), lane=lane)
        for block, layer, lane in zip(blocks, layers, lanes, strict=True)
    )


def _with_activations(graph: NetGraph) -> list[Block]:
    gated = _gated(graph)
    readers = _readers(graph)
    of_node: list[int] = []
    parts: list[tuple[Node, list[str], tuple[int, ...]]] = []
    for index, node in enumerate(graph.nodes):
        alone = _alters(node) and len(readers[node.sources[0]]) == 1
        if alone or index in gated:
            block = of_node[node.sources[0]]
            parts[block][1].append(node.op_type)
            of_node.append(block)
            continue
        of_node.append(len(parts))
        parts.append((node, [], tuple(dict.fromkeys(of_node[source] for source in node.sources))))
    return [Block(node, tuple(op_types), sources) for node, op_types, sources in parts]


def _readers(graph: NetGraph) -> list[list[int]]:
    """For each node, the nodes that read it."""
    readers: list[list[int]] = [[] for _ in graph.nodes]
    for index, node in enumerate(graph.nodes):
        for source in node.sources:
            readers[source].append(index)
    return readers


def _alters(node: Node) -> bool:
    """Whether a node changes one value, not its shape."""
    return len(node.sources) == 1 and node.layer is None and _FOLDED.fullmatch(node.op_type) is not None


def _gated(graph: NetGraph) -> set[int]:
    """Nodes of activations that are spelt out: x * f(x), as ONNX has SiLU and Mish."""
    readers = _readers(graph)
    found: set[int] = set()
    for index, node in enumerate(graph.nodes):
        if node.layer is not None or not _GATE.fullmatch(node.op_type) or len(node.sources) != 2:
            continue
        for source, last in (node.sources, node.sources[::-1]):
            path = [last]
            while _alters(graph.nodes[path[-1]]) and len(readers[path[-1]]) == 1:
                path.append(graph.nodes[path[-1]].sources[0])
            if len(path) > 1 and path[-1] == source and sorted(readers[source]) == sorted((path[-2], index)):
                found.update(path[:-1], (index,))
    return found


def _lanes(blocks: Sequence[Block], layers: Sequence[int]) -> list[int]:
    """A lane for each block: its lowest source's where that path is the longest one on, else a free one."""
    parents = [max(block.sources, key=lambda source: layers[source], default=None) for block in blocks]
    beyond = [0] * len(blocks)
    for i in reversed(range(len(blocks))):
        for source in blocks[i].sources:
            beyond[source] = max(beyond[source], beyond[i] + 1)
    heirs: dict[int, int] = {}
    for i, parent in enumerate(parents):
        if parent is not None and (parent not in heirs or beyond[i] > beyond[heirs[parent]]):
            heirs[parent] = i
    taken: set[tuple[int, int]] = set()
    lanes: list[int] = []
    for i, parent in enumerate(parents):
        own = 0 if parent is None else lanes[parent]
        start = own if parent is None or heirs[parent] == i else own + 1
        lane = next(lane for lane in count(start) if (lane, layers[i]) not in taken)
        taken.add((lane, layers[i]))
        lanes.append(lane)
    return lanes
