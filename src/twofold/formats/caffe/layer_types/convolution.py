"""Convolution, and those of forks that have its parameters."""

from __future__ import annotations

from ....conv import ConvGeometry, Size
from ....errors import ModelError
from ..fields import Fields, axis_of
from ..net import LayerSpec
from ..window import HOLES, SIDES, gives, window
from .base import LayerAdapter, Sides, Sizes


class Convolution(LayerAdapter):
    """Convolutions over any number of axes."""

    layer_type = "convolution"
    types: tuple[str, ...] = ("Convolution", "CuDNNConvolution")  # the second of forks
    param = "convolution_param"

    def rejection(self, layer: LayerSpec, shape: Size | None) -> str | None:
        return None if self._plain(layer) else "its channel axis is not 1"

    def _plain(self, layer: LayerSpec) -> bool:
        return self.parameters(layer).integer("axis") == 1

    def taken(self, layer: LayerSpec, shape: Size) -> tuple[int, Size] | None:
        return (shape[1], shape[2:]) if self._plain(layer) else None

    def top(self, layer: LayerSpec, shape: Size) -> Size:
        axis = axis_of(self.parameters(layer).integer("axis"), len(shape))
        if len(shape) - axis == 1:
            raise ValueError("no spatial axes")
        conv = self.geometry(layer, len(shape) - axis - 1, shape[axis])
        size = conv.output_size(shape[axis + 1 :])
        if min(size) < 1:
            raise ValueError("the kernel is larger than the padded input")
        return (*shape[:axis], conv.c_out, *size)

    def channels(self, layer: LayerSpec, stored: Size) -> int:
        return stored[1] * self.groups(layer, stored[0])

    def groups(self, layer: LayerSpec, c_in: int) -> int:
        """Number of channel groups of a layer with `c_in` input channels."""
        return self.parameters(layer).integer("group")

    def geometry(self, layer: LayerSpec, axes: int, c_in: int) -> ConvGeometry:
        sizes = window(layer, self.parameters(layer), axes)
        c_out, groups = self.outputs(layer), self.groups(layer, c_in)
        if groups < 1 or c_in % groups or c_out % groups:
            raise ModelError(
                f"{layer.label}: group is {groups}, which must divide its {c_in} input and {c_out} output "
                "channels"
            )
        return ConvGeometry(
            c_out, c_in, sizes.kernel, sizes.stride, sizes.pad, sizes.dilation, groups, self.layer_type
        )

    def sizes(self, geometry: ConvGeometry, param: Fields | None = None) -> tuple[Sizes, ...]:
        param = param or Fields("ConvolutionParameter")
        holes = (HOLES[0], *HOLES[1])
        return (
            Sizes(("kernel_size", "kernel_h", "kernel_w"), 0, geometry.kernel),
            _pads(geometry, param),
            Sizes(("stride", "stride_h", "stride_w"), 1, geometry.stride),
            Sizes(holes if gives(param, *holes) else ("dilation",), 1, geometry.dilation),
            Sizes(("group",), 1, (geometry.groups,)),
        )


def _pads(geometry: ConvGeometry, param: Fields) -> Sizes:
    alike = all(before == after for before, after in geometry.pad)
    if alike and not gives(param, *SIDES):
        return Sizes(("pad", "pad_h", "pad_w"), 0, tuple(before for before, _ in geometry.pad))
    return Sides(SIDES, 0, tuple(size for pad in geometry.pad for size in pad))


class Depthwise(Convolution):
    """Types of forks that have one group per channel where the text gives no groups."""

    types = ("DepthwiseConvolution", "ConvolutionDepthwise")

    def rejection(self, layer: LayerSpec, shape: Size | None) -> str | None:
        return f"a depthwise convolution (type {layer.type}); these are not decomposed"

    def groups(self, layer: LayerSpec, c_in: int) -> int:
        return super().groups(layer, c_in) if self.parameters(layer).has("group") else c_in
