"""The shape of a layer, what its layer type computes, and the registry of layer types."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..registry import Registry
from ..renamed import former_fields, former_property

Array = NDArray[np.floating]
Size = tuple[int, ...]


@former_fields(kind="layer_type")
@dataclass(frozen=True)
class ConvGeometry:
    """Shape of a convolution over any number of spatial axes (two for images: height, width).

    Attributes:
        c_out: channels of the output.
        c_in: channels of the input.
        kernel: kernel size per axis.
        stride: stride per axis.
        pad: zeros (before, after) per axis.
        dilation: distance of kernel taps per axis; 1 is dense.
        groups: number of channel groups.
        layer_type: name of a registered layer type, to which the rest refers: "convolution"; "linear", a
            fully connected layer; "transposed", a transposed convolution.
        output_padding: of a transposed convolution, by how much its output is larger behind, per axis.
    """

    c_out: int
    c_in: int
    kernel: Size
    stride: Size
    pad: tuple[tuple[int, int], ...]
    dilation: Size
    groups: int = 1
    layer_type: str = "convolution"
    output_padding: Size = ()

    def __post_init__(self) -> None:
        axes = len(self.kernel)
        if not self.output_padding:
            object.__setattr__(self, "output_padding", (0,) * axes)
        if self.layer_type not in LAYER_TYPES:
            raise ValueError(f"layer_type is one of {', '.join(LAYER_TYPES)}, got {self.layer_type!r}")
        if len(self.output_padding) != axes or min(self.output_padding) < 0:
            raise ValueError(f"output_padding is a number per axis, not negative, got {self}")
        reason = self.semantics.rejection(self)
        if reason is not None:
            raise ValueError(f"{reason}, got {self}")
        if not axes or any(len(value) != axes for value in (self.stride, self.pad, self.dilation)):
            raise ValueError(f"kernel, stride, pad and dilation need one entry per axis, got {self}")
        if min(self.c_out, self.c_in, self.groups, *self.kernel, *self.stride, *self.dilation) < 1:
            raise ValueError(f"sizes of a convolution are positive, got {self}")
        if min(min(pair) for pair in self.pad) < 0:
            raise ValueError(f"pads of a convolution are not negative, got {self}")
        if self.c_in % self.groups or self.c_out % self.groups:
            raise ValueError(f"groups must divide both channel counts, got {self}")

    @classmethod
    def linear(cls, c_out: int, c_in: int) -> ConvGeometry:
        """Shape of a fully connected layer."""
        return cls(c_out, c_in, (1,), (1,), ((0, 0),), (1,), layer_type="linear")

    @classmethod
    def of(
        cls, c_out: int, c_in: int, kernel: Size, *, stride: int | Size = 1, pad: int | Size = 0,
        dilation: int | Size = 1, groups: int = 1,
    ) -> ConvGeometry:  # fmt: skip
        """Build a geometry with symmetric pads; a single number holds for every axis."""

        def spread(value: int | Size) -> Size:
            return (value,) * len(kernel) if isinstance(value, int) else tuple(value)

        pads = tuple((p, p) for p in spread(pad))
        return cls(c_out, c_in, tuple(kernel), spread(stride), pads, spread(dilation), groups)

    @property
    def semantics(self) -> LayerType:
        """What its layer type computes."""
        return LAYER_TYPES[self.layer_type]

    meaning = former_property("meaning", "semantics")

    @property
    def weight_shape(self) -> Size:
        """Shape of the weight array: (C_out, C_in / groups, *kernel)."""
        return (self.c_out, self.c_in // self.groups, *self.kernel)

    @property
    def params(self) -> int:
        """Number of weights, bias not counted."""
        return math.prod(self.weight_shape)

    def output_size(self, input_size: Size) -> Size:
        """Spatial size of the output for an input of `input_size`; rounds down. An empty output has a 0."""
        return self.semantics.output_size(self, input_size)

    def macs(self, input_size: Size) -> int:
        """Multiply-accumulates per image for an input of spatial size `input_size`."""
        positions = input_size if self.semantics.per_input else self.output_size(input_size)
        return self.params * math.prod(positions)


class LayerType(ABC):
    """What layers of a type compute, in the terms of a `ConvGeometry`; what is not overridden is the usual.

    Attributes:
        name: by which geometries and plans know it.
        words: what such a layer is called in sentences.
        spatial: whether its positions are places of one image, of which neighbours see much the same, and its
            axes those of the image; else they are samples of their own.
        per_input: whether the whole kernel is multiplied with every input position, not for every output's.
    """

    name: ClassVar[str]
    words: ClassVar[str]
    spatial: ClassVar[bool] = True
    per_input: ClassVar[bool] = False

    def rejection(self, geometry: ConvGeometry) -> str | None:
        """Why there is no such layer of this type; None where there is. Not all else has been checked."""
        return "only a transposed convolution has an output_padding" if any(geometry.output_padding) else None

    @abstractmethod
    def output_size(self, geometry: ConvGeometry, input_size: Size) -> Size:
        """Spatial size of the output."""

    @abstractmethod
    def patches(self, image: Array, geometry: ConvGeometry) -> tuple[Array, Size, list[Size]]:
        """What patches are cut from.

        The output at position u (per axis) is the sum, over the taps k in the weight's order, of tap k of the
        weight times the pixel at steps * u + places[k].

        Args:
            image: (*size, C_in).
            geometry: of the layer.

        Returns:
            The image with what the layer sees around and between its pixels, (*size, C_in); the steps per
            axis; the places of all taps.
        """

    def factor(self, own: Sequence[bool]) -> str:
        """The layer type of a factor with the window of this layer only along the axes that `own` marks."""
        return self.name

    def window(self, geometry: ConvGeometry) -> str:
        """The kernel in words, as tables of times know it."""
        return "x".join(map(str, geometry.kernel))

    # ---- how frameworks have it; all do alike

    def stored_shape(self, geometry: ConvGeometry) -> Size:
        """Shape of the weight in files and modules."""
        return geometry.weight_shape

    def stored(self, weight: Array, geometry: ConvGeometry) -> Array:
        """A weight (C_out, C_in / groups, *kernel) as files and modules have it."""
        return np.ascontiguousarray(weight).reshape(self.stored_shape(geometry))

    def canonical(self, array: Array, geometry: ConvGeometry) -> Array:
        """Undo `stored`; arrays with more axes of size 1 will do, too."""
        return array.reshape(geometry.weight_shape)

    def images(self, values: Any) -> Any:
        """What a layer is given or gives (an array, or a tensor of torch) as (N, C, *size)."""
        return values

    def values(self, images: Any, like: Any) -> Any:
        """Undo `images`: outputs (N, C_out, *size) of the layer for the inputs `like`."""
        return images


LAYER_TYPES: Registry[str, LayerType] = Registry("layer type")


def register(layer_type: LayerType) -> None:
    """Add a layer type.

    Raises:
        OptionError: one of that name is registered already.
    """
    LAYER_TYPES.add(layer_type, layer_type.name)
