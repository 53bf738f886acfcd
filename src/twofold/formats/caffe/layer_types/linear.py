"""InnerProduct.

Source: BVLC Caffe 1.0, `inner_product_layer.cpp`.
"""

from __future__ import annotations

import math
from typing import Any

from ....conv import ConvGeometry, Size
from ..fields import axis_of
from ..net import LayerSpec
from .base import LayerAdapter


class Linear(LayerAdapter):
    """Fully connected layers, which take all axes of their input from `axis` on as one vector."""

    layer_type = "linear"
    types: tuple[str, ...] = ("InnerProduct",)
    param = "inner_product_param"

    def rejection(self, layer: LayerSpec, shape: Size | None) -> str | None:
        whole = shape and self._axis(layer, len(shape)) < 1
        return "it takes the whole batch as one vector (axis 0)" if whole else None

    def _axis(self, layer: LayerSpec, dims: int) -> int:
        axis = self.parameters(layer).integer("axis")
        return axis + dims if axis < 0 else axis

    def taken(self, layer: LayerSpec, shape: Size) -> tuple[int, Size]:
        axis = self._axis(layer, len(shape))
        return math.prod(shape[axis:]), (math.prod(shape[1:axis]),)

    def top(self, layer: LayerSpec, shape: Size) -> Size:
        axis = axis_of(self.parameters(layer).integer("axis"), len(shape))
        return (*shape[:axis], self.parameters(layer).integer("num_output"))

    def channels(self, layer: LayerSpec, stored: Size) -> int:
        return math.prod(stored) // max(1, self.parameters(layer).integer("num_output"))

    def geometry(self, layer: LayerSpec, axes: int, c_in: int) -> ConvGeometry:
        return ConvGeometry.linear(self.outputs(layer), c_in)

    def turned(self, layer: LayerSpec) -> bool:
        return self.parameters(layer).flag("transpose")

    def values(self, layer: LayerSpec, blob: Any) -> Any:
        return blob.reshape(*blob.shape[: self._axis(layer, blob.ndim)], -1)
