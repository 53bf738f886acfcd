"""Where an emitter writes: the nodes and constants of one Caffe layer in an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ..caffe_torch import Layer
from ..conv import Size
from ..formats.caffe.net import LayerSpec

#: Name of a value of the graph.
Value = str


@dataclass
class Graph:
    """A graph under construction.

    Attributes:
        nodes: in the order in which they run.
        constants: initializers by name.
        taken: names of values that are in use or kept for blobs.
    """

    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    _parameters: dict[tuple[int, Size], Value] = field(default_factory=dict)

    def fresh(self, name: str) -> str:
        """`name`, with a number behind it where it is taken."""
        found, count = name, 1
        while found in self.taken:
            count += 1
            found = f"{name}_{count}"
        self.taken.add(found)
        return found

    def parameter(self, name: str, layer: Layer, index: int, shape: Size | None) -> Value:
        """A parameter blob as a constant; one that layers share is stored once."""
        blob = layer.blobs[index].detach().cpu()
        shape = tuple(blob.shape) if shape is None else shape
        key = (blob.data_ptr(), shape)
        if key not in self._parameters:
            self._parameters[key] = self.constant(name, blob.numpy().reshape(shape))
        return self._parameters[key]

    def constant(self, name: str, array: NDArray[Any]) -> Value:
        """An array as a constant."""
        name = self.fresh(name)
        self.constants[name] = numpy_helper.from_array(np.array(array, order="C"), name)
        return name


@dataclass
class Site:
    """One layer that is written into a graph.

    Attributes:
        graph: what it is written into.
        module: the layer, with its parameters.
        bottoms: values of its inputs.
        shapes: shapes of its inputs as they were when the net ran; the first axis may change with the batch.
        top_shapes: shapes of its outputs then.
    """

    graph: Graph
    module: Layer
    bottoms: tuple[Value, ...]
    shapes: tuple[Size, ...]
    top_shapes: tuple[Size, ...]
    _nodes: list[NodeProto] = field(default_factory=list)

    @property
    def spec(self) -> LayerSpec:
        """The layer's definition."""
        return self.module.spec

    def node(self, operator: str, *inputs: Value, **attributes: Any) -> Value:
        """Add a node; gives its output. `""` stands for an input that is left out."""
        return self.nodes(operator, inputs, 1, **attributes)[0]

    def nodes(
        self, operator: str, inputs: Sequence[Value], count: int, **attributes: Any
    ) -> tuple[Value, ...]:
        """Add a node of several outputs."""
        name = f"{self.spec.name}/{operator}"
        outputs = [self.graph.fresh(name) for _ in range(count)]
        self._nodes.append(helper.make_node(operator, inputs, outputs, outputs[0], **attributes))
        return tuple(outputs)

    def constant(self, name: str, array: Any, dtype: type[np.generic] = np.float32) -> Value:
        """Add a constant, called by the layer and `name`."""
        return self.graph.constant(f"{self.spec.name}/{name}", np.asarray(array, dtype))

    def integers(self, name: str, values: Sequence[int]) -> Value:
        """Add a list of integers, such as a shape."""
        return self.constant(name, list(values), np.int64)

    def parameter(self, index: int, shape: Size | None = None) -> Value:
        """A parameter blob of the layer, in its own shape or another."""
        name = f"{self.spec.name}/{self.module.blob_names[index]}"
        return self.graph.parameter(name, self.module, index, shape)

    def reshaped(self, value: Value, shape: Size) -> Value:
        """The same values in another shape; its first axis follows from the others, whatever the batch."""
        if not shape:
            return self.node("Reshape", value, self.integers("shape", ()))
        return self.node("Reshape", value, self.integers("shape", (-1, *shape[1:])))

    def finish(self, values: Sequence[Value], names: Sequence[Value]) -> None:
        """Give the layer's outputs their names, and the node that computes the last of them the layer's."""
        own = {output: node for node in self._nodes for output in node.output}
        for value, name in zip(values, names, strict=True):
            node = own.pop(value, None)
            if node is None:  # an input or a constant, under another name
                self._nodes.append(helper.make_node("Identity", [value], [name], name))
                continue
            for one in self._nodes:
                for field_ in (one.input, one.output):
                    field_[:] = [name if old == value else old for old in field_]
        if self._nodes:
            self._nodes[-1].name = self.spec.name
        self.graph.nodes.extend(self._nodes)
