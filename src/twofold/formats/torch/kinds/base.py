"""What is to be known of a kind of module, and the registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ....conv import Array, ConvGeometry, Size
from ....errors import OptionError


class Kind(ABC):
    """How modules of some classes say a layer.

    A module has a parameter `weight`, perhaps one called `bias`, and no others. Whatever it is, stacks are
    made by the first kind that is registered for what it means.

    Attributes:
        means: name of the kind in `twofold.kinds`.
        modules: the classes; of several one for each number of axes, from one on.
    """

    means: str
    modules: tuple[type[nn.Module], ...]

    @abstractmethod
    def geometry(self, module: nn.Module) -> ConvGeometry:
        """Its shape; raises AttributeError, TypeError or ValueError where the module does not tell."""

    def refusal(self, module: nn.Module) -> str | None:
        """Why it cannot be replaced, besides what is asked of every module; None where it can."""
        return None

    def weight(self, values: Array, geometry: ConvGeometry) -> Array:
        """The values of its weight as (C_out, C_in / groups, *kernel)."""
        return geometry.meaning.canonical(values, geometry)

    def images(self, module: nn.Module, tensor: Tensor) -> Tensor:
        """What it is given, or gives, as (N, C, *size)."""
        found: Tensor = self.geometry(module).meaning.images(tensor)
        return found

    @abstractmethod
    def size(self, module: nn.Module, tensor: Tensor, batch: int) -> Size:
        """Spatial size of its input `tensor`, in which there are `batch` samples on whatever axis."""

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


_by_class: dict[type[nn.Module], Kind] = {}


def register(kind: Kind) -> None:
    """Make modules of a kind's classes, and of their subclasses without a forward of their own, layers.

    Raises:
        OptionError: one of the classes is registered already.
    """
    for one in kind.modules:
        if one in _by_class:
            raise OptionError(f"module {one.__name__} is registered already, as {_by_class[one].means}")
    _by_class.update(dict.fromkeys(kind.modules, kind))


def registered(module: nn.Module) -> type[nn.Module] | None:
    """The registered class that a module is of; None where it is of none."""
    return next((one for one in type(module).__mro__ if one in _by_class), None)


def kind_of(module: nn.Module) -> Kind | None:
    """The kind of a module that is a layer, quantized ones included; None for others."""
    one = registered(module)
    if one is None and ".quantized" in type(module).__module__:  # classes of their own under the same names
        names = {one.__name__: one for one in _by_class}
        one = next((names[kind.__name__] for kind in type(module).__mro__ if kind.__name__ in names), None)
    return None if one is None else _by_class[one]


def modules(means: str) -> tuple[str, ...]:
    """Names of the registered classes that say a kind of `twofold.kinds`."""
    return tuple(one.__name__ for one, kind in _by_class.items() if kind.means == means)


def plain(means: str) -> Kind:
    """What makes and runs layers of a kind of `twofold.kinds`: the first that was registered for it.

    Raises:
        OptionError: there is none.
    """
    found = next((kind for kind in _by_class.values() if kind.means == means), None)
    if found is None:
        raise OptionError(f"no module is registered for layers of the kind '{means}'")
    return found


def convolve(geometry: ConvGeometry, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What a layer gives for x (N, C_in, *size), with its weight as `ConvLayer` has it."""
    return plain(geometry.kind).run(geometry, x, weight, bias)
