"""Deconvolution."""

from __future__ import annotations

from ....conv import Size
from ..net import LayerSpec
from .convolution import Convolution


class Transposed(Convolution):
    """Transposed convolutions, which have the parameters of convolutions."""

    layer_type = "transposed"
    types = ("Deconvolution",)

    def channels(self, layer: LayerSpec, stored: Size) -> int:
        return stored[0]
