"""Shapes of the tops of layer types that BVLC Caffe lacks.

Source, per type: Interp, DeepLab and PSPNet; Upsample, caffe-segnet and the YOLO forks; Unpooling, DeconvNet;
ROIPooling, Fast R-CNN; PSROIPooling, R-FCN; Pooling3D, C3D; Squeeze and Mul, Synopsys; Transpose, CRNN;
Axpy, SENet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...conv import Size
from ...errors import ModelError
from .fields import Fields, axis_of
from .layer_types import volume_param
from .net import LayerSpec
from .rules import Shape, register


@register("HardSwish", "Reverse")
def _same(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    return [bottoms[0]]


@register("BN")
def _bn(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    # SegNet's gives the mean and the variance of the batch, too, where tops are there for them.
    return [bottoms[0], *[(1, bottoms[0][1], 1, 1)] * (len(layer.tops) - 1)]


@register("Axpy")
def _axpy(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    factor, x, y = bottoms
    if x != y or factor[:2] != x[:2] or math.prod(factor[2:]) != 1:
        raise ValueError("inputs are no (N, C), (N, C, ...), (N, C, ...)")
    return [x]


@register("Mul")
def _mul(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    factor = bottoms[1] if len(bottoms) > 1 else layer.fields.message("mul_param").integers("mul_shape")
    return [broadcast(bottoms[0], factor)]


def broadcast(one: Size, other: Size) -> Size:
    """The shape that two shapes have together, aligned at their last axes, where a 1 stands for any size.

    Raises:
        ValueError: they have none.
    """
    axes = max(len(one), len(other))
    pairs = zip((1,) * (axes - len(one)) + one, (1,) * (axes - len(other)) + other, strict=True)
    result = []
    for a, b in pairs:
        if a != b and 1 not in (a, b):
            raise ValueError(f"sizes {a} and {b} of one axis")
        result.append(b if a == 1 else a)
    return tuple(result)


@register("Squeeze")
def _squeeze(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    shape = bottoms[0]
    given = [axis_of(axis, len(shape)) for axis in layer.fields.message("squeeze_param").integers("axis")]
    if any(shape[axis] != 1 for axis in given):
        raise ValueError("an axis that is removed has a size other than 1")
    removed = given or [axis for axis, size in enumerate(shape) if size == 1]
    return [tuple(size for axis, size in enumerate(shape) if axis not in removed)]


@register("Transpose")
def _transpose(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    order = layer.fields.message("transpose_param").integers("dim")
    if sorted(order) != list(range(len(bottoms[0]))):
        raise ValueError(f"dim {list(order)} does not name every axis once")
    return [tuple(bottoms[0][axis] for axis in order)]


@register("Interp")
def _interp(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    param = layer.fields.message("interp_param")
    if max(param.integer("pad_beg"), param.integer("pad_end")) > 0:
        raise ModelError(
            f"{layer.label}: pad_beg is {param.integer('pad_beg')} and pad_end {param.integer('pad_end')}; "
            "Caffe allows 0 and negative ones only, which crop"
        )
    size = [n + param.integer("pad_beg") + param.integer("pad_end") for n in bottoms[0][2:]]
    shrink, zoom = param.has("shrink_factor"), param.has("zoom_factor")
    # Caffe asks in this order: one factor alone, height and width, both factors.
    if shrink == zoom and param.has("height") and param.has("width"):
        size = [param.integer("height"), param.integer("width")]
    elif not shrink and not zoom:
        raise ModelError(
            f"{layer.label}: its output size is missing; give shrink_factor, zoom_factor, or height and width"
        )
    else:
        size = [(n - 1) // param.integer("shrink_factor") + 1 for n in size]
        size = [n + (n - 1) * (param.integer("zoom_factor") - 1) for n in size]
    if min(size) < 1:
        raise ValueError(f"an output of size {size}")
    return [(*bottoms[0][:2], *size)]


@register("Upsample")
def _upsample(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    param, size = layer.fields.message("upsample_param"), bottoms[0][2:]
    if len(bottoms) < 2:
        # Without a mask it is the YOLO forks', which have a scale and nothing else.
        known = set(param.values) == {"scale"}
        return [(*bottoms[0][:2], *(n * param.integer("scale") for n in size)) if known else None]
    if bottoms[0] != bottoms[1]:
        raise ValueError("values and mask differ in shape")
    if param.has("upsample_h") and param.has("upsample_w"):
        return [(*bottoms[0][:2], param.integer("upsample_h"), param.integer("upsample_w"))]
    pair = param.has("scale_h") or param.has("scale_w")
    if pair and (param.has("scale") or not (param.has("scale_h") and param.has("scale_w"))):
        raise ModelError(f"{layer.label}: either scale or both scale_h and scale_w may be given")
    result = []
    for n, axis in zip(size, "hw", strict=True):
        scale, cut = param.integer(f"scale_{axis}" if pair else "scale"), param.flag(f"pad_out_{axis}")
        if cut and scale != 2:
            raise ModelError(f"{layer.label}: pad_out_{axis} goes with a scale of 2 only, found {scale}")
        result.append(n * scale - cut)
    return [(*bottoms[0][:2], *result)]


@register("Unpooling")
def _unpooling(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    param = layer.fields.message("unpooling_param")
    if param.has("unpool_size"):
        return [(*bottoms[0][:2], *(param.integer("unpool_size"),) * 2)]
    if param.has("unpool_h") and param.has("unpool_w"):
        return [(*bottoms[0][:2], param.integer("unpool_h"), param.integer("unpool_w"))]
    kernel, stride, pad = (pair_of(param, name) for name in ("kernel", "stride", "pad"))
    size = [
        max((n - 1) * s + k - 2 * p, n * s - p + 1)
        for n, k, s, p in zip(bottoms[0][2:], kernel, stride, pad, strict=True)
    ]
    return [(*bottoms[0][:2], *size)]


def pair_of(param: Fields, name: str) -> Size:
    """Height and width of `kernel`, `stride` or `pad`, which one number gives for both, or each its own."""
    if param.has(f"{name}_h") and param.has(f"{name}_w"):
        return param.integer(f"{name}_h"), param.integer(f"{name}_w")
    return (param.integer("kernel_size" if name == "kernel" else name),) * 2


@register("ROIPooling")
def _roi_pooling(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    param = layer.fields.message("roi_pooling_param")
    size = param.integer("pooled_h"), param.integer("pooled_w")
    if min(size) < 1:
        raise ModelError(f"{layer.label}: pooled_h and pooled_w are {list(size)}; they must be at least 1")
    return [(_rois(bottoms[1]), bottoms[0][1], *size)]


@register("PSROIPooling")
def _psroi_pooling(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    param = layer.fields.message("psroi_pooling_param")
    outputs, bins = param.integer("output_dim"), param.integer("group_size")
    if bottoms[0][1] != outputs * bins**2:
        raise ModelError(
            f"{layer.label}: has {bottoms[0][1]} input channels; output_dim {outputs} and group_size {bins} "
            f"need {outputs * bins**2}"
        )
    return [(_rois(bottoms[1]), outputs, bins, bins)]


def _rois(shape: Size) -> int:
    if math.prod(shape[1:]) != 5:  # image, x1, y1, x2, y2
        raise ValueError("a region of interest has 5 numbers")
    return shape[0]


@register("Pooling3D")
def _pooling3d(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    kernel, stride, pad = pooling3d(layer)
    sizes = zip(bottoms[0][2:], kernel, stride, pad, strict=True)
    return [(*bottoms[0][:2], *(-(-(n + 2 * p - k) // s) + 1 for n, k, s, p in sizes))]


def pooling3d(layer: LayerSpec) -> tuple[Size, Size, Size]:
    """Kernel, stride and pad of C3D's pooling over depth, height and width.

    Raises:
        ModelError: a pad where Caffe has none.
    """
    param = volume_param(layer, "pooling3d_param", "pooling_param")
    size, stride, pad = (param.integer(name) for name in ("kernel_size", "stride", "pad"))
    if pad and param.text("pool") != "AVE":
        raise ModelError(f"{layer.label}: pad is {pad}; C3D pads for pool: AVE only")
    kernel = (param.integer("kernel_depth"), size, size)
    strides = (param.integer("temporal_stride"), stride, stride)
    if min(*kernel, *strides) < 1:
        raise ModelError(
            f"{layer.label}: kernel_depth and kernel_size are {list(kernel[:2])}, strides "
            f"{list(strides[:2])}; they must be at least 1"
        )
    return kernel, strides, (0, pad, pad)


@register("SmoothL1Loss")
def _loss(layer: LayerSpec, bottoms: Sequence[Size]) -> Sequence[Shape]:
    return [()]
