"""How modules hold layers: the base class, and the registry."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from ....conv import Array, ConvGeometry, Size
from ...registry import Adapter, AdapterRegistry


class LayerAdapter(Adapter):
    """How modules of some classes hold a layer.

    A module has a parameter `weight`, perhaps one called `bias`, and no others. Whatever it is, stacks are
    made by the first adapter that is registered for their layer type.

    Attributes:
        layer_type: name of the layer type in `twofold.layer_types`.
        modules: the classes; of several one for each number of axes, from one on.
    """

    modules: tuple[type[nn.Module], ...]

    @abstractmethod
    def geometry(self, module: nn.Module) -> ConvGeometry:
        """Its shape; raises AttributeError, TypeError or ValueError where the module does not tell."""

    def rejection(self, module: nn.Module) -> str | None:
        """Why it cannot be replaced, besides what is asked of every module; None where it can."""
        return None

    def weight(self, values: Array, geometry: ConvGeometry) -> Array:
        """The values of its weight as (C_out, C_in / groups, *kernel)."""
        return geometry.semantics.canonical(values, geometry)

    def images(self, module: nn.Module, tensor: Tensor) -> Tensor:
        """What it is given, or gives, as (N, C, *size)."""
        found: Tensor = self.geometry(module).semantics.images(tensor)
        return found

    @abstractmethod
    def size(self, module: nn.Module, tensor: Tensor, batch: int) -> Size:
        """Spatial size of its input `tensor`, in which there are `batch` samples on whatever axis."""

    def runs(self, module: nn.Module, tensor: Tensor, batch: int) -> Fraction:
        """How often a call with `tensor` runs per sample at the size that `size` gives."""
        return Fraction(1)

    def settings(self, module: nn.Module) -> Mapping[str, object]:
        """What the shape does not say, and a stack in its place has like it."""
        return {}

    @abstractmethod
    def make(self, geometry: ConvGeometry, settings: Mapping[str, object], **options: Any) -> nn.Module:
        """A plain module of that shape, with the `settings` of the layer whose place it takes.

        Raises:
            ModelError: there is no plain module of that shape.
        """

    @abstractmethod
    def run(self, geometry: ConvGeometry, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What a layer gives for x (N, C_in, *size), with its weight as `ConvLayer` has it."""


registry: AdapterRegistry[type[nn.Module], LayerAdapter] = AdapterRegistry("module", lambda one: one.modules)
register, plain = registry.register_adapter, registry.plain


def registered(module: nn.Module) -> type[nn.Module] | None:
    """The registered class that a module is of, itself or by inheritance; None where it is of none."""
    return next((one for one in type(module).__mro__ if registry.get(one)), None)


def adapter_of(module: nn.Module) -> LayerAdapter | None:
    """The adapter of a module that is a layer, quantized ones included; None for others."""
    found = registered(module)
    if found is None and ".quantized" in type(module).__module__:  # classes of their own, of the same names
        names = {one.__name__: one for one in registry.known()}
        found = next((names[one.__name__] for one in type(module).__mro__ if one.__name__ in names), None)
    return None if found is None else registry.get(found)


def modules(layer_type: str) -> tuple[str, ...]:
    """Names of the registered classes of a layer type."""
    return tuple(one.__name__ for one in registry.known(layer_type))


def convolve(geometry: ConvGeometry, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What a layer gives for x (N, C_in, *size), with its weight as `ConvLayer` has it."""
    return plain(geometry.layer_type).run(geometry, x, weight, bias)
