"""Layers that are listed with their cost, and stay as they are: one row for all that are alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnx import NodeProto

from ....conv import ConvGeometry, Size
from ..attributes import attribute, integer
from .base import LayerAdapter, Operator, Shape
from .convolution import Convolution
from .linear import Linear, known
from .transposed import Transposed

_QUANTIZED = "quantized ({}); decompose first, then quantize"
_FUSED = "an operator of a runtime ({}); give the model as it was exported"


class _Stays(LayerAdapter):
    """What keeps a node of these operators, whatever its weight."""

    def __init__(self, reason: str, *operators: Operator, weight: int = 1) -> None:
        """Make a row.

        Args:
            reason: why they stay, with {} for the operator.
            operators: that do.
            weight: which input the weight is.
        """
        self._reason, self.operators, self.weight = reason, operators, weight

    def rejection(self, node: NodeProto) -> str:
        return self._reason.format(".".join(filter(None, (node.domain, node.op_type))))


class Rejected(_Stays, Convolution):
    """A convolution over values (N, channels, *size), unless an attribute says that channels come last."""

    def arranged(self, node: NodeProto, shape: Shape) -> Shape:
        last = bool(integer(node, "channels_last", 0))
        return (shape[0], shape[-1], *shape[1:-1]) if last and shape and len(shape) > 2 else shape


class ChannelsLast(Rejected):
    """A convolution over values (N, *size, channels)."""

    def arranged(self, node: NodeProto, shape: Shape) -> Shape:
        return (shape[0], shape[-1], *shape[1:-1]) if shape and len(shape) > 2 else shape


class RejectedTransposed(_Stays, Transposed):
    """A transposed convolution."""


class Blocked(Rejected):
    """A convolution whose values and weight lie in blocks of a processor's own size; its cost is unknown."""

    def geometry(self, node: NodeProto, dims: Size, size: Size | None) -> tuple[ConvGeometry | None, str]:
        return None, ""


class Product(_Stays, Linear):
    """A product of matrices, each of which may be transposed."""

    constant = True

    def turned(self, node: NodeProto) -> bool:
        return not integer(node, "transB", 0)

    def geometry(self, node: NodeProto, dims: Size, size: Size | None) -> tuple[ConvGeometry | None, str]:
        # What turns its first factor has other vectors than layers have; `factors` says its cost.
        turned = integer(node, "transA", 0) or len(dims) != 2
        return (None, "") if turned else super().geometry(node, dims, size)

    def factors(self, node: NodeProto, shapes: Sequence[Shape]) -> tuple[Size, Size] | None:
        found = super().factors(node, shapes)
        if found is None or integer(node, "transBatchA", 0) or integer(node, "transBatchB", 0):
            return None
        first, second = found
        if integer(node, "transA", 0):
            first = (*first[:-2], *first[:-3:-1])
        return first, (*second[:-2], *second[:-3:-1]) if integer(node, "transB", 0) else second


class Packed(Product):
    """A product with a weight in a few bits for each value, whose size attributes say."""

    def geometry(self, node: NodeProto, dims: Size, size: Size | None) -> tuple[ConvGeometry | None, str]:
        c_in, c_out = integer(node, "K", 0), integer(node, "N", 0)
        return (ConvGeometry.linear(c_out, c_in), "") if c_in > 0 < c_out else (None, "")

    def factors(self, node: NodeProto, shapes: Sequence[Shape]) -> tuple[Size, Size] | None:
        return None


class Unknown(Product):
    """Products that are not counted here."""

    def geometry(self, node: NodeProto, dims: Size, size: Size | None) -> tuple[ConvGeometry | None, str]:
        return None, ""

    def factors(self, node: NodeProto, shapes: Sequence[Shape]) -> tuple[Size, Size] | None:
        return None


class Einsum(Unknown):
    """Einsum of values and a constant."""

    def macs(self, node: NodeProto, shapes: Sequence[Shape]) -> int | None:
        """The product of the sizes of all letters, for two factors; the order of more is not said."""
        found = attribute(node, "equation")
        equation = "" if found is None else found.s.decode(errors="replace").replace(" ", "")
        terms = equation.partition("->")[0].split(",")
        factors = [known(shapes, index) for index in range(len(shapes))]
        if len(terms) != 2 or len(factors) != 2 or "." in equation:
            return None
        sizes: dict[str, int] = {}
        for term, factor in zip(terms, factors, strict=True):
            if factor is None or len(factor) != len(term):
                return None
            for letter, size in zip(term, factor, strict=True):
                sizes[letter] = max(size, sizes.get(letter, 1)) if size else 0
        return math.prod(sizes.values())


def _others(*types: str) -> list[Operator]:
    """Operators of other domains than ONNX's own; ONNX Runtime has them in com.microsoft."""
    return [(None, one) for one in types]


REJECTED: tuple[LayerAdapter, ...] = (
    Rejected("a deformable convolution; these are not decomposed", ("", "DeformConv")),
    Rejected(_QUANTIZED, ("", "ConvInteger")),
    Rejected(_QUANTIZED, ("", "QLinearConv"), *_others("QLinearConv"), weight=3),
    Rejected(_FUSED, *_others("FusedConv")),
    ChannelsLast(_FUSED, *_others("NhwcConv", "NhwcFusedConv")),
    Blocked(_FUSED, ("com.microsoft.nchwc", "Conv")),
    RejectedTransposed(_FUSED, *_others("ConvTransposeWithDynamicPads")),
    Product(_QUANTIZED, ("", "MatMulInteger"), *_others("MatMulIntegerToFloat", "MatMulInteger16")),
    Product(_QUANTIZED, *_others("DynamicQuantizeMatMul")),
    Product(_QUANTIZED, ("", "QLinearMatMul"), *_others("QGemm"), weight=3),
    Product(_FUSED, *_others("FusedMatMul", "TransposeMatMul", "FusedMatMulActivation", "FusedGemm")),
    Product(_FUSED, *_others("Attention", "QAttention", "GemmFastGelu")),
    Packed(_QUANTIZED, *_others("MatMulNBits", "MatMulBnb4")),
    Unknown(_QUANTIZED, *_others("MatMulFpQ4", "GemmFloat8", "QMoE")),
    Unknown(_FUSED, *_others("SparseToDenseMatMul")),
    Unknown(_FUSED, *_others("MoE"), weight=2),
    Einsum("an Einsum, whose weight may have any order of axes; export it as MatMul", ("", "Einsum")),
)
