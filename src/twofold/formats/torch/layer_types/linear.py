"""nn.Linear."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from ....conv import ConvGeometry, Size
from .base import LayerAdapter


class Linear(LayerAdapter):
    """Fully connected layers, which take vectors (..., C_in)."""

    layer_type = "linear"
    modules: tuple[type[nn.Module], ...] = (nn.Linear,)

    def geometry(self, module: nn.Module) -> ConvGeometry:
        return ConvGeometry.linear(int(module.out_features), int(module.in_features))  # type: ignore[arg-type]

    def size(self, module: nn.Module, tensor: Tensor, batch: int) -> Size:
        """The positions per sample."""
        return (-(-(tensor.numel() // tensor.shape[-1]) // max(batch, 1)),)

    def runs(self, module: nn.Module, tensor: Tensor, batch: int) -> Fraction:
        """One, but for what the rounding up of `size` added: what is computed once per batch, say."""
        (positions,) = self.size(module, tensor, batch)
        return Fraction(tensor.numel(), tensor.shape[-1] * batch * positions) if positions else Fraction(1)

    def make(self, geometry: ConvGeometry, settings: Mapping[str, object], **options: Any) -> nn.Module:
        return nn.Linear(geometry.c_in, geometry.c_out, **options)

    def run(self, geometry: ConvGeometry, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = weight.flatten(1) @ x
        return y if bias is None else y + bias[:, None]
