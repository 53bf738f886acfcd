"""The registry that each format has of its kinds of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from ..errors import OptionError


class Means(Protocol):
    """What all formats' kinds have."""

    means: str


Key = TypeVar("Key")
KindType = TypeVar("KindType", bound=Means)


class Registry(Generic[Key, KindType]):
    """Kinds of layers by what says them in a format: a type, an operator, a class."""

    def __init__(self, what: str, keys: Callable[[KindType], Iterable[Key]]) -> None:
        """Make an empty one.

        Args:
            what: what a key is, in words.
            keys: the keys of a kind.
        """
        self._what, self._keys = what, keys
        self._kinds: dict[Key, KindType] = {}

    def register(self, kind: KindType) -> None:
        """Add a kind.

        Raises:
            OptionError: another has one of its keys.
        """
        for key in self._keys(kind):
            if key in self._kinds:
                raise OptionError(
                    f"{self._what} {key!r} is registered already, as {self._kinds[key].means}; "
                    "each can be of one kind"
                )
        self._kinds.update(dict.fromkeys(self._keys(kind), kind))

    def get(self, key: Key) -> KindType | None:
        """The kind of a key; None where nothing is known of it."""
        return self._kinds.get(key)

    def known(self, means: str | None = None) -> tuple[Key, ...]:
        """All keys, or those that say a kind of `twofold.kinds`, in the order of registration."""
        return tuple(key for key, kind in self._kinds.items() if means in (None, kind.means))

    def plain(self, means: str, like: KindType | None = None) -> KindType:
        """What says layers of a kind of `twofold.kinds`: `like` where it does, else the first registered.

        Raises:
            OptionError: there is none.
        """
        if like is not None and like.means == means:
            return like
        keys = self.known(means)
        if not keys:
            raise OptionError(f"no {self._what} is registered for layers of the kind '{means}'")
        return self._kinds[keys[0]]
