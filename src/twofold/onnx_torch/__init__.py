"""ONNX graphs in torch: for gradients, which ONNX Runtime does not give.

Every operator is checked against ONNX's own test cases. Another operator is one function with
`@operator("MyType")` on it.
"""

from . import activation, convolution, elementwise, linear, normalization, reduce, resize, shape
from .net import OnnxNet
from .registry import Node, Operation, UnsupportedError, operator, operators

__all__ = ["Node", "OnnxNet", "Operation", "UnsupportedError", "operator", "operators"]

_FAMILIES = (activation, convolution, elementwise, linear, normalization, reduce, resize, shape)
