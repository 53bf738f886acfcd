"""What the first node with weights of a graph is given, and its first batch normalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from ....errors import ModelError
from ....formats.onnx.graphs import is_op
from ...inputs import Batch
from ...runner import Norm, Place
from .graph import Graph
from .session import Session

Parts = Callable[[Batch], list[dict[str, NDArray[Any]]]]
_WEIGHTED = ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "Gemm", "MatMul", "BatchNormalization")


def first_place(graph: Graph, types: Mapping[str, int], parts: Parts) -> Place | None:
    """Where the first node with weights stands.

    Args:
        graph: the graph.
        types: of its inputs.
        parts: a batch as what the graph takes at a time.
    """
    found = _first(graph, _WEIGHTED)
    return None if found is None else Place(*_seen(graph, found, types, parts))


def first_norm(graph: Graph, types: Mapping[str, int], parts: Parts) -> Norm | None:
    """Where the first batch normalisation with stored statistics stands; arguments as for `first_place`."""
    found = _first(graph, ("BatchNormalization",))
    if found is None:
        return None
    node = graph.model.graph.node[found]
    stored = [graph.stored(name) for name in node.input[3:5]]
    mean, variance = (None if one is None else np.asarray(one, np.float32) for one in stored)
    if mean is None or variance is None:
        return None
    return Norm(*_seen(graph, found, types, parts), mean, variance)


def _first(graph: Graph, operators: tuple[str, ...]) -> int | None:
    nodes = graph.model.graph.node

    def fits(node: NodeProto) -> bool:
        return any(is_op(node, operator) for operator in operators) and graph.depends(node.input[0])

    return next((one for one in graph.positions if fits(nodes[one])), None)


def _seen(
    graph: Graph, position: int, types: Mapping[str, int], parts: Parts
) -> tuple[str, Callable[[Batch], NDArray[np.float32]]]:
    node = graph.model.graph.node[position]
    value = node.input[0]
    session: list[Session] = []  # opened when it is needed

    def run(batch: Batch) -> NDArray[np.float32]:
        given = parts(batch)
        if value not in types:
            if not session:
                session.append(Session(graph.part(0, position, types, [value]), [value]))
            given = [session[0](one) for one in given]
        found = [np.asarray(one[value], np.float32) for one in given]
        if len({one.shape[1:] for one in found}) > 1:
            raise ModelError(f"what {node.name or value!r} is given differs in shape from sample to sample")
        return np.concatenate(found)[: len(next(iter(batch.values())))]  # the last part may be filled up

    return node.name or node.output[0], run
