"""Resize and Upsample: along each axis every output is a weighted sum of a few inputs.

Source: the ONNX operator reference, Resize, versions 10 to 19. Antialiasing and tf_crop_and_resize are
rejected.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .registry import Node, Operation, UnsupportedError, register

Floats = NDArray[np.float64]


@register("Resize", "Upsample")
def _resize(node: Node) -> Operation:
    old = node.type == "Upsample" or node.opset < 11
    node.reject("mode", "nearest", "linear", "bilinear", "trilinear", "cubic")
    node.reject("antialias", 0)
    node.reject("keep_aspect_ratio_policy", "stretch", "not_larger", "not_smaller")
    _coordinates(node, 2, 4, 2.0)  # rejects what it does not know
    own_scales, named = node.get("scales", None), node.get("axes", None)

    def resize(x: Tensor, *given: Tensor | None) -> Tensor:
        if old:
            scales = own_scales if not given or given[0] is None else given[0].tolist()
            sizes = None
        else:
            parts = [None if one is None or not one.numel() else one.tolist() for one in (*given, None, None)]
            scales, sizes = parts[1], parts[2]
        axes = [axis % x.dim() for axis in named] if named else list(range(x.dim()))
        if sizes is not None:
            scales, sizes = _by_sizes(node, [x.shape[axis] for axis in axes], sizes)
        for place, axis in enumerate(axes):
            length = x.shape[axis]
            out = sizes[place] if sizes is not None else int(np.float32(length) * np.float32(scales[place]))
            if out != length or scales[place] != 1:
                x = _along(node, x, axis, out, scales[place])
        return x

    return resize


def _by_sizes(node: Node, lengths: list[int], sizes: list[int]) -> tuple[list[float], list[int]]:
    """Scales and sizes where sizes are given."""
    scales = [size / length for size, length in zip(sizes, lengths, strict=True)]
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return scales, sizes
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [scale] * len(scales), [math.floor(scale * length + 0.5) for length in lengths]


def _along(node: Node, x: Tensor, axis: int, out: int, scale: float) -> Tensor:
    indices, weights = _taps(node, x.shape[axis], out, scale)
    total = None
    for column in range(indices.shape[1]):
        part = x.index_select(axis, torch.from_numpy(indices[:, column]).to(x.device))
        if node.get("mode", "nearest") != "nearest":
            shape = [1] * x.dim()
            shape[axis] = out
            part = part * torch.from_numpy(weights[:, column]).to(x.device, x.dtype).reshape(shape)
        total = part if total is None else total + part
    assert total is not None
    return total


def _taps(node: Node, length: int, out: int, scale: float) -> tuple[NDArray[np.int64], Floats]:
    """Which inputs each output is made of, and their weights: (out, taps) each."""
    mode = node.get("mode", "nearest")
    at = _coordinates(node, length, out, scale)
    if mode == "nearest":
        index = np.clip(_rounded(node, at), 0, length - 1).astype(np.int64)
        return index[:, None], np.ones((out, 1))
    low = np.floor(at)
    part = at - low
    if mode == "cubic":
        places = low[:, None] + np.arange(-1, 3)
        weights = _cubic(part, node.get("cubic_coeff_a", -0.75))
        if node.get("exclude_outside", 0):
            weights = weights * ((places >= 0) & (places < length))
            weights /= weights.sum(axis=1, keepdims=True)
    else:
        places = low[:, None] + np.arange(2)
        weights = np.stack([1 - part, part], axis=1)
    return np.clip(places, 0, length - 1).astype(np.int64), weights


def _cubic(t: Floats, a: float) -> Floats:
    """Keys' kernel at the distances 1 + t, t, 1 - t, 2 - t."""

    def near(d: Floats) -> Floats:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Floats) -> Floats:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return np.stack([far(1 + t), near(t), near(1 - t), far(2 - t)], axis=1)


def _coordinates(node: Node, length: int, out: int, scale: float) -> Floats:
    """Where each output lies in the input."""
    default = "asymmetric" if node.type == "Upsample" or node.opset < 11 else "half_pixel"
    mode = node.get("coordinate_transformation_mode", default)
    x = np.arange(out, dtype=np.float64)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and out > 1):
        return (x + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return np.zeros_like(x)
    if mode == "half_pixel_symmetric":
        adjustment = out / (scale * length)
        centre = length / 2
        return centre * (1 - adjustment) + (x + 0.5) / scale - 0.5
    if mode == "align_corners":
        return x * (length - 1) / (out - 1) if out > 1 else np.zeros_like(x)
    if mode == "asymmetric":
        return x / scale
    raise UnsupportedError(f"{node.type} with coordinate_transformation_mode = {mode!r}")


def _rounded(node: Node, at: Floats) -> Floats:
    old = node.type == "Upsample" or node.opset < 11
    mode = node.get("nearest_mode", "floor" if old else "round_prefer_floor")
    if mode == "floor":
        return np.floor(at)
    if mode == "ceil":
        return np.ceil(at)
    if mode == "round_prefer_ceil":
        return np.floor(at + 0.5)
    return np.ceil(at - 0.5)
