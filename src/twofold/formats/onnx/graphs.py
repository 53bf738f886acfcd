"""The graphs of an ONNX model: who makes a value, who reads it, and whether it is a constant.

A graph may hold others in its nodes' attributes (the branches of If, the bodies of Loop and Scan), which see
the outer graph's values. Nodes are addressed by the number of their graph and their position in it, so that
what was found in one copy of a model holds for another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, numpy_helper

from ...errors import FormatError
from .fold import DOMAIN, dense, evaluate, is_foldable
from .tensors import Files, external_entry, is_external, read_array

__all__ = [
    "DOMAIN",
    "Constant",
    "Graphs",
    "Reader",
    "Scope",
    "held",
    "holder_of",
    "is_op",
    "opset_of",
    "value_names",
]

#: From this version on an initializer that is also an input is a default value, before that every one is.
DEFAULTS_SINCE_IR = 4


_CHANGED_BY_CALLER = ", which a caller may change; remove that input"
_LAYERS = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "ConvInteger", "MatMulInteger", "QLinearConv",
    "QLinearMatMul",
)  # fmt: skip
#: Stands for the step from a sparse tensor to its values.
_SPARSE = frozenset({"sparse initializer"})


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
        sparse: its sparse initializers by name.
        inputs: names of its inputs.
        role: the attribute that it is; "" for the main graph.
    """

    number: int
    graph: GraphProto
    outer: Scope | None
    holder: NodeProto | None
    makers: dict[str, int]
    tensors: dict[str, TensorProto]
    sparse: dict[str, SparseTensorProto]
    inputs: frozenset[str]
    role: str = ""

    @classmethod
    def of(
        cls, number: int, graph: GraphProto, outer: Scope | None = None, holder: NodeProto | None = None,
        role: str = "",
    ) -> Scope:  # fmt: skip
        """Index one graph."""
        makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        sparse = {one.values.name: one for one in graph.sparse_initializer}
        inputs = frozenset(value.name for value in graph.input)
        return cls(number, graph, outer, holder, makers, tensors, sparse, inputs, role)

    @property
    def place(self) -> str:
        """The node that holds it, in words; "" for the main graph."""
        node = self.holder
        return "" if node is None else f"the {node.op_type} {node.name or next(iter(node.output), '')!r}"

    def defines(self, name: str) -> bool:
        """Whether a value belongs to this graph itself."""
        return any(name in names for names in (self.makers, self.tensors, self.sparse, self.inputs))


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
        tensor: its data; those of an expression are computed, and are nowhere in the file.
        node: position of the Constant node that makes it; None for an initializer and an expression.
        steps: types of the operators that compute it of other constants; empty for one that is stored.
    """

    scope: Scope
    name: str
    tensor: TensorProto
    node: int | None = None
    steps: frozenset[str] = frozenset()

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

    def __init__(self, model: ModelProto, files: Files | None = None) -> None:
        """Index a model.

        Args:
            model: the model.
            files: data files beside it, which constant expressions may need.
        """
        self.model, self._files = model, files or {}
        self._folded: dict[tuple[int, str], Constant | str] = {}
        self.scopes: list[Scope] = []
        waiting: deque[tuple[GraphProto, Scope | None, NodeProto | None, str]]
        waiting = deque([(model.graph, None, None, "")])
        while waiting:
            graph, outer, holder, role = waiting.popleft()
            scope = Scope.of(len(self.scopes), graph, outer, holder, role)
            self.scopes.append(scope)
            waiting.extend(
                (inner, scope, node, role) for node in graph.node for role, inner in _held_as(node)
            )
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

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators."""
        return opset_of(self.model)

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
        """The constant that a value is, or why it is none, as the end of a sentence.

        What nodes compute of constants alone is one, too: its value is computed.
        """
        chain = self.sources(scope, name)
        if not chain:
            return f"is {name!r}, which nothing defines"
        number, name = chain[-1]
        holder = self.scopes[number]
        if name in holder.inputs and not self._is_default(holder, name):
            more = name in holder.tensors or name in holder.sparse
            return f"is {name!r}, an input of the graph" + (_CHANGED_BY_CALLER if more else "")
        if name in holder.tensors:
            return Constant(holder, name, holder.tensors[name])
        if (number, name) in self._varying:
            return self._why_varying(holder, name)
        if name in holder.makers:
            node = holder.graph.node[holder.makers[name]]
            if is_op(node, "Constant"):
                for attribute in node.attribute:
                    if attribute.name == "value":
                        return Constant(holder, name, attribute.t, holder.makers[name])
        if (number, name) not in self._folded:
            self._folded[number, name] = self._fold(holder, name)
        return self._folded[number, name]

    def is_weight(self, scope: Scope, name: str, factor: str) -> bool:
        """Whether a value is a weight: a constant, or one that a caller gives beside the data.

        That is what is made, by anything but layers, of inputs with a stored value, and of inputs that are
        matrices of a fixed size, and on which `factor`, what it is multiplied with, does not depend.
        """
        if isinstance(self.constant(scope, name), Constant):
            return True
        given = []
        for number, value in self.expression(scope, name):
            holder = self.scopes[number]
            if value in holder.makers:
                node = holder.graph.node[holder.makers[value]]
                if not is_foldable(node) or is_op(node, *_LAYERS):
                    return False
            elif value in holder.inputs and value not in holder.tensors and value not in holder.sparse:
                shape = next(one for one in holder.graph.input if one.name == value).type.tensor_type.shape
                if len(shape.dim) != 2 or not all(dim.dim_value for dim in shape.dim):
                    return False
                given.append((number, value))
        return not given or set(self.expression(scope, factor)).isdisjoint(given)

    def expression(self, scope: Scope, name: str) -> list[tuple[int, str]]:
        """A value and all that it is computed of, with what the same nodes give beside: graph and name."""
        found: dict[tuple[int, str], None] = {}
        waiting = [(scope, name)]
        while waiting:
            inner, value = waiting.pop()
            holder = holder_of(inner, value) if value else None
            if holder is None or (holder.number, value) in found:
                continue
            found[holder.number, value] = None
            if value in holder.makers:
                node = holder.graph.node[holder.makers[value]]
                waiting += [(holder, one) for one in (*node.output, *node.input)]
        return list(found)

    def _is_default(self, holder: Scope, name: str) -> bool:
        """Whether an input always has the value that is stored for it, as in old models."""
        stored = name in holder.tensors or name in holder.sparse
        return stored and self.model.ir_version < DEFAULTS_SINCE_IR

    @cached_property
    def _varying(self) -> frozenset[tuple[int, str]]:
        """Values that depend on what a caller gives, or are not computed here."""
        found: set[tuple[int, str]] = set()
        for scope in self.scopes:  # each after the one around it
            number = scope.number
            found.update((number, name) for name in scope.inputs if not self._is_default(scope, name))
            for node in scope.graph.node:
                if not is_foldable(node) or any(self._key(scope, name) in found for name in node.input):
                    found.update((number, name) for name in node.output)
        return frozenset(found)

    def _key(self, scope: Scope, name: str) -> tuple[int, str]:
        holder = holder_of(scope, name) if name else None
        return (-1 if holder is None else holder.number), name

    def _why_varying(self, holder: Scope, name: str) -> str:
        node = holder.graph.node[holder.makers[name]]
        told = f"is computed ({name!r} comes from {node.op_type})"
        inner = [one for one in node.input if self._key(holder, one) in self._varying]
        if not is_foldable(node) or len(inner) != 1:
            return told
        reason = self.constant(holder, inner[0])
        if isinstance(reason, str) and "an input of the graph" in reason:
            return f"{told}, from {reason.removeprefix('is ')}"
        return told

    def _fold(self, holder: Scope, name: str) -> Constant | str:
        """Compute a constant expression, or read a sparse tensor."""
        values = self.expression(holder, name)
        try:
            stored = {one: self._stored(number, one) for number, one in values}
        except FormatError as error:
            return f"is a constant that cannot be read: {error}"
        constants = {one: array for one, array in stored.items() if array is not None}
        found: NDArray[Any] | str
        places = sorted(
            {(number, self.scopes[number].makers[one]) for number, one in values if one not in constants}
        )
        nodes = [self.node(*place) for place in places]
        found = constants[name] if name in constants else evaluate(self.model, nodes, constants, name)
        if isinstance(found, str):
            return found
        tensor: TensorProto = numpy_helper.from_array(np.ascontiguousarray(found), name)
        location = next(filter(None, (self._location(number, one) for number, one in values)), "")
        if location:  # new tensors go where these are
            tensor.external_data.add(key="location", value=location)
        return Constant(holder, name, tensor, None, frozenset(node.op_type for node in nodes) or _SPARSE)

    def _stored(self, number: int, name: str) -> NDArray[Any] | None:
        scope = self.scopes[number]
        if name in scope.tensors:
            return read_array(scope.tensors[name], self._files)
        return dense(scope.sparse[name], self._files) if name in scope.sparse else None

    def _location(self, number: int, name: str) -> str:
        tensor = self.scopes[number].tensors.get(name)
        return "" if tensor is None or not is_external(tensor) else external_entry(tensor, "location")


def opset_of(model: ModelProto) -> int:
    """Version of ONNX's own operators that a model uses."""
    return next((one.version for one in model.opset_import if one.domain in DOMAIN), 1)


def holder_of(scope: Scope, name: str) -> Scope | None:
    """The graph that defines a value as `scope` sees it."""
    found: Scope | None = scope
    while found is not None and not found.defines(name):
        found = found.outer
    return found


def held(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in a node's attributes."""
    yield from (graph for _, graph in _held_as(node))


def _held_as(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    """The graphs in a node's attributes, with the names of these."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.name, attribute.g
        yield from ((attribute.name, graph) for graph in attribute.graphs)


def value_names(graphs: Graphs) -> set[str]:
    """Every name of a value in any graph."""
    names = set()
    for scope in graphs.scopes:
        names |= scope.makers.keys() | scope.tensors.keys() | scope.sparse.keys() | scope.inputs
        names |= {value.name for value in (*scope.graph.value_info, *scope.graph.output)}
        names |= {name for node in scope.graph.node for name in node.input}
    return names
