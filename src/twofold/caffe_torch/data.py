"""Layers without bottoms: inputs that the caller feeds, constants and free parameters.

A net's own data layers (Data, ImageData, ...) are inputs, too: their tops are fed by name.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..formats.caffe.fields import Fields
from ..formats.caffe.shapes import RULES
from .fillers import fill
from .layer import Layer, Setup, Tops, constant
from .registry import register


@register("Input", "Data", "ImageData", "HDF5Data", "MemoryData", "WindowData", "AnnotatedData", "VideoData")
class Feed(Layer):
    """Tops that the caller gives to the forward pass."""

    def forward(self, *bottoms: Tensor) -> Tops:
        """Nothing: the net takes the tops from its caller."""
        raise InputError(
            f"layer {self.spec.name!r} ({self.spec.type}) does not read data; feed "
            f"{', '.join(map(repr, self.spec.tops))} to the forward pass"
        )


@register("DummyData")
class DummyData(Layer):
    """Filled blobs; other than constant ones are drawn again in every pass."""

    like: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        # Has no value of interest, but the net's dtype and device.
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self, *bottoms: Tensor) -> Tops:
        """The tops, of the shapes that the definition gives."""
        fillers = self.spec.fields.message("dummy_data_param").messages("data_filler") or (constant(0),)
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ()).item()))
        tops = []
        for i, shape in enumerate(RULES[self.spec.type](self.spec, [])):
            assert shape is not None
            tops.append(fill(shape, fillers[i if len(fillers) > 1 else 0], generator).to(self.like))
        return tuple(tops)


@register("Parameter")
class Parameter(Layer):
    """A learned blob of its own."""

    value: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        shape: Fields = setup.spec.fields.message("parameter_param").message("shape")
        self.add_blob(setup, "value", shape.integers("dim"), constant(0))

    def forward(self, *bottoms: Tensor) -> Tensor:
        """The blob."""
        return self.value
