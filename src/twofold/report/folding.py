"""Blocks of a drawn network, and runs of unchanged ones folded into a block each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ..formats.graph import Node

#: Blocks from which a run is folded.
_FEWEST = 3


@dataclass(frozen=True)
class Block:
    """What is drawn as one.

    Attributes:
        node: its first node.
        with_op_types: types of the nodes that were drawn into it.
        sources: positions of the blocks that feed it.
        layer: its layer, from the top.
        rows: how many rows it is high.
        lane: its lane, from the left.
        folded: the blocks that it stands for; empty for one that is drawn itself.
    """

    node: Node
    with_op_types: tuple[str, ...]
    sources: tuple[int, ...]
    layer: int = 0
    rows: int = 1
    lane: int = 0
    folded: tuple[Block, ...] = ()


def layers_of(blocks: Sequence[Block]) -> list[int]:
    """One below the lowest source; what has no source, right above what it feeds first."""
    layers: list[int] = []
    for block in blocks:
        layers.append(max((layers[i] + 1 for i in block.sources), default=0))
    highest: dict[int, int] = {}
    for block, layer in zip(blocks, layers, strict=True):
        for source in block.sources:
            highest[source] = min(highest.get(source, layer), layer)
    return [
        layer if block.sources else highest.get(i, 1) - 1
        for i, (block, layer) in enumerate(zip(blocks, layers, strict=True))
    ]


def fold(blocks: Sequence[Block], changed: Collection[str]) -> list[Block]:
    """Put one block in the place of all that lie in successive layers in which nothing changed.

    Edges go from layer to layer downwards, so that no cycle can arise.

    Args:
        blocks: each behind those that feed it.
        changed: names of the layers that were decomposed.
    """
    layers = layers_of(blocks)
    hot = {layer for block, layer in zip(blocks, layers, strict=True) if block.node.layer in changed}
    start: dict[int, int] = {}  # layer -> the first layer of its run
    for layer in range(max(layers, default=-1) + 1):
        start[layer] = layer if layer in hot or layer - 1 in hot else start.get(layer - 1, layer)
    runs: dict[int, list[int]] = defaultdict(list)
    for i, layer in enumerate(layers):
        runs[start[layer]].append(i)
    groups: list[list[int]] = []
    for first in sorted(runs):
        members = sorted(runs[first], key=lambda i: (layers[i], i))
        is_run = first not in hot and len(members) >= _FEWEST
        groups += [members] if is_run else [[i] for i in members]
    group_of = {i: number for number, members in enumerate(groups) for i in members}
    return [_merged([blocks[i] for i in members], n, group_of) for n, members in enumerate(groups)]


def _merged(members: Sequence[Block], number: int, group_of: dict[int, int]) -> Block:
    sources = dict.fromkeys(group_of[source] for block in members for source in block.sources)
    sources.pop(number, None)
    return replace(members[0], sources=tuple(sources), folded=tuple(members) if members[1:] else ())
