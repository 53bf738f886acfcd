"""Caffe's fillers: first values of parameters that no file gives.

The distributions are Caffe's, the random numbers are torch's: a seed gives the same values here again, and
others than in Caffe.
Source: BVLC Caffe 1.0, `filler.hpp`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..conv import Size
from ..errors import ModelError
from ..formats.caffe.fields import Fields
from ..registry import Registry

Filler = Callable[[Size, Fields, torch.Generator], Tensor]


def fill(shape: Size, filler: Fields, generator: torch.Generator) -> Tensor:
    """A float32 tensor of `shape` with the values that `filler`, a FillerParameter, asks for.

    Raises:
        ModelError: an unknown filler, or one that does not fit the shape.
    """
    return FILLERS.find(filler.text("type"))(shape, filler, generator)


def _constant(shape: Size, filler: Fields, generator: torch.Generator) -> Tensor:
    return torch.full(shape, filler.number("value"))


def _uniform(shape: Size, filler: Fields, generator: torch.Generator) -> Tensor:
    return torch.empty(shape).uniform_(filler.number("min"), filler.number("max"), generator=generator)


def _gaussian(shape: Size, filler: Fields, generator: torch.Generator) -> Tensor:
    values = torch.empty(shape).normal_(filler.number("mean"), filler.number("std"), generator=generator)
    sparse = filler.integer("sparse")
    if sparse >= 0:
        # `sparse` is the expected number of inputs that each output keeps.
        values *= torch.empty(shape).bernoulli_(min(1.0, sparse / shape[0]), generator=generator)
    return values


def _positive_unitball(shape: Size, filler: Fields, generator: torch.Generator) -> Tensor:
    rows = torch.rand(shape, generator=generator).reshape(shape[0], -1)
    return (rows / rows.sum(1, keepdim=True)).reshape(shape)


def _fan(shape: Size, filler: Fields) -> float:
    count = math.prod(shape)
    fan_in = count / shape[0]
    fan_out = count / shape[1] if len(shape) > 1 else count
    norm = filler.text("variance_norm")
    return {"FAN_IN": fan_in, "FAN_OUT": fan_out}.get(norm, (fan_in + fan_out) / 2)


def _xavier(shape: Size, filler: Fields, generator: torch.Generator) -> Tensor:
    bound = math.sqrt(3 / _fan(shape, filler))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _msra(shape: Size, filler: Fields, generator: torch.Generator) -> Tensor:
    return torch.empty(shape).normal_(0, math.sqrt(2 / _fan(shape, filler)), generator=generator)


def _bilinear(shape: Size, filler: Fields, generator: torch.Generator) -> Tensor:
    if len(shape) != 4 or shape[2] != shape[3]:
        raise ModelError(f"the bilinear filler needs a square 2-D kernel, found the shape {list(shape)}")
    half = math.ceil(shape[3] / 2)
    line = 1 - (torch.arange(shape[3]) / half - (shape[3] - 1) / (2 * half)).abs()
    return torch.outer(line, line).expand(shape).clone()


FILLERS: Registry[str, Filler] = Registry(
    "filler",
    {
        "constant": _constant,
        "uniform": _uniform,
        "gaussian": _gaussian,
        "positive_unitball": _positive_unitball,
        "xavier": _xavier,
        "msra": _msra,
        "bilinear": _bilinear,
    },
    error=ModelError,
)
