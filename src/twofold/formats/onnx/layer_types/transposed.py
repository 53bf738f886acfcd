"""ConvTranspose."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import NodeProto

from ....conv import ConvGeometry, Size
from ..attributes import attribute, auto_pad, integers
from .convolution import Convolution


class Transposed(Convolution):
    """Transposed convolutions over any number of axes."""

    layer_type = "transposed"
    operators = (("", "ConvTranspose"),)

    def channels(self, dims: Size, groups: int) -> tuple[int, int]:
        return dims[1] * groups, dims[0]

    def output_padding(self, node: NodeProto) -> Size:
        return integers(node, "output_padding", ())

    def problem(self, node: NodeProto) -> str:
        if auto_pad(node).startswith("SAME") or attribute(node, "output_shape"):
            return "its pads follow from the size of its output; write them out (pads, output_padding)"
        return ""

    def attributes(self, geometry: ConvGeometry) -> dict[str, Iterable[int] | int]:
        return {**super().attributes(geometry), "output_padding": geometry.output_padding}
