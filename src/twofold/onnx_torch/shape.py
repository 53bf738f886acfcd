"""Operators that move values about, and those that compute with shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .registry import Node, Operation, UnsupportedError, register, register_functions


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, last, step = start.item(), limit.item(), delta.item()
    count = max(0, math.ceil((last - first) / step))
    return (torch.arange(count, dtype=torch.float64, device=start.device) * step + first).to(start.dtype)


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(shape.tolist())))


register_functions(
    Expand=_expand,
    NonZero=lambda x: torch.nonzero(x).T,
    Range=_range,
    Size=lambda x: torch.tensor(x.numel(), device=x.device),
    Tile=lambda x, repeats: x.repeat(repeats.tolist()),
)


@register("Shape")
def _shape(node: Node) -> Operation:
    start, end = node.get("start", 0), node.get("end", None)
    return lambda x: torch.tensor(list(x.shape)[start:end], dtype=torch.int64, device=x.device)


@register("Reshape")
def _reshape(node: Node) -> Operation:
    own, zeros = node.get("shape", None), bool(node.get("allowzero", 0))

    def reshape(x: Tensor, shape: Tensor | None = None) -> Tensor:
        wanted = own if shape is None else shape.tolist()
        if not zeros:
            wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
        return x.reshape(wanted)

    return reshape


@register("Flatten")
def _flatten(node: Node) -> Operation:
    axis = node.get("axis", 1)

    def flatten(x: Tensor) -> Tensor:
        start = axis + x.dim() if axis < 0 else axis
        return x.reshape(math.prod(x.shape[:start]), -1)

    return flatten


@register("Transpose")
def _transpose(node: Node) -> Operation:
    order = node.get("perm", None)
    return lambda x: x.permute(order or tuple(reversed(range(x.dim()))))


@register("Squeeze")
def _squeeze(node: Node) -> Operation:
    own = node.get("axes", None)

    def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
        named = own if axes is None else axes.tolist()
        return x.squeeze() if named is None else x.squeeze(tuple(named))

    return squeeze


@register("Unsqueeze")
def _unsqueeze(node: Node) -> Operation:
    own = node.get("axes", None)

    def unsqueeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
        named = own if axes is None else axes.tolist()
        total = x.dim() + len(named)
        for axis in sorted(axis % total for axis in named):
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


@register("Concat")
def _concat(node: Node) -> Operation:
    axis = node.get("axis", 1)
    return lambda *inputs: torch.cat(inputs, axis)


@register("Split")
def _split(node: Node) -> Operation:
    axis, own = node.get("axis", 0), node.get("split", None)
    parts = node.get("num_outputs", node.outputs)

    def split(x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        named = own if sizes is None else sizes.tolist()
        return torch.split(x, named or -(-x.shape[axis] // parts), axis)

    return split


@register("Slice")
def _slice(node: Node) -> Operation:
    own = tuple(node.get(name, None) for name in ("starts", "ends", "axes"))  # before version 10

    def cut(x: Tensor, *given: Tensor | None) -> Tensor:
        named = tuple(None if one is None else one.tolist() for one in given) or own
        starts, ends, axes, steps = (*named, None, None)[:4]
        axes = axes or range(len(starts))
        for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
            x = _sliced(x, axis, start, end, step)
        return x

    return cut


def _sliced(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    length = x.shape[axis]
    # ONNX means by an end below -length, going down, that the first value is still in.
    stop = None if step < 0 and end < -length else end
    places = range(*slice(start, stop, step).indices(length))
    if step == 1:
        return x.narrow(axis, places.start if places else 0, len(places))
    return x.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=x.device))


@register("Gather")
def _gather(node: Node) -> Operation:
    axis = node.get("axis", 0)

    def gather(x: Tensor, indices: Tensor) -> Tensor:
        at = axis % x.dim()
        flat = torch.where(indices < 0, indices + x.shape[at], indices).reshape(-1).to(torch.int64)
        return x.index_select(at, flat).reshape((*x.shape[:at], *indices.shape, *x.shape[at + 1 :]))

    return gather


@register("GatherElements")
def _gather_elements(node: Node) -> Operation:
    axis = node.get("axis", 0)
    return lambda x, indices: x.gather(
        axis, torch.where(indices < 0, indices + x.shape[axis], indices).to(torch.int64)
    )


@register("Pad")
def _pad(node: Node) -> Operation:
    node.reject("mode", "constant", "reflect", "edge", "wrap")
    mode = node.get("mode", "constant")
    own = node.get("pads", None), node.get("value", 0.0)  # before version 11

    def pad(
        x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
    ) -> Tensor:
        flat: Sequence[int] = own[0] if pads is None else pads.tolist()
        places = range(x.dim()) if axes is None else [axis % x.dim() for axis in axes.tolist()]
        sides = dict(zip(places, zip(flat[: len(places)], flat[len(places) :], strict=True), strict=True))
        if mode == "constant":
            order = [side for axis in reversed(range(x.dim())) for side in sides.get(axis, (0, 0))]
            return functional.pad(x, order, value=own[1] if value is None else value.item())
        for axis, (before, after) in sides.items():
            index = np.arange(x.shape[axis])[max(0, -before) : x.shape[axis] - max(0, -after)]
            index = np.pad(index, (max(0, before), max(0, after)), mode)
            x = x.index_select(axis, torch.from_numpy(index).to(x.device))
        return x

    return pad


@register("DepthToSpace")
def _depth_to_space(node: Node) -> Operation:
    b, mode = node.get("blocksize", 1), node.get("mode", "DCR")

    def move(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if mode == "DCR":
            parts = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
        else:
            parts = x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
        return parts.reshape(n, c // b**2, h * b, w * b)

    return move


@register("SpaceToDepth")
def _space_to_depth(node: Node) -> Operation:
    b, mode = node.get("blocksize", 1), node.get("mode", "DCR")

    def move(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        parts = x.reshape(n, c, h // b, b, w // b, b)
        parts = parts.permute((0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4))
        return parts.reshape(n, c * b**2, h // b, w // b)

    return move


@register("Constant")
def _constant(node: Node) -> Operation:
    values: dict[str, Any] = {
        "value": lambda tensor: tensor,
        "value_float": lambda x: torch.tensor(x, dtype=torch.float32),
        "value_floats": lambda x: torch.tensor(list(x), dtype=torch.float32),
        "value_int": lambda x: torch.tensor(x, dtype=torch.int64),
        "value_ints": lambda x: torch.tensor(list(x), dtype=torch.int64),
    }
    for name, read in values.items():
        if name in node.attributes:
            tensor: Tensor = read(node.attributes[name])
            return lambda: tensor
    raise UnsupportedError(f"Constant with {', '.join(node.attributes) or 'no value'}")


@register("ConstantOfShape")
def _constant_of_shape(node: Node) -> Operation:
    value = node.get("value", torch.zeros(1))
    return lambda shape: value.to(shape.device).reshape(()).expand(shape.tolist()).clone()
