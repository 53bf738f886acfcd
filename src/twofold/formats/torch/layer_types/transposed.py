"""nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ....conv import ConvGeometry
from .convolution import Convolution, sizes

_RUN = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


class Transposed(Convolution):
    """Transposed convolutions over one to three axes."""

    layer_type = "transposed"
    modules = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

    def geometry(self, module: nn.Module) -> ConvGeometry:
        return replace(super().geometry(module), output_padding=sizes(module, "output_padding"))

    def make(self, geometry: ConvGeometry, settings: Mapping[str, object], **options: Any) -> nn.Module:
        return super().make(geometry, settings, output_padding=geometry.output_padding, **options)

    def run(self, geometry: ConvGeometry, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        g, axes = geometry, len(geometry.kernel)
        by_group = weight.reshape(g.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
        # Without pads first, since torch takes the same on both sides only; they cut the borders off.
        whole = _RUN[axes](x, by_group, None, g.stride, 0, 0, g.groups, g.dilation)
        sides = [
            side
            for (before, after), more in reversed(list(zip(g.pad, g.output_padding, strict=True)))
            for side in (-before, more - after)
        ]
        cut = functional.pad(whole, sides)
        return cut if bias is None else cut + bias.reshape(-1, *(1,) * axes)
