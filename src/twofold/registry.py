"""Tables that can be added to: layer types, operators, schemes, runtimes and others, by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from .errors import OptionError, TwofoldError

K = TypeVar("K")
V = TypeVar("V")
Entry = TypeVar("Entry")


class Registry(Mapping[K, V], Generic[K, V]):
    """A table of entries in the order of registration; every key has one entry.

    Source: the mapping protocol; command-line choices, pages and tests read the table itself.
    """

    def __init__(
        self, what: str, entries: Mapping[K, V] | None = None, *,
        normalize: Callable[[K], K] = lambda key: key, error: type[TwofoldError] = OptionError,
    ) -> None:  # fmt: skip
        """Make a table.

        Args:
            what: what a key is, in words for messages.
            entries: the first entries.
            normalize: gives the spelling of a key under which it is stored and found.
            error: class of the errors of `find`.
        """
        self._what, self._normalize, self._error = what, normalize, error
        self._entries: dict[K, V] = {}
        for key, entry in (entries or {}).items():
            self.add(entry, key)

    def add(self, entry: V, *keys: K) -> None:
        """Register an entry under each of the keys.

        Raises:
            OptionError: one of them has an entry.
        """
        normal = [self._normalize(key) for key in keys]
        for key in normal:
            if key in self._entries:
                raise OptionError(f"{self._what} {self._name(key)} is registered already")
        self._entries.update(dict.fromkeys(normal, entry))

    def register(self, *keys: K) -> Callable[[Entry], Entry]:
        """Decorate a function or a class to register it under each of the keys; errors as in `add`."""

        def decorate(entry: Entry) -> Entry:
            self.add(entry, *keys)  # type: ignore[arg-type]  # the decorated keeps its narrower type
            return entry

        return decorate

    def unregister(self, *keys: K) -> None:
        """Remove keys, so that they can be registered anew; unknown ones are ignored."""
        for key in keys:
            self._entries.pop(self._normalize(key), None)

    def find(self, key: K) -> V:
        """The entry of a key.

        Raises:
            OptionError: there is none (or the class of errors that the table was made with).
        """
        found = self.get(key)
        if found is None:
            raise self._error(f"there is no {self._what} {self._name(key)}{self.hint(key)}")
        return found

    def hint(self, key: K) -> str:
        """The end of a message on an unknown key: a close one if there is any, and all that are known."""
        return name_hint(str(key), [str(known) for known in self], most=None)

    @staticmethod
    def _name(key: K) -> str:
        return f"'{key}'" if isinstance(key, str) else repr(key)

    def __getitem__(self, key: K) -> V:
        return self._entries[self._normalize(key)]

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def name_hint(name: str, known: Sequence[str], most: int | None = 20) -> str:
    """The end of a message on an unknown name: the closest one if there is any, and the known ones.

    Args:
        name: the unknown name.
        known: names that exist.
        most: how many of them are listed; None lists all.
    """
    if not known:
        return "; there are none"
    by_lower = {one.lower(): one for one in reversed(known)}
    close = difflib.get_close_matches(name.lower(), by_lower, 1, 0.75)
    more = 0 if most is None else len(known) - most
    listed = ", ".join(known[:most]) + (f" and {more} more" if more > 0 else "")
    return (f"; did you mean '{by_lower[close[0]]}'? known" if close else "; known") + f": {listed}"
