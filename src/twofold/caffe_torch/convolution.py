"""Convolution, Deconvolution and Im2col over one to three spatial axes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ..conv import Size
from ..errors import ModelError
from ..formats.caffe.fields import axis_of
from ..formats.caffe.layer_types import adapter_of, geometry
from ..formats.caffe.net import LayerSpec
from ..formats.caffe.window import Window, window
from .layer import Layer, Operation, Setup, Tops
from .registry import register, register_stateless

_CONV: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


class _Window(Layer):
    """What Convolution and Deconvolution have in common.

    Every bottom gives one top. The axes before `axis` are independent images; `axis` holds the channels.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        param = setup.spec.fields.message("convolution_param")
        self.channel_axis = param.integer("axis")
        self.axes, channels = self._input(setup)
        if self.axes not in _CONV:
            raise ModelError(
                f"layer {setup.spec.name!r} has {self.axes} spatial axes; PyTorch convolves over one to three"
            )
        self.window = window(setup.spec, param, self.axes)
        self.geometry = geometry(setup.spec, self.axes, channels) if channels else None
        shape = self.geometry.semantics.stored_shape(self.geometry) if self.geometry else None
        self.add_blob(setup, "weight", shape, param.message("weight_filler"))
        if param.flag("bias_term"):
            self.add_blob(setup, "bias", (param.integer("num_output"),), param.message("bias_filler"))
        else:
            self.register_parameter("bias", None)
        self.groups = self.geometry.groups if self.geometry else 1

    def _input(self, setup: Setup) -> tuple[int, int]:
        """Spatial axes and channels of the input; from the stored weights where the shape is unknown."""
        shape = setup.bottoms[0]
        if shape is not None:
            axis = axis_of(self.channel_axis, len(shape))
            return len(shape) - axis - 1, shape[axis]
        stored = setup.blob_shape(0)
        if stored is None:
            return 2, 0
        adapter = adapter_of(setup.spec.type)
        return len(stored) - 2, adapter.channels(setup.spec, stored) if adapter else 0

    def _convolve(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, *bottoms: Tensor) -> Tops:
        """Convolve each bottom (..., C_in, *size) to a top (..., C_out, *size)."""
        tops = []
        for bottom in bottoms:
            axis = axis_of(self.channel_axis, bottom.dim())
            images = (
                bottom if axis == 1 else bottom.reshape(math.prod(bottom.shape[:axis]), *bottom.shape[axis:])
            )
            top = self._convolve(images)
            tops.append(top if axis == 1 else top.reshape(*bottom.shape[:axis], *top.shape[1:]))
        return tuple(tops)


@register("Convolution")
class Convolution(_Window):
    """Correlation with zero padding; weight (C_out, C_in / group, *kernel), output size rounded down."""

    def _convolve(self, images: Tensor) -> Tensor:
        w, pad = self.window, _before(self.window)
        if any(before != after for before, after in w.pad):
            images, pad = _padded(images, w), (0,) * self.axes
        return _CONV[self.axes](images, self.weight, self.bias, w.stride, pad, w.dilation, self.groups)


@register("Deconvolution")
class Deconvolution(_Window):
    """The gradient of a convolution with respect to its input; weight (C_in, C_out / group, *kernel)."""

    def _convolve(self, images: Tensor) -> Tensor:
        w = self.window
        # On CPUs a transposed convolution in bfloat16, which autocast would choose, takes many times as long.
        with torch.autocast(images.device.type, enabled=False):
            return _TRANSPOSED[self.axes](
                images.to(self.weight.dtype),
                self.weight,
                self.bias,
                w.stride,
                _before(w),
                0,
                self.groups,
                w.dilation,
            )


def _before(of: Window) -> Size:
    """The pad per axis, of layers that pad both sides alike."""
    return tuple(before for before, _ in of.pad)


def _padded(images: Tensor, of: Window) -> Tensor:
    return functional.pad(images, [size for pad in reversed(of.pad) for size in pad])


@register_stateless("Im2col")
def im2col(spec: LayerSpec) -> Operation:
    """Patches as channels: (N, C, *size) to (N, C * prod(kernel), *output size)."""
    param = spec.fields.message("convolution_param")

    def gather(images: Tensor) -> Tensor:
        axes = images.dim() - axis_of(param.integer("axis"), images.dim()) - 1
        lead = images.dim() - axes
        w = window(spec, param, axes)
        patches = _padded(images, w)
        for axis, (k, s, d) in enumerate(zip(w.kernel, w.stride, w.dilation, strict=True)):
            # `unfold` leaves the window's position in the axis and appends what is in the window.
            patches = patches.unfold(lead + axis, d * (k - 1) + 1, s)[..., ::d]
        patches = patches.movedim(tuple(range(-axes, 0)), tuple(range(lead, lead + axes)))
        return patches.flatten(lead - 1, lead + axes - 1)

    return gather
