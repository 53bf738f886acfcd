"""Nonlinear functions of one tensor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .registry import Node, Operation, register, register_functions

register_functions(
    Mish=functional.mish,
    Relu=torch.relu,
    Sigmoid=torch.sigmoid,
    Softplus=functional.softplus,
    Softsign=functional.softsign,
    Tanh=torch.tanh,
    HardSwish=lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1),
    PRelu=lambda x, slope: torch.where(x < 0, slope * x, x),
)


@register("LeakyRelu")
def _leaky(node: Node) -> Operation:
    alpha = node.get("alpha", 0.01)
    return lambda x: functional.leaky_relu(x, alpha)


@register("ThresholdedRelu")
def _thresholded(node: Node) -> Operation:
    alpha = node.get("alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


@register("HardSigmoid")
def _hard_sigmoid(node: Node) -> Operation:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


@register("Elu")
def _elu(node: Node) -> Operation:
    alpha = node.get("alpha", 1.0)
    return lambda x: torch.where(x < 0, alpha * torch.expm1(torch.clamp(x, max=0)), x)


@register("Celu")
def _celu(node: Node) -> Operation:
    alpha = node.get("alpha", 1.0)
    return lambda x: functional.celu(x, alpha)


@register("Selu")
def _selu(node: Node) -> Operation:
    alpha = node.get("alpha", 1.67326319217681884765625)
    gamma = node.get("gamma", 1.05070102214813232421875)
    return lambda x: gamma * torch.where(x > 0, x, alpha * torch.expm1(torch.clamp(x, max=0)))


@register("Gelu")
def _gelu(node: Node) -> Operation:
    approximate = node.get("approximate", "none")
    return lambda x: functional.gelu(x, approximate=approximate)


@register("Softmax", "LogSoftmax")
def _softmax(node: Node) -> Operation:
    function = functional.softmax if node.type == "Softmax" else functional.log_softmax
    if node.opset >= 13:
        axis = node.get("axis", -1)
        return lambda x: function(x, axis)
    first = node.get("axis", 1)

    def flat(x: Tensor) -> Tensor:
        """Before version 13 all axes from one on were one."""
        start = first % max(x.dim(), 1)
        return function(x.reshape(*x.shape[:start], -1), start).reshape(x.shape)

    return flat
