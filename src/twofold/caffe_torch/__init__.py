"""Caffe nets in torch, with Caffe's numbers.

`CaffeNet` is made from a definition and weights. Layer types are registered by name (`register`); users
may add their own.
"""

from ..errors import MissingExtraError
from ..renamed import former_members

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise MissingExtraError("running Caffe nets", "PyTorch", "torch") from None

# Importing a family registers its layers.
from . import (  # noqa: F401
    activation,
    bn,
    convolution,
    data,
    detection,
    elementwise,
    linear,
    loss,
    normalization,
    pooling,
    recurrent,
    regions,
    resize,
    shape,
    volume,
)
from .layer import Layer, Setup, Stateless, constant, filler_or
from .model import to_torch
from .net import CaffeNet, Step
from .normalization import batch_statistics
from .parameters import Learnable
from .recurrent import reset_state
from .registry import BUILDERS, known_types, register, register_stateless, unregister

BUILDERS.close()

__getattr__ = former_members(__name__, stateless="register_stateless")

__all__ = [
    "CaffeNet",
    "Layer",
    "Learnable",
    "Setup",
    "Stateless",
    "Step",
    "batch_statistics",
    "constant",
    "filler_or",
    "known_types",
    "register",
    "register_stateless",
    "reset_state",
    "to_torch",
    "unregister",
]
