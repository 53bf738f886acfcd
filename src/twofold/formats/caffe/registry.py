"""What twofold can do with layers of Caffe, by layer type: run them, write them as ONNX, read their data."""

from __future__ import annotations

from typing import TypeVar

from ...errors import ModelError
from ...registry import Registry, name_hint
from .layer_types import plain_type, types
from .net import LayerSpec

V = TypeVar("V")


class LayerRegistry(Registry[str, V]):
    """Entries by layer type; a fork's type that computes what a plain one does has the entry of that."""

    def __init__(
        self, cannot: str, module: str, example: str, unsupported: type[ModelError] = ModelError
    ) -> None:
        """Make an empty table.

        Args:
            cannot: what cannot be done with a layer without an entry, as "cannot be run".
            module: full name of the module in which users register their own.
            example: code that registers a type, with {type!r} and {identifier} for the type.
            unsupported: class of the error for a variant of a type that is not known.
        """
        super().__init__("layer type")
        self._cannot, self._module, self._example = cannot, module, example
        self._unsupported = unsupported
        self._built_in: frozenset[V] = frozenset()

    def close(self) -> None:
        """Take what is registered so far for built in; only later entries get variants that are not known."""
        self._built_in = frozenset(self.values())

    def known(self) -> list[str]:
        """All layer types that have an entry, sorted."""
        return sorted({*self, *(one for one in types() if plain_type(one) in self)}, key=str.casefold)

    def of(self, spec: LayerSpec, why: str | None = None) -> V:
        """The entry of a layer.

        Args:
            spec: the layer.
            why: a reason why its type has none, in place of the types that have one.

        Raises:
            ModelError: its type has none, or it is a variant of which it is not known what it does.
        """
        found = self.get(spec.type) or self.get(plain_type(spec.type))
        if found is None:
            identifier = "".join(part for part in spec.type if part.isalnum()) or "MyLayer"
            reason = f"; {why}" if why else self.hint(spec.type)
            raise ModelError(
                f"{spec.label} has the type {spec.type!r}, which {self._cannot}{reason}. To add it:\n"
                + self._example.format(type=spec.type, identifier=identifier)
            )
        if found in self._built_in and not spec.known_type:
            raise self._unsupported(
                f"{spec.label} ({spec.type}) has {', '.join(spec.unknown)}, of which it is not known what it "
                f"does; remove it if it does nothing, or register a {spec.type!r} of your own "
                f"({self._module}.unregister, then register)"
            )
        return found

    def hint(self, key: str) -> str:
        """The end of a message on an unknown type: a close one if there is any, and all known ones."""
        return name_hint(key, self.known(), most=None)
