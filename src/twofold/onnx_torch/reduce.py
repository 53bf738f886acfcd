"""Sums, means, extremes and their places along axes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .registry import Node, Operation, UnsupportedError, register

Reduction = Callable[..., Tensor]


def _product(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    for axis in sorted(dim, reverse=True):
        x = x.prod(dim=axis, keepdim=keepdim)
    return x


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceSum": torch.sum,
    "ReduceMean": torch.mean,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceProd": _product,
    "ReduceL1": lambda x, dim, keepdim: x.abs().sum(dim=dim, keepdim=keepdim),
    "ReduceL2": lambda x, dim, keepdim: x.square().sum(dim=dim, keepdim=keepdim).sqrt(),
    "ReduceSumSquare": lambda x, dim, keepdim: x.square().sum(dim=dim, keepdim=keepdim),
    "ReduceLogSum": lambda x, dim, keepdim: x.sum(dim=dim, keepdim=keepdim).log(),
    "ReduceLogSumExp": torch.logsumexp,
}


@register(*_REDUCTIONS)
def _reduce(node: Node) -> Operation:
    reduction = _REDUCTIONS[node.type]
    keep, own = bool(node.get("keepdims", 1)), node.get("axes", None)
    nothing = bool(node.get("noop_with_empty_axes", 0))

    def reduce(x: Tensor, axes: Tensor | None = None) -> Tensor:
        named = own if axes is None else axes.tolist()
        if not named and nothing:
            return reduction(x.unsqueeze(0), dim=(0,), keepdim=False)  # value by value
        if not x.numel() and node.type in ("ReduceMax", "ReduceMin"):
            raise UnsupportedError(f"{node.type} of nothing")
        dims = tuple(axis % x.dim() for axis in named) if named else tuple(range(x.dim()))
        if not dims:  # a scalar
            return reduction(x.unsqueeze(0), dim=(0,), keepdim=False)
        return reduction(x, dim=dims, keepdim=keep).to(x.dtype)

    return reduce


@register("ArgMax", "ArgMin")
def _arg(node: Node) -> Operation:
    axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
    last = bool(node.get("select_last_index", 0))
    function: Callable[..., Tensor] = torch.argmax if node.type == "ArgMax" else torch.argmin

    def arg(x: Tensor) -> Tensor:
        if not last:
            return function(x, dim=axis, keepdim=keep)
        place: Tensor = x.shape[axis] - 1 - function(x.flip(axis), dim=axis, keepdim=keep)
        return place

    return arg


@register("TopK")
def _top_k(node: Node) -> Operation:
    axis, largest, ordered = node.get("axis", -1), node.get("largest", 1), node.get("sorted", 1)
    own = node.get("k", None)

    def top(x: Tensor, k: Tensor | None = None) -> tuple[Tensor, ...]:
        count = own if k is None else int(k)
        # A stable sort keeps the smaller index first among equals, as ONNX does.
        values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
        return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)

    if not ordered:
        raise UnsupportedError("TopK with sorted = 0")
    return top


@register("CumSum")
def _cumulate(node: Node) -> Operation:
    node.reject("exclusive", 0)
    node.reject("reverse", 0)
    return lambda x, axis: torch.cumsum(x, int(axis), dtype=x.dtype)
