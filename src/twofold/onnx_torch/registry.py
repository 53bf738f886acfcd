"""Operators of ONNX by type: a builder reads a node's attributes once and gives what runs it.

A builder rejects with `UnsupportedError` what it cannot compute exactly; nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from onnx import AttributeProto, NodeProto, TensorProto, helper
from torch import Tensor

from ..errors import ModelError
from ..registry import Registry
from ..renamed import former_property

#: What a node gives for its inputs; None stands for an input that is left out.
Operation = Callable[..., "Tensor | tuple[Tensor, ...]"]


class UnsupportedError(ModelError):
    """A node that cannot be computed in torch."""


@dataclass(frozen=True)
class Node:
    """A node as builders see it.

    Attributes:
        type: of the operator.
        opset: version of the operator set.
        attributes: by name; text as str, tensors as `Tensor`.
        outputs: number of outputs that have a name.
    """

    type: str
    opset: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1

    @classmethod
    def of(cls, proto: NodeProto, opset: int) -> Node:
        """Read a node."""
        attributes = {one.name: _value(one) for one in proto.attribute}
        return cls(proto.op_type, opset, attributes, sum(map(bool, proto.output)))

    def get(self, name: str, default: Any) -> Any:
        """An attribute, or its default."""
        return self.attributes.get(name, default)

    def reject(self, name: str, *allowed: Any) -> None:
        """Reject an attribute that is there with another value than the first, or another of `allowed`."""
        value = self.get(name, allowed[0])
        if value not in allowed:
            raise UnsupportedError(f"{self.type} with {name} = {value!r}")

    refuse = former_property("refuse", "reject")

    def reject_outputs(self, most: int = 1) -> None:
        """Reject more outputs."""
        if self.outputs > most:
            raise UnsupportedError(f"{self.type} with {self.outputs} outputs")


Builder = Callable[[Node], Operation]
BUILDERS: Registry[str, Builder] = Registry("operator")
register, unregister = BUILDERS.register, BUILDERS.unregister


def register_functions(**functions: Operation) -> None:
    """Register operators without attributes: their type and what computes them."""

    def builder(operation: Operation) -> Builder:
        return lambda _: operation

    for op_type, operation in functions.items():
        BUILDERS.add(builder(operation), op_type)


def operators() -> tuple[str, ...]:
    """All types that are registered."""
    return tuple(sorted(BUILDERS))


def build(node: Node) -> Operation:
    """What runs a node.

    Raises:
        UnsupportedError: nothing does.
    """
    if node.type not in BUILDERS:
        raise UnsupportedError(node.type)
    return BUILDERS[node.type](node)


def as_tensor(proto: TensorProto) -> Tensor:
    """A tensor whose data are in the message.

    Raises:
        UnsupportedError: torch has no such type.
    """
    from onnx import numpy_helper  # noqa: PLC0415 - keeps what is imported at the top to messages

    return from_array(numpy_helper.to_array(proto))


def from_array(array: np.ndarray[Any, Any]) -> Tensor:
    """A copy of an array.

    Raises:
        UnsupportedError: torch has no such type.
    """
    try:
        return torch.from_numpy(np.array(array))
    except TypeError as error:
        raise UnsupportedError(f"a tensor of type {array.dtype}") from error


def _value(attribute: AttributeProto) -> Any:
    if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        raise UnsupportedError("a branch or a loop")
    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return as_tensor(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if attribute.type == AttributeProto.STRINGS:
        return [one.decode(errors="replace") for one in value]
    return value
