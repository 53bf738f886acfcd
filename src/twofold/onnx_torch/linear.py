"""Products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from .registry import Node, Operation, register, register_functions

register_functions(MatMul=torch.matmul)


@register("Gemm")
def _gemm(node: Node) -> Operation:
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    first, second = bool(node.get("transA", 0)), bool(node.get("transB", 0))

    def gemm(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        y: Tensor = alpha * ((a.T if first else a) @ (b.T if second else b))
        return y if c is None else y + beta * c

    return gemm


@register("Einsum")
def _einsum(node: Node) -> Operation:
    equation = node.get("equation", "")
    return lambda *inputs: torch.einsum(equation, *inputs)
