"""Normalisation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .registry import Node, Operation, register


@register("BatchNormalization")
def _batch(node: Node) -> Operation:
    node.reject("training_mode", 0)
    node.reject_outputs()
    epsilon = node.get("epsilon", 1e-5)

    def normalise(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.dim() - 2))
        factor = (scale / torch.sqrt(variance + epsilon)).reshape(shape)
        return (x - mean.reshape(shape)) * factor + bias.reshape(shape)

    return normalise


@register("InstanceNormalization")
def _instance(node: Node) -> Operation:
    epsilon = node.get("epsilon", 1e-5)

    def normalise(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.dim() - 2))
        found = _standard(x, tuple(range(2, x.dim())), epsilon)
        return found * scale.reshape(shape) + bias.reshape(shape)

    return normalise


@register("LayerNormalization")
def _layer(node: Node) -> Operation:
    node.reject("stash_type", 1)
    axis, epsilon = node.get("axis", -1), node.get("epsilon", 1e-5)

    def normalise(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
        axes = tuple(range(axis % x.dim(), x.dim()))
        mean = x.mean(dim=axes, keepdim=True)
        inverse = 1 / torch.sqrt((x - mean).square().mean(dim=axes, keepdim=True) + epsilon)
        found = (x - mean) * inverse * scale
        return found if bias is None else found + bias, mean, inverse

    return normalise


@register("GroupNormalization")
def _group(node: Node) -> Operation:
    groups, epsilon = node.get("num_groups", 1), node.get("epsilon", 1e-5)

    def normalise(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        parts = x.reshape(x.shape[0], groups, -1)
        found = _standard(parts, (2,), epsilon)
        if node.opset < 21:  # a value per group
            return (found * scale.reshape(-1, 1) + bias.reshape(-1, 1)).reshape(x.shape)
        shape = (-1, *[1] * (x.dim() - 2))
        return found.reshape(x.shape) * scale.reshape(shape) + bias.reshape(shape)

    return normalise


def _standard(x: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    centred = x - x.mean(dim=axes, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(dim=axes, keepdim=True) + epsilon)


@register("LRN")
def _lrn(node: Node) -> Operation:
    size, bias = node.get("size", 1), node.get("bias", 1.0)
    alpha, beta = node.get("alpha", 1e-4), node.get("beta", 0.75)

    def normalise(x: Tensor) -> Tensor:
        sides = [*[0] * (2 * (x.dim() - 2)), (size - 1) // 2, size // 2]
        total = functional.pad(x.square(), sides).unfold(1, size, 1).sum(-1)
        scale: Tensor = (bias + alpha / size * total) ** beta
        return x / scale

    return normalise


@register("LpNormalization")
def _lp(node: Node) -> Operation:
    axis, p = node.get("axis", -1), node.get("p", 2)

    def normalise(x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, p, dim=axis, keepdim=True)
        return torch.where(norm == 0, torch.zeros_like(x), x / norm)

    return normalise
