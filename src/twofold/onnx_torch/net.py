"""A graph as a function in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto
from torch import Tensor

from ..formats.onnx.fold import dense
from ..formats.onnx.graphs import DOMAIN, opset_of
from ..formats.onnx.tensors import Files, read_array
from .registry import Node, Operation, UnsupportedError, build, from_array


@dataclass(frozen=True, eq=False)
class Step:
    """One node that has run.

    Attributes:
        position: of the node in the graph.
        operator: its type.
        inputs: what it was given.
        outputs: what it gave; a caller may ask for gradients of these before the next step.
        values: all values that are needed further on, by name.
    """

    position: int
    operator: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    values: Mapping[str, Tensor]


class OnnxNet:
    """What a model's graph computes, in torch.

    Attributes:
        outputs: what is computed; other nodes are left out.
        constants: what initializers and Constant nodes give, by name; other values may be put here.
    """

    def __init__(
        self,
        model: ModelProto,
        outputs: Sequence[str],
        files: Files | None = None,
        make: Mapping[str, Callable[[NodeProto], Operation]] | None = None,
    ) -> None:
        """Read the nodes that some values depend on.

        Args:
            model: the model.
            outputs: names of the values.
            files: data files beside the model.
            make: by type of operator, what makes the operation of a node; else the registered builder.

        Raises:
            UnsupportedError: some nodes cannot be computed; all are named.
        """
        self.outputs = tuple(outputs)
        opset = opset_of(model)
        needed, names = _needed(model.graph.node, self.outputs)
        self.constants: dict[str, Tensor] = {}
        self._nodes: list[tuple[int, NodeProto, Operation]] = []
        rejected: dict[str, list[str]] = {}
        for position in needed:
            node = model.graph.node[position]
            try:
                if node.domain not in DOMAIN:
                    raise UnsupportedError(f"{node.domain}.{node.op_type}")
                own = (make or {}).get(node.op_type)
                operation = own(node) if own else build(Node.of(node, opset))
                if node.op_type == "Constant":
                    self.constants[node.output[0]] = operation()  # type: ignore[assignment]
                else:
                    self._nodes.append((position, node, operation))
            except UnsupportedError as error:
                rejected.setdefault(str(error), []).append(node.name or next(filter(None, node.output), ""))
        if rejected:
            raise UnsupportedError(
                ", ".join(f"{what} ({len(names)} x, first {names[0]!r})" for what, names in rejected.items())
            )
        for tensor in model.graph.initializer:
            if tensor.name in names:
                self.constants[tensor.name] = from_array(read_array(tensor, files or {}))
        for sparse in model.graph.sparse_initializer:
            if sparse.values.name in names:
                self.constants[sparse.values.name] = from_array(dense(sparse, files or {}))
        self._last = {name: position for position, node, _ in self._nodes for name in node.input}
        self._last |= dict.fromkeys(self.outputs, len(model.graph.node))

    def __call__(self, feed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs for inputs by name."""
        values: Mapping[str, Tensor] = {**self.constants, **feed}
        for step in self.walk(feed):
            values = step.values
        return {name: values[name] for name in self.outputs}

    def walk(self, feed: Mapping[str, Tensor]) -> Iterator[Step]:
        """Run node by node; values are let go once nothing needs them."""
        values = {**self.constants, **feed}
        for position, node, operation in self._nodes:
            inputs = tuple(values[name] if name else None for name in node.input)
            result = operation(*inputs)
            outputs = result if isinstance(result, tuple) else (result,)
            values.update((name, one) for name, one in zip(node.output, outputs, strict=False) if name)
            for name in (*node.input, *node.output):
                if self._last.get(name, -1) <= position:
                    values.pop(name, None)
            yield Step(position, node.op_type, inputs, outputs, values)


def _needed(nodes: Sequence[NodeProto], outputs: Sequence[str]) -> tuple[list[int], set[str]]:
    """Positions of the nodes that values depend on, and the names of all values among them."""
    names = set(outputs)
    found = []
    for position in reversed(range(len(nodes))):
        if not names.isdisjoint(nodes[position].output):
            found.append(position)
            names.update(nodes[position].input)
    return found[::-1], names
