"""ONNX graphs in torch: for gradients, which ONNX Runtime does not give.

Every operator is checked against ONNX's own test cases. Another operator is one function with
`@register("MyType")` on it.
"""

from ..renamed import former_members
from . import activation, convolution, elementwise, linear, normalization, recurrent, reduce, resize, shape
from .net import OnnxNet
from .registry import Node, Operation, UnsupportedError, operators, register, unregister

__all__ = ["Node", "OnnxNet", "Operation", "UnsupportedError", "operators", "register", "unregister"]

__getattr__ = former_members(__name__, operator="register")

_FAMILIES = (activation, convolution, elementwise, linear, normalization, recurrent, reduce, resize, shape)
