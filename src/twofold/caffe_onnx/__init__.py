"""Caffe nets as ONNX graphs.

Every layer becomes a few nodes: the last has the layer's name, values have the names of Caffe's blobs. Layer
types are registered by name (`register`); users may add their own.
"""

from ..renamed import former_members

# Importing a family registers its layers.
from . import (  # noqa: F401
    activation,
    bn,
    convolution,
    data,
    detection,
    elementwise,
    linear,
    normalization,
    pooling,
    recurrent,
    regions,
    resize,
    shape,
    volume,
)
from .net import Traced, emit_net, trace
from .registry import EMITTERS, LEFT_OUT, known_types, register, unregister
from .site import Graph, Site, Value

EMITTERS.close()

__getattr__ = former_members(__name__, emits="register", forget="unregister", leave_out="LEFT_OUT.add")

__all__ = [
    "LEFT_OUT",
    "Graph",
    "Site",
    "Traced",
    "Value",
    "emit_net",
    "known_types",
    "register",
    "trace",
    "unregister",
]
