"""The geometry of Caffe's convolutions, transposed ones, and fully connected layers, from their parameters.

Caffe spells sizes in two ways that exclude each other: a repeated field with one value for all axes or one
for each (`kernel_size`), or a pair for images (`kernel_h`, `kernel_w`).
Source: BVLC Caffe 1.0, `base_conv_layer.cpp`, `inner_product_layer.cpp`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...conv import Array, ConvGeometry, Kind, Size
from ...errors import ModelError
from ..layout import canonical, stored, stored_shape
from .fields import Fields
from .net import LayerSpec

#: Types of forks that have one group per channel where the text gives no groups.
DEPTHWISE = ("DepthwiseConvolution", "ConvolutionDepthwise")
#: Types whose parameters are a `convolution_param`; all but the first two belong to forks.
CONVOLUTIONS = ("Convolution", "Deconvolution", "CuDNNConvolution", *DEPTHWISE)
LINEAR = "InnerProduct"
#: Types of layers that are listed -> where their parameters are.
PARAMETERS = {**dict.fromkeys(CONVOLUTIONS, "convolution_param"), LINEAR: "inner_product_param"}


def parameters(layer: LayerSpec) -> Fields:
    """The parameters of one of the types in `PARAMETERS`."""
    return layer.fields.message(PARAMETERS[layer.type])


@dataclass(frozen=True)
class Window:
    """Kernel, stride, pad and dilation per spatial axis."""

    kernel: Size
    stride: Size
    pad: Size
    dilation: Size


def window(layer: LayerSpec, param: Fields, axes: int) -> Window:
    """Sizes of the sliding window of a convolution-like layer over `axes` spatial axes.

    Raises:
        ModelError: a combination that Caffe refuses; says which and what to write instead.
    """
    kernel = _spread(layer, param, "kernel_size", ("kernel_h", "kernel_w"), axes, None)
    stride = _spread(layer, param, "stride", ("stride_h", "stride_w"), axes, 1)
    pad = _spread(layer, param, "pad", ("pad_h", "pad_w"), axes, 0)
    dilation = _spread(layer, param, "dilation", None, axes, 1)
    for name, sizes in (("kernel_size", kernel), ("stride", stride), ("dilation", dilation)):
        if min(sizes, default=1) < 1:
            raise ModelError(f"{layer.label}: {name} is {list(sizes)}; it must be at least 1")
    return Window(kernel, stride, pad, dilation)


def _spread(
    layer: LayerSpec, param: Fields, name: str, pair: tuple[str, str] | None, axes: int, default: int | None
) -> Size:
    given = param.integers(name)
    if pair and any(param.has(one) for one in pair):
        wanted = f"{layer.label}: either {name} or both {pair[0]} and {pair[1]} may be given"
        if given:
            raise ModelError(f"{wanted}, found both ways; remove one")
        if not all(param.has(one) for one in pair) and default is None:
            raise ModelError(f"{wanted}, found only one of the pair; add the other")
        if axes != 2:
            raise ModelError(f"{wanted} for two spatial axes only, here are {axes}; use {name}")
        return tuple(param.integer(one) if param.has(one) else (default or 0) for one in pair)
    if not given:
        if default is None:
            raise ModelError(f"{layer.label}: {name} is missing; give one value, or one for each axis")
        return (default,) * axes
    if len(given) not in (1, axes):
        raise ModelError(
            f"{layer.label}: {name} has {len(given)} values; allowed are one, or one for each "
            f"of its {axes} spatial axes"
        )
    return given * axes if len(given) == 1 else given


def geometry(layer: LayerSpec, axes: int, c_in: int) -> ConvGeometry:
    """Geometry of a Convolution or Deconvolution with `axes` spatial axes and `c_in` input channels.

    Raises:
        ModelError: parameters that Caffe refuses, or channel counts that the groups do not divide.
    """
    param = parameters(layer)
    sizes = window(layer, param, axes)
    c_out, groups = _outputs(layer, param), param.integer("group")
    if layer.type in DEPTHWISE and not param.has("group"):
        groups = c_in
    if groups < 1 or c_in % groups or c_out % groups:
        raise ModelError(
            f"{layer.label}: group is {groups}, which must divide its {c_in} input and {c_out} output "
            "channels"
        )
    pads = tuple((pad, pad) for pad in sizes.pad)
    kind: Kind = "transposed" if layer.type == "Deconvolution" else "convolution"
    return ConvGeometry(c_out, c_in, sizes.kernel, sizes.stride, pads, sizes.dilation, groups, kind)


def linear_geometry(layer: LayerSpec, c_in: int) -> ConvGeometry:
    """Geometry of an InnerProduct layer with `c_in` inputs.

    Raises:
        ModelError: parameters that Caffe refuses.
    """
    return ConvGeometry.linear(_outputs(layer, parameters(layer)), c_in)


def _outputs(layer: LayerSpec, param: Fields) -> int:
    """Output channels, once the layer has no more training entries than blobs.

    Raises:
        ModelError: it has, or there are no outputs.
    """
    blobs = 2 if param.flag("bias_term") else 1
    given = len(layer.fields.all("param"))
    if given > blobs:
        what = "weight and bias" if blobs > 1 else "weight"
        raise ModelError(
            f"{layer.label}: has {given} param entries for {blobs} blobs ({what}); remove the rest"
        )
    c_out = param.integer("num_output")
    if c_out < 1:
        raise ModelError(f"{layer.label}: num_output is {c_out}; it must be at least 1")
    return c_out


def linear_axis(layer: LayerSpec, dims: int) -> int:
    """From which axis on an InnerProduct takes its input of `dims` axes as one vector."""
    axis = parameters(layer).integer("axis")
    return axis + dims if axis < 0 else axis


def split_shape(layer: LayerSpec, shape: Size) -> tuple[int, Size]:
    """Channels and spatial size of a layer's input; of an InnerProduct its inputs and positions."""
    if layer.type != LINEAR:
        return shape[1], shape[2:]
    axis = linear_axis(layer, len(shape))
    return math.prod(shape[axis:]), (math.prod(shape[1:axis]),)


def _is_transposed(layer: LayerSpec) -> bool:
    """Whether an InnerProduct stores its weight as (in, out)."""
    return layer.type == LINEAR and parameters(layer).flag("transpose")


def blob_shape(layer: LayerSpec, shaped: ConvGeometry) -> Size:
    """Shape of the weight in the file."""
    return stored_shape(shaped)[:: -1 if _is_transposed(layer) else 1]


def from_blob(layer: LayerSpec, array: Array, shaped: ConvGeometry) -> Array:
    """The weight as `ConvLayer` has it."""
    array = array.reshape(blob_shape(layer, shaped))
    return canonical(array.T if _is_transposed(layer) else array, shaped)


def to_blob(layer: LayerSpec, weight: Array, shaped: ConvGeometry) -> Array:
    """The weight as a layer that stands in this one's place stores it."""
    array = stored(weight, shaped)
    return np.ascontiguousarray(array.T) if _is_transposed(layer) else array
