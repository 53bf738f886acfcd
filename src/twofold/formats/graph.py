"""The structure of a network, for showing it: who feeds whom. Nothing is computed from it."""

from __future__ import annotations

from dataclasses import dataclass

from ..renamed import former_fields

#: Size along each axis; None where it is not known.
Shape = tuple[int | None, ...]


@former_fields(kind="op_type")
@dataclass(frozen=True)
class Node:
    """One layer, operator or module.

    Attributes:
        name: its name.
        op_type: its type, as the format calls it: "Convolution", "Conv", "Conv2d".
        sources: positions of the nodes that feed it, all before its own.
        shape: of its first output; None where it is not known.
        layer: name of the convolution that it is a use of, as `Model.convolutions` gives it; None for others.
    """

    name: str
    op_type: str
    sources: tuple[int, ...] = ()
    shape: Shape | None = None
    layer: str | None = None


@dataclass(frozen=True)
class NetGraph:
    """A network.

    Attributes:
        nodes: each after those that feed it.
        complete: whether the edges are known; else each node is fed by the one before.
    """

    nodes: tuple[Node, ...]
    complete: bool = True

    def __post_init__(self) -> None:
        for position, node in enumerate(self.nodes):
            if any(not 0 <= source < position for source in node.sources):
                raise ValueError(f"node {node.name!r} is fed by {node.sources}, which are not all before it")
