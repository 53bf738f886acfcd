"""A Caffe net as a graph, in the phase in which it can be opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...conv import Size
from ..graph import NetGraph, Node
from .groups import Group, open_phases
from .shapes import walk_shapes

if TYPE_CHECKING:
    from .prototxt import Document


def net_graph(document: Document, groups: Mapping[str, Group], inputs: Mapping[str, Size]) -> NetGraph:
    """The net as it is for testing; for training where only that can be opened."""
    net = open_phases(document)[0]
    owners = {name: group.name for group in groups.values() for name in group.names}
    nodes: list[Node] = []
    # A layer may work in place, so that a blob's maker is the last one so far.
    makers: dict[str, int] = {}
    for layer, (_, tops) in zip(net.layers, walk_shapes(net, inputs), strict=True):
        sources = tuple(dict.fromkeys(makers[name] for name in layer.bottoms))
        shape = tops.get(layer.tops[0]) if layer.tops else None
        makers.update(dict.fromkeys(layer.tops, len(nodes)))
        nodes.append(Node(layer.name, layer.type, sources, shape, owners.get(layer.name)))
    return NetGraph(tuple(nodes))
