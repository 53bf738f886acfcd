"""Caffe nets as ONNX graphs.

Every layer becomes a few nodes: the last has the layer's name, values have the names of Caffe's blobs. Layer
types are registered by name (`emits`); users may add their own.
"""

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
from .registry import emits, forget, known_types, leave_out, own_types
from .site import Graph, Site, Value

own_types()

__all__ = [
    "Graph",
    "Site",
    "Traced",
    "Value",
    "emit_net",
    "emits",
    "forget",
    "known_types",
    "leave_out",
    "trace",
]
