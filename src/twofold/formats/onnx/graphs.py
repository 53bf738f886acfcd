"""The graphs of an ONNX model: who makes a value, who reads it, and whether it is a constant.

A graph may hold others in its nodes' attributes (the branches of If, the bodies of Loop and Scan), which see
the outer graph's values. Nodes are addressed by the number of their graph and their position in it, so that
what was found in one copy of a model holds for another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

#: From this version on an initializer that is also an input is a default value, before that every one is.
DEFAULTS_SINCE_IR = 4

DOMAIN = ("", "ai.onnx")


def is_op(node: NodeProto, *types: str) -> bool:
    """Whether a node is an operator of ONNX itself, of one of these types."""
    return node.op_type in types and node.domain in DOMAIN


@dataclass(frozen=True, eq=False)
class Scope:
    """One graph.

    Attributes:
        number: its place among all graphs of the model; 0 is the main graph.
        graph: itself.
        outer: the graph around it; None for the main graph.
        holder: the node in whose attributes it is; None for the main graph.
        makers: name of each value -> position of the node that makes it.
        tensors: its initializers by name.
        inputs: names of its inputs.
    """

    number: int
    graph: GraphProto
    outer: Scope | None
    holder: NodeProto | None
    makers: dict[str, int]
    tensors: dict[str, TensorProto]
    inputs: frozenset[str]

    @classmethod
    def of(
        cls, number: int, graph: GraphProto, outer: Scope | None = None, holder: NodeProto | None = None
    ) -> Scope:  # fmt: skip
        """Index one graph."""
        makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        inputs = frozenset(value.name for value in graph.input)
        return cls(number, graph, outer, holder, makers, tensors, inputs)

    @property
    def place(self) -> str:
        """The node that holds it, in words; "" for the main graph."""
        node = self.holder
        return "" if node is None else f"the {node.op_type} {node.name or next(iter(node.output), '')!r}"

    def defines(self, name: str) -> bool:
        """Whether a value belongs to this graph itself."""
        return name in self.makers or name in self.tensors or name in self.inputs


@dataclass(frozen=True)
class Reader:
    """Someone who reads a value.

    Attributes:
        graph: number of the graph.
        node: position of the node; None where the value is an output of the graph.
        index: which of the node's inputs (or of the graph's outputs) it is.
    """

    graph: int
    node: int | None
    index: int


@dataclass(frozen=True, eq=False)
class Constant:
    """A value that never changes.

    Attributes:
        scope: the graph that holds it.
        name: its name there, whatever Identity nodes call it further down.
        tensor: its data.
        node: position of the Constant node that makes it; None for an initializer.
    """

    scope: Scope
    name: str
    tensor: TensorProto
    node: int | None = None

    @property
    def key(self) -> tuple[int, str]:
        """What tells it from other constants of the model."""
        return self.scope.number, self.name


class Graphs:
    """All graphs of a model.

    Attributes:
        model: the model.
        scopes: its graphs, the main graph first, each before those that it holds.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.scopes: list[Scope] = []
        waiting: deque[tuple[GraphProto, Scope | None, NodeProto | None]] = deque([(model.graph, None, None)])
        while waiting:
            graph, outer, holder = waiting.popleft()
            scope = Scope.of(len(self.scopes), graph, outer, holder)
            self.scopes.append(scope)
            waiting.extend((inner, scope, node) for node in graph.node for inner in held(node))
        self._readers: dict[tuple[int, str], list[Reader]] = {}
        for scope in self.scopes:
            for position, node in enumerate(scope.graph.node):
                for index, name in enumerate(node.input):
                    self._note(scope, name, Reader(scope.number, position, index))
            for index, value in enumerate(scope.graph.output):
                self._note(scope, value.name, Reader(scope.number, None, index))

    def _note(self, scope: Scope, name: str, reader: Reader) -> None:
        holder = holder_of(scope, name) if name else None
        if holder is not None:
            self._readers.setdefault((holder.number, name), []).append(reader)

    def node(self, graph: int, position: int) -> NodeProto:
        """One node."""
        node: NodeProto = self.scopes[graph].graph.node[position]
        return node

    def nodes(self) -> Iterator[tuple[Scope, int, NodeProto]]:
        """All nodes of all graphs with their positions."""
        for scope in self.scopes:
            for position, node in enumerate(scope.graph.node):
                yield scope, position, node

    def readers(self, scope: Scope, name: str) -> list[Reader]:
        """Who reads a value that `scope` defines, in the model's order."""
        return self._readers.get((scope.number, name), [])

    def final_readers(self, constant: Constant) -> list[Reader]:
        """Who reads a constant, directly or through Identity nodes."""
        found, waiting = [], [(constant.scope, constant.name)]
        while waiting:
            scope, name = waiting.pop()
            for reader in self.readers(scope, name):
                node = None if reader.node is None else self.node(reader.graph, reader.node)
                if node is not None and is_op(node, "Identity"):
                    waiting.append((self.scopes[reader.graph], node.output[0]))
                else:
                    found.append(reader)
        return found

    def sources(self, scope: Scope, name: str) -> list[tuple[int, str]]:
        """A value and those that it copies through Identity nodes: number of the graph and name."""
        found: list[tuple[int, str]] = []
        holder = holder_of(scope, name)
        while holder is not None and (holder.number, name) not in found:
            found.append((holder.number, name))
            position = holder.makers.get(name)
            node = None if position is None else holder.graph.node[position]
            if node is None or not is_op(node, "Identity") or not node.input:
                break
            name = node.input[0]
            holder = holder_of(holder, name)
        return found

    def maker(self, scope: Scope, name: str) -> NodeProto | None:
        """The node that makes a value, seen through Identity nodes; None where none does."""
        chain = self.sources(scope, name)
        if not chain:
            return None
        number, name = chain[-1]
        position = self.scopes[number].makers.get(name)
        return None if position is None else self.scopes[number].graph.node[position]

    def constant(self, scope: Scope, name: str) -> Constant | str:
        """The constant that a value is, or why it is none, as the end of a sentence."""
        chain = self.sources(scope, name)
        if not chain:
            return f"is {name!r}, which nothing defines"
        number, name = chain[-1]
        holder = self.scopes[number]
        if name in holder.tensors:
            if name in holder.inputs and self.model.ir_version >= DEFAULTS_SINCE_IR:
                return f"is {name!r}, an input of the graph, which a caller may change; remove that input"
            return Constant(holder, name, holder.tensors[name])
        if name in holder.inputs:
            return f"is {name!r}, an input of the graph"
        node = holder.graph.node[holder.makers[name]]
        if is_op(node, "Constant"):
            tensors = [attribute.t for attribute in node.attribute if attribute.name == "value"]
            if tensors:
                return Constant(holder, name, tensors[0], holder.makers[name])
        if is_op(node, "DequantizeLinear"):
            return "is quantized (it comes from DequantizeLinear); decompose first, then quantize"
        return f"is computed ({name!r} comes from {node.op_type})"

    def quantized(self, scope: Scope, name: str) -> Constant | None:
        """The constant that a DequantizeLinear makes a value of; None where a value is no such."""
        chain = self.sources(scope, name)
        node = self.maker(scope, name)
        if node is None or not is_op(node, "DequantizeLinear"):
            return None
        found = self.constant(self.scopes[chain[-1][0]], node.input[0])
        return found if isinstance(found, Constant) else None


def holder_of(scope: Scope, name: str) -> Scope | None:
    """The graph that defines a value as `scope` sees it."""
    found: Scope | None = scope
    while found is not None and not found.defines(name):
        found = found.outer
    return found


def held(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def value_names(graphs: Graphs) -> set[str]:
    """Every name of a value in any graph."""
    names = set()
    for scope in graphs.scopes:
        names |= scope.makers.keys() | scope.tensors.keys() | scope.inputs
        names |= {value.name for value in (*scope.graph.value_info, *scope.graph.output)}
        names |= {name for node in scope.graph.node for name in node.input}
        names |= {sparse.values.name for sparse in scope.graph.sparse_initializer}
    return names
