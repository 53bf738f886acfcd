"""Convolutions that are listed, and stay as they are."""

from __future__ import annotations

from onnx import NodeProto

from .convolution import Convolution


class Refused(Convolution):
    """An operator of ONNX that is not decomposed."""

    def __init__(self, operator: str, reason: str, weight: int = 1) -> None:
        self.operators, self._reason, self.weight = (("", operator),), reason, weight

    def refusal(self, node: NodeProto) -> str:
        return self._reason


class Fused(Convolution):
    """Operators of other domains that runtimes make when they optimise a model."""

    operators = ((None, "FusedConv"), (None, "NhwcConv"), (None, "NhwcFusedConv"), (None, "QLinearConv"))

    def refusal(self, node: NodeProto) -> str:
        return f"an operator of a runtime ({node.domain}.{node.op_type}); give the model as it was exported"


REFUSED = (
    Refused("DeformConv", "a deformable convolution; these are not decomposed"),
    Refused("ConvInteger", "quantized (ConvInteger); decompose first, then quantize"),
    Refused("QLinearConv", "quantized (QLinearConv); decompose first, then quantize", weight=3),
    Fused(),
)
