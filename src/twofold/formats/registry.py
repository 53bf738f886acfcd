"""The registry that each format has of its adapters of layers."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from ..errors import OptionError
from ..registry import Registry
from ..renamed import rename_members


class Adapter(ABC):
    """What the adapters of all formats have; see `LayerAdapter` of each."""

    layer_type: str

    def __init_subclass__(cls) -> None:
        rename_members(cls, means="layer_type", refusal="rejection")


K = TypeVar("K")
A = TypeVar("A", bound=Adapter)


class AdapterRegistry(Registry[K, A], Generic[K, A]):
    """Adapters by what stands for a layer in a format: a type, an operator, a class."""

    def __init__(self, what: str, keys: Callable[[A], Iterable[K]]) -> None:
        """Make an empty one.

        Args:
            what: what a key is, in words.
            keys: the keys of an adapter.
        """
        super().__init__(what)
        self._keys = keys

    def register_adapter(self, adapter: A) -> None:
        """Add an adapter.

        Raises:
            OptionError: another has one of its keys.
        """
        self.add(adapter, *self._keys(adapter))

    def known(self, layer_type: str | None = None) -> tuple[K, ...]:
        """All keys, or those of a layer type of `twofold.layer_types`, in the order of registration."""
        return tuple(key for key, one in self.items() if layer_type in (None, one.layer_type))

    def plain(self, layer_type: str, like: A | None = None) -> A:
        """The adapter that writes layers of a type: `like` where it has that type, else the first registered.

        Raises:
            OptionError: there is none.
        """
        if like is not None and like.layer_type == layer_type:
            return like
        keys = self.known(layer_type)
        if not keys:
            raise OptionError(f"no {self._what} is registered for layers of the type '{layer_type}'")
        return self[keys[0]]
