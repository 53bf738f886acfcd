"""Putting stacks of convolutions in the place of nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from ...conv import Array, FactorConv, Factors
from .convolution import Use
from .graphs import DEFAULTS_SINCE_IR, Constant, Graphs, Scope, value_names
from .groups import Group, bias_of
from .tensors import Files, new_tensor

Address = tuple[int, int]


class Editor:
    """A copy of a model that is being edited.

    Attributes:
        model: the copy; complete after `finish`.
    """

    def __init__(self, model: ModelProto, files: Files) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self._graphs = Graphs(self.model)
        self._files = files
        self._values = value_names(self._graphs)
        self._names = {node.name for _, _, node in self._graphs.nodes()} | self._values
        #: What takes the place of a node, and what comes before it.
        self._instead: dict[Address, list[NodeProto]] = {}
        self._before: dict[Address, list[NodeProto]] = {}
        #: What comes after an initializer, and after all those of a graph.
        self._tensors: dict[tuple[int, str], list[TensorProto]] = {}
        self._more: dict[int, list[TensorProto]] = {}
        self._infos: dict[int, list[ValueInfoProto]] = {}
        #: Values that replaced nodes have read: number of the graph and name.
        self._left: set[tuple[int, str]] = set()

    def replace(self, group: Group, stack: Factors) -> tuple[str, ...]:
        """Replace all nodes of a group; gives the names of those that stand for the first."""
        weight = self._own(group.weight)
        first = group.uses[0]
        arrays = [first.adapter.stored(first.node, conv.weight, conv.geometry) for conv in stack.convs]
        weights = [self._add(weight, f"{weight.name}_{i}", array) for i, array in enumerate(arrays)]
        names = [self._replace_node(use, group, stack, weights) for use in group.uses]
        return names[0]

    def finish(self) -> ModelProto:
        """Carry everything out, and remove what nothing reads any more."""
        # Inner graphs first: the nodes that hold them are copied into the new row.
        for scope in reversed(self._graphs.scopes):
            self._rebuild(scope)
        prune(self.model, self._left)
        return self.model

    def _rebuild(self, scope: Scope) -> None:
        graph, number = scope.graph, scope.number
        nodes: list[NodeProto] = []
        for position, node in enumerate(graph.node):
            nodes += self._before.get((number, position), ())
            nodes += self._instead.get((number, position), [node])
        if any(holder == number for holder, _ in (*self._instead, *self._before)):
            del graph.node[:]
            graph.node.extend(nodes)
        stored: list[TensorProto] = []
        for tensor in graph.initializer:
            stored += [tensor, *self._tensors.get((number, tensor.name), ())]
        stored += self._more.get(number, ())
        if len(stored) > len(graph.initializer):
            del graph.initializer[:]
            graph.initializer.extend(stored)
        graph.value_info.extend(self._infos.get(number, ()))

    def _own(self, constant: Constant) -> Constant:
        """A constant of the original, in this copy."""
        scope = self._graphs.scopes[constant.scope.number]
        if constant.steps:  # it is computed already
            return dataclasses.replace(constant, scope=scope)
        found = self._graphs.constant(scope, constant.name)
        assert isinstance(found, Constant), "Bug: the copy differs from its original"
        return found

    def _free(self, name: str, taken: set[str]) -> str:
        base, number = name, 2
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        taken.add(name)
        return name

    def _add(self, beside: Constant, name: str, array: Array) -> str:
        """Store a constant where another one is, in the same way; gives its name.

        What takes the place of a constant expression is an initializer.
        """
        name = self._free(name, self._values)
        tensor = new_tensor(name, array, beside.tensor)
        scope = beside.scope
        if beside.node is None:
            if beside.steps:
                self._more.setdefault(scope.number, []).append(tensor)
            else:
                self._tensors.setdefault(beside.key, []).append(tensor)
            if self.model.ir_version < DEFAULTS_SINCE_IR and scope.outer is None:
                scope.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
        else:
            node_name = self._free(name, self._names)
            node = helper.make_node("Constant", [], [name], node_name, value=tensor)
            self._before.setdefault((scope.number, beside.node), []).append(node)
        return name

    def _replace_node(self, use: Use, group: Group, stack: Factors, weights: list[str]) -> tuple[str, ...]:
        node, opset = self._graphs.node(use.scope.number, use.position), self._graphs.opset
        count = len(stack.convs)
        names = [self._free(f"{use.name}_{i}", self._names) for i in range(count)]
        values = [self._free(f"{name}_output", self._values) for name in names[:-1]]
        chain = [node.input[0], *values, node.output[0]]
        nodes = []
        for i, conv in enumerate(stack.convs):
            new = NodeProto()
            new.CopyFrom(node)  # with its documentation and all that is not known here
            new.name = names[i]
            bias = self._bias(use, group, conv) if i == count - 1 else ""
            if not bias and use.adapter.needs_bias(opset):
                zeros = np.zeros(conv.geometry.c_out)
                bias = self._add(self._own(group.weight), f"{weights[i]}_zero", zeros)
            new.input[:] = [chain[i], weights[i], *([bias] if bias else [])]
            new.output[:] = [chain[i + 1]]
            use.adapter.write(new, conv.geometry, last=i == count - 1)
            nodes += use.adapter.biased(
                new, opset, partial(self._free, taken=self._values), partial(self._free, taken=self._names)
            )
        self._instead[use.scope.number, use.position] = nodes
        self._infos.setdefault(use.scope.number, []).extend(_value_infos(use, node, values, stack))
        for name in node.input[1:]:
            self._left.update(self._graphs.expression(self._graphs.scopes[use.scope.number], name))
        return tuple(names)

    def _bias(self, use: Use, group: Group, last: FactorConv) -> str:
        """Name of the bias of a use: its own one plus what the stack adds to the first use's; "" for none."""
        own, first = bias_of(use, self._files), bias_of(group.uses[0], self._files)
        zeros = np.zeros(last.geometry.c_out)
        shift = (zeros if last.bias is None else last.bias) - (zeros if first is None else first)
        if not np.any(shift):
            return "" if use.bias is None else use.node.input[2]
        total = shift + (zeros if own is None else own)
        beside = self._own(group.weight if use.bias is None else use.bias)
        return self._add(
            beside, f"{beside.name}_new" if use.bias is not None else f"{beside.name}_bias", total
        )


def _value_infos(use: Use, node: NodeProto, values: list[str], stack: Factors) -> list[ValueInfoProto]:
    """What a model that describes the node's output says of the values inside the stack."""
    graph = use.scope.graph
    known = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}
    output, source = known.get(node.output[0]), known.get(node.input[0])
    if output is None or not output.type.tensor_type.HasField("shape"):
        return []
    infos = use.adapter.between(node, source, output, stack.chain)
    for info, name in zip(infos, values, strict=True):
        info.name = name
    return infos


def prune(model: ModelProto, candidates: Collection[tuple[int, str]]) -> None:
    """Remove those of `candidates` (number of the graph, name of a value) that nothing reads."""
    while True:
        graphs = Graphs(model)
        unread = [
            {
                name
                for number, name in candidates
                if number == scope.number and scope.defines(name) and _is_unread(graphs, scope, name)
            }
            for scope in graphs.scopes
        ]
        if not any(unread):
            return
        for scope, names in zip(reversed(graphs.scopes), reversed(unread), strict=True):
            graph = scope.graph
            _remove(graph.node, lambda node: bool(names.intersection(node.output)))  # noqa: B023 - used at once
            for field in (graph.initializer, graph.input, graph.value_info):
                _remove(field, lambda one: one.name in names)  # noqa: B023 - used at once
            _remove(graph.sparse_initializer, lambda one: one.values.name in names)  # noqa: B023 - used at once
            _remove(graph.quantization_annotation, lambda one: one.tensor_name in names)  # noqa: B023 - used at once


def _is_unread(graphs: Graphs, scope: Scope, name: str) -> bool:
    """Whether nothing reads a value, nor what the same node gives beside it."""
    made = scope.graph.node[scope.makers[name]].output if name in scope.makers else [name]
    return not any(graphs.readers(scope, one) for one in made if one)


def _remove(field: Any, unwanted: Callable[[Any], bool]) -> None:
    """Remove items of a repeated field."""
    for position in reversed([i for i, item in enumerate(field) if unwanted(item)]):
        del field[position]
