"""InnerProduct and Embed.

Source: BVLC Caffe 1.0, `inner_product_layer.cpp`, `embed_layer.cpp`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..formats.caffe.fields import axis_of
from .layer import Layer, Setup
from .registry import register


@register("InnerProduct")
class InnerProduct(Layer):
    """x W^T + b over everything from `axis` on; W is (out, in), or (in, out) with `transpose`."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        param, bottom = setup.spec.fields.message("inner_product_param"), setup.bottoms[0]
        outputs = param.integer("num_output")
        self.axis, self.transpose = param.integer("axis"), param.flag("transpose")
        shape = None
        if bottom is not None:
            inputs = math.prod(bottom[axis_of(self.axis, len(bottom)) :])
            shape = (inputs, outputs) if self.transpose else (outputs, inputs)
        self.add_blob(setup, "weight", shape, param.message("weight_filler"))
        if param.flag("bias_term"):
            self.add_blob(setup, "bias", (outputs,), param.message("bias_filler"))
        else:
            self.register_parameter("bias", None)

    def forward(self, *bottoms: Tensor) -> Tensor:
        """(..., *features) to (..., out)."""
        features = bottoms[0].flatten(axis_of(self.axis, bottoms[0].dim()))
        return functional.linear(features, self.weight.T if self.transpose else self.weight, self.bias)


@register("Embed")
class Embed(Layer):
    """Row i of the weight (input_dim, num_output) for every index i, plus a bias."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        param = setup.spec.fields.message("embed_param")
        shape = (param.integer("input_dim"), param.integer("num_output"))
        self.add_blob(setup, "weight", shape, param.message("weight_filler"))
        if param.flag("bias_term"):
            self.add_blob(setup, "bias", shape[1:], param.message("bias_filler"))
        else:
            self.register_parameter("bias", None)

    def forward(self, *bottoms: Tensor) -> Tensor:
        """(...) indices, stored as floats, to (..., num_output)."""
        rows = functional.embedding(bottoms[0].to(torch.int64), self.weight)
        return rows if self.bias is None else rows + self.bias
