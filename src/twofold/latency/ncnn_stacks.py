"""Stacks of convolutions in ncnn's own format: a text of layers, and their weights in its order.

Source: the layers' `load_param` and `load_model` in https://github.com/Tencent/ncnn/tree/master/src/layer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ..conv import ConvGeometry
from .stacks import Stack

_MAGIC = "7767517"
#: Weights follow in single precision.
_FLAG = struct.pack("<I", 0)
_TYPES = {"convolution": "Convolution", "transposed": "Deconvolution"}


def ncnn_rejection(stack: Stack) -> str | None:
    """Why a stack is not written for ncnn, in words for users; None where it is."""
    if stack.batch != 1:
        return "ncnn has no batches: one image per run"
    if len(stack.size) > 2:
        return "convolutions over three axes are not written for ncnn"
    missing = [geometry.semantics.words for geometry in stack.timed if geometry.layer_type not in _TYPES]
    return f"ncnn has no layer that is {missing[0]}" if missing else None


def ncnn_bytes(stack: Stack) -> tuple[bytes, bytes]:
    """A stack as `.param` and `.bin`, with the input `in0` and the output `out0` as pnnx names them."""
    lines = ["Input in0 0 1 in0"]
    weights, value = b"", "in0"
    for i, (geometry, (weight, bias)) in enumerate(zip(stack.timed, stack.weights(), strict=True)):
        top = "out0" if i == len(stack.chain) - 1 else f"x{i}"
        fields = " ".join(f"{key}={n}" for key, n in _fields(geometry, bias is not None))
        lines.append(f"{_type(geometry)} conv{i} 1 1 {value} {top} {fields}")
        weights += _FLAG + weight.tobytes() + (b"" if bias is None else bias.tobytes())
        value = top
    head = [_MAGIC, f"{len(lines)} {len(lines)}"]
    return "\n".join((*head, *lines, "")).encode(), weights


def _type(geometry: ConvGeometry) -> str:
    grouped = "DepthWise" if geometry.groups > 1 else ""
    axes = "1D" if len(geometry.kernel) == 1 else ""
    return _TYPES[geometry.layer_type] + grouped + axes


def _fields(geometry: ConvGeometry, bias: bool) -> Iterator[tuple[int, int]]:
    """The numbers of a layer by their keys; the last axis has keys of its own, others 10 more."""
    yield from ((0, geometry.c_out), (5, int(bias)), (6, geometry.params))
    if geometry.groups > 1:
        yield 7, geometry.groups
    axes = zip(
        geometry.kernel,
        geometry.dilation,
        geometry.stride,
        geometry.pad,
        geometry.output_padding,
        strict=True,
    )
    before_keys, after_keys = (4, 14), (15, 16)
    for axis, (kernel, dilation, stride, (before, after), extra) in enumerate(reversed(list(axes))):
        yield from ((1 + 10 * axis, kernel), (2 + 10 * axis, dilation), (3 + 10 * axis, stride))
        yield from ((before_keys[axis], before), (after_keys[axis], after))
        if geometry.layer_type == "transposed":
            yield 18 + axis, extra
