"""How layers of Caffe hold layers that are decomposed: the base class, and the registry."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....conv import Array, ConvGeometry, Size
from ....errors import ModelError
from ...registry import Adapter, AdapterRegistry
from ..fields import Fields
from ..net import LayerSpec


@dataclass(frozen=True)
class Sizes:
    """Sizes of a layer, one per axis, and the fields that hold them.

    Attributes:
        names: of the field that holds one for all axes or one for each, then, if there are, of those for
            height and width.
        default: what Caffe takes where nothing is given.
        values: the sizes.
    """

    names: tuple[str, ...]
    default: int
    values: Size

    @property
    def spelled(self) -> list[tuple[str, int]]:
        """The shortest way to write them that Caffe takes, as names and values."""
        one, *each = self.names
        if len(set(self.values)) == 1:
            return [(one, self.values[0])]
        spread = each if each and len(self.values) == 2 else [one] * len(self.values)
        return list(zip(spread, self.values, strict=True))

    def given(self, param: Fields) -> Size:
        """The sizes that parameters give."""
        one, *each = self.names
        listed = param.integers(one)
        if listed:
            return listed * len(self.values) if len(listed) == 1 else listed
        if any(param.has(name) for name in each):
            return tuple(param.integer(name) if param.has(name) else self.default for name in each)
        return (self.default,) * len(self.values)


@dataclass(frozen=True)
class Sides(Sizes):
    """Sizes of which each has a field of its own."""

    @property
    def spelled(self) -> list[tuple[str, int]]:
        """Every field with its value."""
        return list(zip(self.names, self.values, strict=True))

    def given(self, param: Fields) -> Size:
        """The sizes that parameters give."""
        return tuple(param.integer(name) for name in self.names)


class LayerAdapter(Adapter):
    """How layers of some of Caffe's types hold a layer.

    Attributes:
        layer_type: name of the layer type in `twofold.layer_types`.
        types: names of Caffe's types. A factor of the same layer type keeps the type of its layer; another
            gets the first that is registered for its layer type.
        param: field of a layer that holds its parameters, of which one is `num_output`, one `bias_term`.
    """

    types: tuple[str, ...]
    param: str

    def rejection(self, layer: LayerSpec, shape: Size | None) -> str | None:
        """Why a layer with an input of that shape cannot be replaced; None where it can."""
        return None

    @abstractmethod
    def taken(self, layer: LayerSpec, shape: Size) -> tuple[int, Size] | None:
        """Channels and spatial size of an input; None where they are not those of a `ConvLayer`."""

    @abstractmethod
    def top(self, layer: LayerSpec, shape: Size) -> Size:
        """Shape of what it gives for an input of that shape; raises ValueError where there is no such."""

    @abstractmethod
    def channels(self, layer: LayerSpec, stored: Size) -> int:
        """Input channels of a layer whose weight has that shape in the file."""

    @abstractmethod
    def geometry(self, layer: LayerSpec, axes: int, c_in: int) -> ConvGeometry:
        """Shape of a layer with `axes` spatial axes and `c_in` input channels.

        Raises:
            ModelError: parameters that Caffe rejects.
        """

    def sizes(self, geometry: ConvGeometry, param: Fields | None = None) -> tuple[Sizes, ...]:
        """What is written of a shape, besides `num_output`.

        Args:
            geometry: the shape.
            param: the parameters that it is written into; what they use of forks is used again. None for new
                ones.
        """
        return ()

    def turned(self, layer: LayerSpec) -> bool:
        """Whether the file has its weight with the axes in reverse."""
        return False

    def values(self, layer: LayerSpec, blob: Any) -> Any:
        """What the layer makes of an input blob before it takes it, an array or a tensor."""
        return blob

    # ---- what follows from this

    def parameters(self, layer: LayerSpec) -> Fields:
        """The parameters of a layer."""
        return layer.fields.message(self.param)

    def outputs(self, layer: LayerSpec) -> int:
        """Output channels, once the layer has no more training entries than blobs.

        Raises:
            ModelError: it has, or there are no outputs.
        """
        param = self.parameters(layer)
        blobs = 2 if param.flag("bias_term") else 1
        given = len(layer.fields.all("param"))
        if given > blobs:
            what = "weight and bias" if blobs > 1 else "weight"
            raise ModelError(
                f"{layer.label}: has {given} param entries for {blobs} blobs ({what}); remove the rest"
            )
        c_out = param.integer("num_output")
        if c_out < 1:
            raise ModelError(f"{layer.label}: num_output is {c_out}; it must be at least 1")
        return c_out

    def stored_shape(self, layer: LayerSpec, geometry: ConvGeometry) -> Size:
        """Shape of the weight in the file."""
        return geometry.semantics.stored_shape(geometry)[:: -1 if self.turned(layer) else 1]

    def weight(self, layer: LayerSpec, array: Array, geometry: ConvGeometry) -> Array:
        """The weight as `ConvLayer` has it."""
        array = array.reshape(self.stored_shape(layer, geometry))
        return geometry.semantics.canonical(array.T if self.turned(layer) else array, geometry)

    def stored(self, layer: LayerSpec, weight: Array, geometry: ConvGeometry) -> Array:
        """The weight as a layer that stands in this one's place has it."""
        array = geometry.semantics.stored(weight, geometry)
        return np.ascontiguousarray(array.T) if self.turned(layer) else array


registry: AdapterRegistry[str, LayerAdapter] = AdapterRegistry("layer type", lambda adapter: adapter.types)
register, adapter_of, types, plain = registry.register_adapter, registry.get, registry.known, registry.plain


def plain_type(type_: str) -> str:
    """The type by which a layer is run: the first of its layer type, or its own if it is not decomposed."""
    adapter = adapter_of(type_)
    return type_ if adapter is None else plain(adapter.layer_type).types[0]


def geometry(layer: LayerSpec, axes: int, c_in: int) -> ConvGeometry:
    """Shape of a layer of a registered type; see `LayerAdapter.geometry`."""
    adapter = adapter_of(layer.type)
    assert adapter is not None, f"Bug: {layer.label} is no layer that is decomposed"
    return adapter.geometry(layer, axes, c_in)
