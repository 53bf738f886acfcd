"""Operators that work value by value, with ONNX's broadcasting, which is numpy's."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from onnx import TensorProto
from torch import Tensor

from .registry import Node, Operation, UnsupportedError, register, register_functions

#: ONNX's types that torch has.
TYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


def _divide(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _power(x: Tensor, y: Tensor) -> Tensor:
    return torch.pow(x, y).to(x.dtype)


register_functions(
    Abs=torch.abs,
    Acos=torch.acos,
    Add=torch.add,
    And=torch.logical_and,
    Asin=torch.asin,
    Atan=torch.atan,
    Ceil=torch.ceil,
    Cos=torch.cos,
    Div=_divide,
    Equal=torch.eq,
    Erf=torch.erf,
    Exp=torch.exp,
    Floor=torch.floor,
    Greater=torch.gt,
    GreaterOrEqual=torch.ge,
    Identity=lambda x: x,
    IsNaN=torch.isnan,
    Less=torch.lt,
    LessOrEqual=torch.le,
    Log=torch.log,
    Mul=torch.mul,
    Neg=torch.neg,
    Not=torch.logical_not,
    Or=torch.logical_or,
    Pow=_power,
    Reciprocal=torch.reciprocal,
    Round=torch.round,  # halves to even, both
    Sign=torch.sign,
    Sin=torch.sin,
    Sqrt=torch.sqrt,
    Sub=torch.sub,
    Tan=torch.tan,
    Where=torch.where,
    Xor=torch.logical_xor,
)


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    return lambda *inputs: reduce(function, inputs)


register_functions(
    Max=_variadic(torch.maximum),
    Min=_variadic(torch.minimum),
    Sum=_variadic(torch.add),
    Mean=lambda *inputs: reduce(torch.add, inputs) / len(inputs),
)


@register("Mod")
def _mod(node: Node) -> Operation:
    return torch.fmod if node.get("fmod", 0) else torch.remainder


@register("Clip")
def _clip(node: Node) -> Operation:
    own = node.get("min", None), node.get("max", None)  # before version 11

    def clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
        for limit, given, bound in ((own[0], low, torch.maximum), (own[1], high, torch.minimum)):
            value = torch.as_tensor(limit, dtype=x.dtype) if given is None and limit is not None else given
            x = x if value is None else bound(x, value.to(x.device))
        return x

    return clip


@register("Cast")
def _cast(node: Node) -> Operation:
    to = node.get("to", None)
    if to not in TYPES:
        raise UnsupportedError(f"Cast to {TensorProto.DataType.Name(to) if to is not None else 'nothing'}")
    return lambda x: x.to(TYPES[to])


@register("CastLike")
def _cast_like(_: Node) -> Operation:
    return lambda x, like: x.to(like.dtype)


@register("Dropout")
def _dropout(node: Node) -> Operation:
    node.reject_outputs()

    def dropout(x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> Tensor:
        if training is not None and bool(training):
            raise UnsupportedError("Dropout in its training mode")
        return x

    return dropout
