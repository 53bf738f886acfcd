"""Convolution3D of C3D, which is a convolution over three axes in other words.

Source: facebookarchive/C3D, `convolution3d_layer.cpp` of versions 1.0 and 1.1.
"""

from __future__ import annotations

from dataclasses import replace

from ....conv import Size
from ..fields import Fields
from ..net import LayerSpec
from .convolution import Convolution

_PARAM, _OLDER = "convolution3d_param", "convolution_param"
_SIZES = {"kernel_size": "kernel_depth", "stride": "temporal_stride", "pad": "temporal_pad"}


class Volume(Convolution):
    """Convolutions over depth, height and width, the last two of one size."""

    types: tuple[str, ...] = ("Convolution3D",)
    param = _PARAM

    def refusal(self, layer: LayerSpec, shape: Size | None) -> str | None:
        return (
            "Convolution3D has one size for height and width, which factors may not have; say it as "
            "Convolution with three sizes (kernel_size: depth, height, width), which has the same weights"
        )

    def parameters(self, layer: LayerSpec) -> Fields:
        return as_convolution(layer).fields.message("convolution_param")


def as_convolution(layer: LayerSpec) -> LayerSpec:
    """The Convolution that a Convolution3D is.

    `filter_group` splits the work, not the channels; `group` is not read there.
    """
    fields = layer.fields
    given = fields.message(_OLDER if fields.has(_OLDER) else _PARAM)
    values = {
        name: given.values[name]
        for name in ("num_output", "bias_term", "weight_filler", "bias_filler")
        if given.has(name)
    }
    for name, depth in (
        ("kernel_size", "kernel_depth"),
        ("stride", "temporal_stride"),
        ("pad", "temporal_pad"),
    ):
        plane = (given.integers(name) or (given.integer(name),))[-1]
        values[name] = (given.integer(depth), plane, plane)
    rest = {name: value for name, value in fields.values.items() if name not in (_PARAM, _OLDER)}
    convolution = Fields("ConvolutionParameter", values)
    return replace(
        layer, type="Convolution", fields=Fields(fields.type, {**rest, "convolution_param": [convolution]})
    )
