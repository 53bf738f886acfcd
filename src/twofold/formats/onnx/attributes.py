"""Reading the attributes of nodes."""

from __future__ import annotations

from onnx import AttributeProto, NodeProto

from ...conv import Size


def attribute(node: NodeProto, name: str) -> AttributeProto | None:
    """An attribute of a node."""
    return next((one for one in node.attribute if one.name == name), None)


def integer(node: NodeProto, name: str, default: int) -> int:
    """An attribute that is an integer."""
    found = attribute(node, name)
    return default if found is None else int(found.i)


def integers(node: NodeProto, name: str, default: Size) -> Size:
    """An attribute that is a list of integers."""
    found = attribute(node, name)
    return default if found is None else tuple(found.ints)


def auto_pad(node: NodeProto) -> str:
    """How a node's pads are chosen: NOTSET where it says them itself."""
    found = attribute(node, "auto_pad")
    return "NOTSET" if found is None else found.s.decode(errors="replace") or "NOTSET"
