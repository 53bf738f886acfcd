"""Convolutions and pooling, over one to three axes."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from ..conv import Size
from .registry import Node, Operation, UnsupportedError, register, register_functions

Pads = list[tuple[int, int]]

_CONV: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
_MAX: dict[int, Callable[..., Tensor]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}


class _Window:
    """The attributes of a window that slides over a tensor."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.auto_pad = node.get("auto_pad", "NOTSET")
        self.groups = node.get("group", 1)

    def sizes(self, name: str, axes: int, default: int = 1) -> Size:
        """An attribute with one entry per axis."""
        if not 1 <= axes <= 3:
            raise UnsupportedError(f"{self._node.type} over {axes} axes")
        return tuple(self._node.get(name, None) or (default,) * axes)

    def own_pads(self, axes: int) -> Pads:
        """What the node itself says."""
        flat = self._node.get("pads", None) or (0,) * (2 * axes)
        return list(zip(flat[:axes], flat[axes:], strict=True))

    def pads(self, size: Size, kernel: Size, stride: Size, dilation: Size) -> Pads:
        """Pads (before, after) per axis for an input of a size."""
        if self.auto_pad == "VALID":
            return [(0, 0)] * len(size)
        if self.auto_pad == "NOTSET":
            return self.own_pads(len(size))
        needed = [
            max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
            for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)
        ]
        return [split(total, self.auto_pad == "SAME_UPPER") for total in needed]


def split(total: int, upper: bool) -> tuple[int, int]:
    """Halves, of which the second is larger where `upper`."""
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)


def padded(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    """A tensor with its last axes padded; negative pads crop."""
    if not any(map(any, pads)):
        return x
    return functional.pad(x, [side for pair in reversed(pads) for side in pair], value=value)


@register("Conv")
def _conv(node: Node) -> Operation:
    window = _Window(node)

    def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        kernel, axes = tuple(weight.shape[2:]), weight.dim() - 2
        stride, dilation = window.sizes("strides", axes), window.sizes("dilations", axes)
        pads = window.pads(tuple(x.shape[2:]), kernel, stride, dilation)
        if all(before == after >= 0 for before, after in pads):
            pad = tuple(before for before, _ in pads)
            return _CONV[axes](x, weight, bias, stride, pad, dilation, window.groups)
        return _CONV[axes](padded(x, pads), weight, bias, stride, 0, dilation, window.groups)

    return conv


@register("ConvTranspose")
def _conv_transpose(node: Node) -> Operation:
    window = _Window(node)
    shape = node.get("output_shape", None)

    def pads(x: Tensor, full: Tensor, stride: Size) -> Pads:
        axes = len(stride)
        wanted = shape[-axes:] if shape else None
        if wanted is None and window.auto_pad in ("NOTSET", "VALID"):
            return window.own_pads(axes) if window.auto_pad == "NOTSET" else [(0, 0)] * axes
        if wanted is None:
            wanted = [size * step for size, step in zip(x.shape[2:], stride, strict=True)]
        totals = [have - want for have, want in zip(full.shape[2:], wanted, strict=True)]
        return [split(total, window.auto_pad == "SAME_UPPER") for total in totals]

    def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        axes = weight.dim() - 2
        stride, dilation = window.sizes("strides", axes), window.sizes("dilations", axes)
        full = _TRANSPOSED[axes](x, weight, None, stride, 0, 0, window.groups, dilation)
        full = padded(full, [(0, more) for more in window.sizes("output_padding", axes, 0)])
        y = padded(full, [(-before, -after) for before, after in pads(x, full, stride)])
        return y if bias is None else y + bias.reshape(-1, *[1] * axes)

    return conv


register_functions(
    GlobalAveragePool=lambda x: x.mean(dim=tuple(range(2, x.dim())), keepdim=True),
    GlobalMaxPool=lambda x: x.amax(dim=tuple(range(2, x.dim())), keepdim=True),
)


@register("MaxPool")
def _max_pool(node: Node) -> Operation:
    node.reject_outputs()
    window = _Window(node)
    kernel = tuple(node.get("kernel_shape", ()))

    def pool(x: Tensor) -> Tensor:
        axes = x.dim() - 2
        if not x.is_floating_point():
            raise UnsupportedError(f"MaxPool of {x.dtype}")
        stride, dilation = window.sizes("strides", axes), window.sizes("dilations", axes)
        pads, overhang = _pool_pads(node, window, tuple(x.shape[2:]), kernel, stride, dilation)
        sides = [(before, after + more) for (before, after), more in zip(pads, overhang, strict=True)]
        return _MAX[axes](padded(x, sides, -math.inf), kernel, stride, 0, dilation)

    return pool


@register("AveragePool")
def _average_pool(node: Node) -> Operation:
    window = _Window(node)
    kernel = tuple(node.get("kernel_shape", ()))
    counted = bool(node.get("count_include_pad", 0))

    def pool(x: Tensor) -> Tensor:
        axes = x.dim() - 2
        stride, dilation = window.sizes("strides", axes), window.sizes("dilations", axes)
        pads, overhang = _pool_pads(node, window, tuple(x.shape[2:]), kernel, stride, dilation)
        sides = [(before, after + more) for (before, after), more in zip(pads, overhang, strict=True)]
        ones = x.new_ones(1, 1, *kernel)

        def sums(values: Tensor) -> Tensor:
            flat = values.reshape(-1, 1, *values.shape[2:])
            found = _CONV[axes](flat, ones, None, stride, 0, dilation)
            return found.reshape(*values.shape[:2], *found.shape[2:])

        # Padding counts where the node says so; what hangs over beyond it never does.
        seen = padded(x.new_ones(1, 1, *x.shape[2:]), pads, float(counted))
        seen = padded(seen, [(0, more) for more in overhang])
        return sums(padded(x, sides)) / sums(seen)

    return pool


def _pool_pads(
    node: Node, window: _Window, size: Size, kernel: Size, stride: Size, dilation: Size
) -> tuple[Pads, list[int]]:
    """Pads, and what must be added behind so that the last windows of the ceil mode fit."""
    pads = window.pads(size, kernel, stride, dilation)
    overhang = []
    for n, k, s, d, (before, after) in zip(size, kernel, stride, dilation, pads, strict=True):
        span = n + before + after - d * (k - 1) - 1
        count = span // s + 1
        if node.get("ceil_mode", 0) and window.auto_pad == "NOTSET":
            count = -(-span // s) + 1
            if (count - 1) * s >= n + before:  # a window must not begin in the padding behind
                count -= 1
        overhang.append(max(0, (count - 1) * s - span))
    return pads, overhang
