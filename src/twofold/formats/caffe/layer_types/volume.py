"""Convolution3D of C3D, which is a convolution over three axes in other words.

Source: facebookarchive/C3D, `convolution3d_layer.cpp` of versions 1.0 and 1.1.
"""

from __future__ import annotations

from dataclasses import replace

from ....conv import Size
from ....errors import ModelError
from ..fields import Fields
from ..net import LayerSpec
from ..schema import MESSAGES
from .convolution import Convolution

_PARAM, _OLDER = "convolution3d_param", "convolution_param"
_MESSAGES = {_PARAM: "Convolution3DParameter", "pooling3d_param": "Pooling3DParameter"}
#: Field for height and width -> that for the depth, and what is taken where the first is not given.
_SIZES = {"kernel_size": ("kernel_depth", 0), "stride": ("temporal_stride", 1), "pad": ("temporal_pad", 0)}


class Volume(Convolution):
    """Convolutions over depth, height and width, the last two of one size."""

    types: tuple[str, ...] = ("Convolution3D",)
    param = _PARAM

    def rejection(self, layer: LayerSpec, shape: Size | None) -> str | None:
        return (
            "Convolution3D has one size for height and width, which factors may not have; say it as "
            "Convolution with three sizes (kernel_size: depth, height, width), which has the same weights"
        )

    def parameters(self, layer: LayerSpec) -> Fields:
        return as_convolution(layer).fields.message("convolution_param")


def volume_param(layer: LayerSpec, name: str, older: str) -> Fields:
    """The parameters of a layer of C3D: its version 1.0 has them in the message for images.

    Raises:
        ModelError: they say something that C3D has no word for.
    """
    param = layer.fields.message(older if layer.fields.has(older) else name)
    beyond = ", ".join(key for key in param.values if key not in MESSAGES[_MESSAGES[name]])
    if beyond:
        raise ModelError(f"{layer.label}: {layer.type} has no {beyond}; remove it")
    return param


def as_convolution(layer: LayerSpec) -> LayerSpec:
    """The Convolution that a Convolution3D is.

    `filter_group` splits the work, not the channels; `group` is not read there.
    """
    fields, given = layer.fields, volume_param(layer, _PARAM, _OLDER)
    values = {
        name: given.values[name]
        for name in ("num_output", "bias_term", "weight_filler", "bias_filler")
        if given.has(name)
    }
    for name, (depth, default) in _SIZES.items():
        plane = (given.integers(name) or (default,))[-1]
        values[name] = (given.integer(depth), plane, plane)
    rest = {name: value for name, value in fields.values.items() if name not in (_PARAM, _OLDER)}
    convolution = Fields("ConvolutionParameter", values)
    return replace(
        layer, type="Convolution", fields=Fields(fields.type, {**rest, "convolution_param": [convolution]})
    )
