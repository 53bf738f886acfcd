"""What a Conv, ConvTranspose, Gemm or MatMul node says: its shape, and what keeps it from being replaced."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper

from ...conv import Array, ConvGeometry, Kind, Size
from ..layout import canonical, stored
from .graphs import DOMAIN, Constant, Graphs, Scope
from .tensors import BITS

#: Type of a node that is a convolution but cannot be replaced -> why, and which input is its weight.
OTHERS = {
    "DeformConv": ("a deformable convolution; these are not decomposed", 1),
    "ConvInteger": ("quantized (ConvInteger); decompose first, then quantize", 1),
    "QLinearConv": ("quantized (QLinearConv); decompose first, then quantize", 3),
}
#: Types of nodes that are replaced.
PLAIN = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: Those that are fully connected layers.
LINEAR = frozenset({"Gemm", "MatMul"})
#: Types of other domains that runtimes make when they optimise a model.
FUSED = frozenset({"FusedConv", "NhwcConv", "NhwcFusedConv", "QLinearConv"})


@dataclass(frozen=True, eq=False)
class Use:
    """One convolution node.

    Attributes:
        scope: the graph that holds it.
        position: where in it.
        node: itself.
        name: its own, or that of its output where it has none.
        weight: its weight; None where that is no constant.
        bias: its bias; None where it has none.
        geometry: its shape; None where the weight does not tell.
        input_size: spatial size of its input; None where it is not known.
        reason: why it cannot be replaced; "" where it can.
    """

    scope: Scope
    position: int
    node: NodeProto
    name: str
    weight: Constant | None
    bias: Constant | None
    geometry: ConvGeometry | None
    input_size: Size | None
    reason: str

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image; 0 where they are not known."""
        if self.geometry is None or self.input_size is None:
            return 0
        return self.geometry.macs(self.input_size)


def is_convolution(node: NodeProto) -> bool:
    """Whether a node is a convolution of any kind."""
    return (node.domain in DOMAIN and (node.op_type in PLAIN or node.op_type in OTHERS)) or (
        node.domain not in DOMAIN and node.op_type in FUSED
    )


def read_use(
    graphs: Graphs, scope: Scope, position: int, name: str, shape: tuple[int | None, ...] | None
) -> Use:
    """Read one node for which `is_convolution` holds.

    Args:
        graphs: all graphs of the model.
        scope: the graph that holds the node.
        position: where in it.
        name: what the layer is called.
        shape: of its input, None per axis that is not known.
    """
    node = scope.graph.node[position]
    inner = None if shape is None else shape[1:-1] if node.op_type in LINEAR else shape[2:]
    size = None if inner is None or None in inner else tuple(d for d in inner if d is not None)
    if node.op_type in LINEAR:  # takes vectors, as many as there are between the batch and their values
        size = None if size is None else (math.prod(size),)
    if node.op_type == "Gemm":
        size = (1,)
    weight: Constant | None = None
    bias: Constant | None = None
    reason, at = _kind(node)
    found = graphs.constant(scope, node.input[at]) if len(node.input) > at else "is missing"
    if isinstance(found, Constant):
        weight = found
        if not reason and weight.tensor.data_type not in BITS:
            reason = f"its weight is of type {_type_name(weight)}, which is not decomposed"
    else:
        reason = reason or f"its weight {found}"
    if not reason and len(node.input) > 2 and node.input[2]:
        found = graphs.constant(scope, node.input[2])
        if isinstance(found, Constant):
            bias = found
        else:
            reason = f"its bias {found}"
    geometry, problem = _geometry(node, weight, size)
    if bias is not None and geometry is not None and list(bias.tensor.dims) != [geometry.c_out]:
        problem = problem or f"its bias has the shape {list(bias.tensor.dims)}, not [{geometry.c_out}]"
    return Use(scope, position, node, name, weight, bias, geometry, size, reason or problem)


def _kind(node: NodeProto) -> tuple[str, int]:
    if node.domain not in DOMAIN:
        return (
            f"an operator of a runtime ({node.domain}.{node.op_type}); give the model as it was exported",
            1,
        )
    return OTHERS.get(node.op_type, ("", 1))


def _type_name(constant: Constant) -> str:
    return str(TensorProto.DataType.Name(constant.tensor.data_type))


def attribute(node: NodeProto, name: str) -> AttributeProto | None:
    """An attribute of a node."""
    return next((one for one in node.attribute if one.name == name), None)


def integers(node: NodeProto, name: str, default: Size) -> Size:
    """An attribute that is a list of integers."""
    found = attribute(node, name)
    return default if found is None else tuple(found.ints)


def auto_pad(node: NodeProto) -> str:
    """How a node's pads are chosen: NOTSET where it says them itself."""
    found = attribute(node, "auto_pad")
    return "NOTSET" if found is None else found.s.decode(errors="replace") or "NOTSET"


def _geometry(node: NodeProto, weight: Constant | None, size: Size | None) -> tuple[ConvGeometry | None, str]:
    """The shape of a node, and what is wrong with it; "" if nothing is."""
    if weight is None:
        return None, ""
    dims = tuple(weight.tensor.dims)
    if node.op_type in LINEAR:
        return _linear(node, dims)
    if len(dims) < 3:
        return None, f"its weight has the shape {list(dims)}; one of at least 3 axes is needed"
    kernel = dims[2:]
    ones = (1,) * len(kernel)
    group = attribute(node, "group")
    groups = 1 if group is None else int(group.i)
    c_out, c_in = dims[0], dims[1] * groups
    if node.op_type == "ConvTranspose":
        c_out, c_in = dims[1] * groups, dims[0]
    stride, dilation = integers(node, "strides", ones), integers(node, "dilations", ones)
    if not len(stride) == len(dilation) == len(kernel):
        return None, f"its strides or dilations do not fit a kernel of {len(kernel)} axes"
    pads, problem = _pads(node, kernel, stride, dilation, size)
    kind: Kind = "transposed" if node.op_type == "ConvTranspose" else "convolution"
    more = integers(node, "output_padding", ()) if kind == "transposed" else ()
    if kind == "transposed" and (auto_pad(node).startswith("SAME") or attribute(node, "output_shape")):
        problem = "its pads follow from the size of its output; write them out (pads, output_padding)"
    try:
        return ConvGeometry(c_out, c_in, kernel, stride, pads, dilation, groups, kind, more), problem
    except ValueError as error:
        return None, f"its shape is not supported: {error}"


def _linear(node: NodeProto, dims: Size) -> tuple[ConvGeometry | None, str]:
    if len(dims) != 2:
        return None, f"its weight has the shape {list(dims)}; one of 2 axes is needed"
    c_out, c_in = dims if is_transposed(node) else dims[::-1]
    shaped = ConvGeometry.linear(c_out, c_in)
    for name, plain in (("alpha", 1.0), ("beta", 1.0)):
        found = attribute(node, name)
        if found is not None and found.f != plain:
            return shaped, f"it scales by {name} = {found.f:g}"
    turned = attribute(node, "transA")
    return shaped, "it transposes its input" if turned is not None and turned.i else ""


def is_transposed(node: NodeProto) -> bool:
    """Whether a Gemm stores its weight as (out, in)."""
    found = attribute(node, "transB")
    return found is not None and bool(found.i)


def from_tensor(node: NodeProto, array: Array, shaped: ConvGeometry) -> Array:
    """The weight as `ConvLayer` has it."""
    turned = shaped.kind == "linear" and not is_transposed(node)
    return canonical(np.ascontiguousarray(array.T) if turned else array, shaped)


def to_tensor(node: NodeProto, weight: Array, shaped: ConvGeometry) -> Array:
    """The weight as a node that stands in this one's place stores it."""
    array = stored(weight, shaped)
    turned = shaped.kind == "linear" and not is_transposed(node)
    return np.ascontiguousarray(array.T) if turned else array


def biased(
    node: NodeProto, value: Callable[[str], str] = str, name: Callable[[str], str] = str
) -> list[NodeProto]:
    """A node whose third input is its bias, in ONNX's terms: MatMul takes none, so that an Add follows it.

    Args:
        node: a new node, which is changed.
        value: a free name of a value, from one that would do.
        name: a free name of a node, likewise.
    """
    if node.op_type != "MatMul" or len(node.input) < 3:
        return [node]
    *factors, bias = node.input
    output, product = node.output[0], value(f"{node.output[0]}_unbiased")
    node.input[:] = factors
    node.output[:] = [product]
    return [node, helper.make_node("Add", [product, bias], [output], name(f"{node.name}_bias"))]


def _pads(
    node: NodeProto, kernel: Size, stride: Size, dilation: Size, size: Size | None
) -> tuple[tuple[tuple[int, int], ...], str]:
    """Pads (before, after) per axis, and what is wrong; "SAME" needs the input's size if it strides."""
    none = ((0, 0),) * len(kernel)
    kind = auto_pad(node)
    if kind == "VALID":
        return none, ""
    if kind == "NOTSET":
        pads = integers(node, "pads", (0,) * 2 * len(kernel))
        if len(pads) != 2 * len(kernel):
            return none, f"its pads do not fit a kernel of {len(kernel)} axes"
        return tuple(zip(pads[: len(kernel)], pads[len(kernel) :], strict=True)), ""
    if kind not in ("SAME_UPPER", "SAME_LOWER"):
        return none, f"its auto_pad is {kind!r}"
    if size is None and max(stride) > 1:
        return none, f"its pads (auto_pad {kind}) depend on the input's size, which is not known; give it"
    found = []
    for axis, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True)):
        needed = d * (k - 1)
        if size is not None:
            needed = max(0, (-(-size[axis] // s) - 1) * s + d * (k - 1) + 1 - size[axis])
        small = needed // 2
        found.append((small, needed - small) if kind == "SAME_UPPER" else (needed - small, small))
    return tuple(found), ""
