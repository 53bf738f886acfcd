"""How nodes of ONNX hold layers: the base class, and the registry."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from onnx import NodeProto, ValueInfoProto

from ....conv import Array, ConvGeometry, Size
from ...registry import Adapter, AdapterRegistry
from ..graphs import DOMAIN

#: Domain and type; the domain of ONNX itself is "", None is any other.
Operator = tuple[str | None, str]
#: Shape of a value, None per axis that is not known; None where nothing is.
Shape = tuple[int | None, ...] | None


class LayerAdapter(Adapter):
    """How nodes of some operators hold a layer: inputs are a value, a weight, perhaps a bias.

    Attributes:
        layer_type: name of the layer type in `twofold.layer_types`.
        operators: those that hold it.
        weight: which input the weight is; 1 of all that are replaced.
        constant: whether a node is a layer only where its weight is a constant.
    """

    operators: tuple[Operator, ...]
    weight: int = 1
    constant: bool = False

    def rejection(self, node: NodeProto) -> str:
        """Why it cannot be replaced, whatever its weight; "" where it can."""
        return ""

    @abstractmethod
    def size(self, shape: Shape) -> Size | None:
        """Spatial size of an input of that shape; None where that does not tell."""

    @abstractmethod
    def geometry(self, node: NodeProto, dims: Size, size: Size | None) -> tuple[ConvGeometry | None, str]:
        """The shape of a node with a weight of shape `dims`, and what is wrong with it; "" if nothing is."""

    def arranged(self, node: NodeProto, shape: Shape) -> Shape:
        """The shape of its first input with the axes as ONNX's own operators have them."""
        return shape

    def macs(self, node: NodeProto, shapes: Sequence[Shape]) -> int | None:
        """Multiply-accumulates of all samples where no geometry says them; None where they are not known.

        Args:
            node: the node.
            shapes: of its inputs.
        """
        return None

    def turned(self, node: NodeProto) -> bool:
        """Whether it has its weight with the axes in reverse."""
        return False

    def attributes(self, geometry: ConvGeometry) -> dict[str, Iterable[int] | int]:
        """The attributes that say a shape."""
        return {}

    @abstractmethod
    def write(self, node: NodeProto, geometry: ConvGeometry, *, last: bool) -> None:
        """Make a copy of a node the one of a stack that has this shape.

        Args:
            node: the copy, with the inputs and outputs of the new one.
            geometry: the new shape.
            last: whether it gives what the node has given; there goes what is done to the result.
        """

    @abstractmethod
    def between(
        self, node: NodeProto, source: ValueInfoProto | None, output: ValueInfoProto,
        chain: Sequence[ConvGeometry],
    ) -> list[ValueInfoProto]:  # fmt: skip
        """What is to be said of the values inside a stack, names apart.

        Args:
            node: the node that it stands for.
            source: what the model says of its input; None for nothing.
            output: what it says of its output, with a shape.
            chain: shapes of the stack.
        """

    def needs_bias(self, opset: int) -> bool:
        """Whether a node must have a bias in that version of ONNX's operators, be it zero."""
        return False

    def runs_biased(self, opset: int) -> bool:
        """Whether ONNX Runtime runs what `biased` gives in that version of ONNX's operators."""
        return True

    def biased(
        self, node: NodeProto, opset: int, value: Callable[[str], str] = str,
        name: Callable[[str], str] = str,
    ) -> list[NodeProto]:  # fmt: skip
        """A node whose third input is its bias, in ONNX's terms.

        Args:
            node: a new node, which is changed.
            opset: the version of ONNX's operators.
            value: a free name of a value, from one that would do.
            name: a free name of a node, likewise.
        """
        return [node]

    # ---- what follows from this

    def canonical(self, node: NodeProto, array: Array, geometry: ConvGeometry) -> Array:
        """The weight as `ConvLayer` has it."""
        turned = np.ascontiguousarray(array.T) if self.turned(node) else array
        return geometry.semantics.canonical(turned, geometry)

    def stored(self, node: NodeProto, weight: Array, geometry: ConvGeometry) -> Array:
        """The weight as a node that stands in this one's place has it."""
        array = geometry.semantics.stored(weight, geometry)
        return np.ascontiguousarray(array.T) if self.turned(node) else array


registry: AdapterRegistry[Operator, LayerAdapter] = AdapterRegistry("operator", lambda one: one.operators)
register, plain = registry.register_adapter, registry.plain


def adapter_of(node: NodeProto) -> LayerAdapter | None:
    """The adapter of a node; None for one that is no layer."""
    if node.domain in DOMAIN:
        return registry.get(("", node.op_type))
    return registry.get((node.domain, node.op_type)) or registry.get((None, node.op_type))


def operators(layer_type: str) -> tuple[str, ...]:
    """Registered operators of a layer type, those of other domains with these."""
    known = registry.known(layer_type)
    return tuple(f"{'*' if domain is None else domain}.{type_}".lstrip(".") for domain, type_ in known)
