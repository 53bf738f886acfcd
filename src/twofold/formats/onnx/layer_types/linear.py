"""Gemm and MatMul."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from onnx import NodeProto, ValueInfoProto, helper

from ....conv import ConvGeometry, Size
from ..attributes import attribute, integer
from .base import LayerAdapter, Operator, Shape

#: From this version on operators broadcast without being told, and from this one on Gemm needs no bias.
_BROADCASTING, _GEMM_WITHOUT_BIAS = 7, 11


def known(shapes: Sequence[Shape], index: int) -> Size | None:
    """One of some shapes, where it is known as a whole and has an axis."""
    shape = shapes[index] if index < len(shapes) else None
    if not shape or None in shape:
        return None
    return tuple(size for size in shape if size is not None)


def product_macs(a: Size, b: Size) -> int | None:
    """Multiply-accumulates of a product of matrices (..., rows, in) by (..., in, out)."""
    rows, columns = (a[-2] if len(a) > 1 else 1), (b[-1] if len(b) > 1 else 1)
    try:
        return math.prod(np.broadcast_shapes(a[:-2], b[:-2])) * rows * a[-1] * columns
    except ValueError:  # they do not fit
        return None


class Linear(LayerAdapter):
    """Fully connected layers whose weight is (in, out)."""

    layer_type = "linear"

    def size(self, shape: Shape) -> Size | None:
        """Vectors, as many as there are between the batch and their values."""
        inner = None if shape is None else shape[1:-1]
        return None if inner is None or None in inner else (math.prod(d for d in inner if d is not None),)

    def geometry(self, node: NodeProto, dims: Size, size: Size | None) -> tuple[ConvGeometry | None, str]:
        if len(dims) != 2:
            return None, f"its weight has the shape {list(dims)}; one of 2 axes is needed"
        c_in, c_out = dims if self.turned(node) else dims[::-1]
        return ConvGeometry.linear(c_out, c_in), ""

    def macs(self, node: NodeProto, shapes: Sequence[Shape]) -> int | None:
        factors = self.factors(node, shapes)
        return None if factors is None else product_macs(*factors)

    def factors(self, node: NodeProto, shapes: Sequence[Shape]) -> tuple[Size, Size] | None:
        """Shapes of what it multiplies as matrices, (..., rows, in) and (..., in, out); None if not known."""
        first, second = known(shapes, 0), known(shapes, self.weight)
        return None if first is None or second is None else (first, second)

    def turned(self, node: NodeProto) -> bool:
        return True

    def write(self, node: NodeProto, geometry: ConvGeometry, *, last: bool) -> None:
        """Its weight says all."""

    def between(
        self, node: NodeProto, source: ValueInfoProto | None, output: ValueInfoProto,
        chain: Sequence[ConvGeometry],
    ) -> list[ValueInfoProto]:  # fmt: skip
        """As the output, but for the last axis."""
        infos = []
        for shape in chain[:-1]:
            info = ValueInfoProto()
            info.CopyFrom(output)
            info.type.tensor_type.shape.dim[-1].Clear()
            info.type.tensor_type.shape.dim[-1].dim_value = shape.c_out
            infos.append(info)
        return infos


class Gemm(Linear):
    """Gemm, of one vector per sample; its weight may be (out, in)."""

    operators: tuple[Operator, ...] = (("", "Gemm"),)

    def size(self, shape: Shape) -> Size | None:
        return (1,)

    def geometry(self, node: NodeProto, dims: Size, size: Size | None) -> tuple[ConvGeometry | None, str]:
        shaped, problem = super().geometry(node, dims, size)
        for name in ("alpha", "beta"):
            found = attribute(node, name)
            if found is not None and found.f != 1.0:
                problem = problem or f"it scales by {name} = {found.f:g}"
        if integer(node, "transA", 0):
            problem = problem or "it transposes its input"
        return shaped, problem

    def turned(self, node: NodeProto) -> bool:
        return not integer(node, "transB", 0)

    def needs_bias(self, opset: int) -> bool:
        return opset < _GEMM_WITHOUT_BIAS

    def biased(
        self, node: NodeProto, opset: int, value: Callable[[str], str] = str,
        name: Callable[[str], str] = str,
    ) -> list[NodeProto]:  # fmt: skip
        """As it is; in old models the node says that its bias is one row for all."""
        if opset < _BROADCASTING and len(node.input) > 2 and attribute(node, "broadcast") is None:
            node.attribute.append(helper.make_attribute("broadcast", 1))
        return [node]


class MatMul(Linear):
    """MatMul by a constant; that of two results, as in attention, is no layer."""

    operators: tuple[Operator, ...] = (("", "MatMul"),)
    constant = True

    def runs_biased(self, opset: int) -> bool:
        return opset >= _BROADCASTING

    def biased(
        self, node: NodeProto, opset: int, value: Callable[[str], str] = str,
        name: Callable[[str], str] = str,
    ) -> list[NodeProto]:  # fmt: skip
        """With an Add behind it, since it takes no bias."""
        if len(node.input) < 3:
            return [node]
        *factors, bias = node.input
        output, product = node.output[0], value(f"{node.output[0]}_unbiased")
        node.input[:] = factors
        node.output[:] = [product]
        add = helper.make_node("Add", [product, bias], [output], name(f"{node.name}_bias"))
        if opset < _BROADCASTING:
            add.attribute.append(helper.make_attribute("broadcast", 1))
        return [node, add]
