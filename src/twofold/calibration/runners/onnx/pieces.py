"""A model cut at its convolutions, so that what each is given is seen, and only what follows is run again.

Values that are needed further on go from piece to piece; no more of the network is held at a time. In a piece
that begins with a convolution its weight and bias may be fed: a stack is tried as the one convolution that it
equals, since no bias and no nonlinearity stands inside a stack.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from ....formats.onnx.layer_types import adapter_of
from .graph import Graph
from .session import Arrays, Session

#: Names of what is fed instead of a convolution's own weight and bias.
_WEIGHT, _BIAS = "twofold weight", "twofold bias"


class Pieces:
    """A graph in pieces; sessions are opened when they are first needed.

    Attributes:
        cuts: positions of the nodes at which pieces begin, after the first piece.
    """

    def __init__(self, graph: Graph, positions: Sequence[int]) -> None:
        self._graph = graph
        self.cuts = tuple(sorted(set(positions)))
        self._starts = (0, *self.cuts)
        self._stops = (*self.cuts, len(graph.model.graph.node))
        self._live = [graph.live(start) for start in (*self._starts, self._stops[-1])]
        self._sessions: dict[tuple[int, bool], Session] = {}

    def number(self, position: int) -> int:
        """Number of the piece that begins at a position."""
        return bisect_left(self.cuts, position) + 1

    def __len__(self) -> int:
        return len(self._starts)

    def advance(
        self, values: Arrays, piece: int, weights: tuple[NDArray[Any], NDArray[Any]] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run one piece.

        Args:
            values: what is live where it begins.
            piece: its number.
            weights: weight and bias for the convolution that it begins with; None for its own.

        Returns:
            What is live where it ends.
        """
        if self._live[piece + 1] <= self._live[piece]:  # nothing is made, as before a net's first convolution
            return {name: values[name] for name in self._live[piece + 1]}
        key = (piece, weights is not None)
        if weights is not None:
            values = {**values, _WEIGHT: weights[0], _BIAS: weights[1]}
        if key not in self._sessions:
            self._sessions[key] = self._open(piece, values, weights is not None)
        found = self._sessions[key](values)
        return {name: found[name] if name in found else values[name] for name in self._live[piece + 1]}

    def _open(self, piece: int, values: Arrays, fed: bool) -> Session:
        first, stop = self._starts[piece], self._stops[piece]
        instead: Mapping[int, Sequence[NodeProto]] = {}
        elem_types = {
            name: helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype) for name, value in values.items()
        }
        if fed:
            node = NodeProto()
            node.CopyFrom(self._graph.model.graph.node[first])
            node.input[:] = [node.input[0], _WEIGHT, _BIAS]
            adapter = adapter_of(node)
            assert adapter is not None, "Bug: a piece begins with a node that is no layer"
            instead = {first: adapter.biased(node, self._graph.opset)}
        made = sorted(self._live[piece + 1] - self._live[piece])
        return Session(self._graph.part(first, stop, elem_types, made, instead), made)
