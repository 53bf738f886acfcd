"""Typed values of one protobuf message, with Caffe's defaults for what a file leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Union

from .schema import MESSAGES, FieldDef

Value = Union[int, float, bool, str, "Fields"]


@dataclass(frozen=True)
class Fields:
    """Typed values of one message, with Caffe's own defaults for what the text leaves out.

    Attributes:
        type: message name in the schema, as "ConvolutionParameter".
        values: field name -> the values that the text gives, in its order. Enums are their names.
    """

    type: str
    values: Mapping[str, Sequence[Value]] = field(default_factory=dict)

    def _definition(self, name: str) -> FieldDef:
        try:
            return MESSAGES[self.type][name]
        except KeyError:
            raise KeyError(f"Bug: {self.type} has no field {name}") from None

    def has(self, name: str) -> bool:
        """Whether the text gives the field."""
        self._definition(name)
        return bool(self.values.get(name))

    def all(self, name: str) -> Sequence[Value]:
        """All values of a field, none where the text gives none."""
        self._definition(name)
        return self.values.get(name, ())

    def get(self, name: str) -> Value:
        """The last value of a field, else the schema's default (an empty message for a message)."""
        definition = self._definition(name)
        given = self.values.get(name)
        if given:
            return given[-1]
        if definition.type == "message":
            return Fields(definition.type_name)
        return definition.default

    # The typed readers state what the caller expects; the schema guarantees it.
    def integer(self, name: str) -> int:
        """An integer field."""
        value = self.get(name)
        assert isinstance(value, int)
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        """A repeated integer field."""
        return tuple(value for value in self.all(name) if isinstance(value, int))

    def number(self, name: str) -> float:
        """A float field."""
        value = self.get(name)
        assert isinstance(value, (int, float))
        return float(value)

    def numbers(self, name: str) -> tuple[float, ...]:
        """A repeated float field."""
        return tuple(float(value) for value in self.all(name) if isinstance(value, (int, float)))

    def flag(self, name: str) -> bool:
        """A bool field."""
        return bool(self.get(name))

    def text(self, name: str) -> str:
        """A string field, or the name of an enum's value."""
        value = self.get(name)
        assert isinstance(value, str)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A repeated string field."""
        return tuple(value for value in self.all(name) if isinstance(value, str))

    def message(self, name: str) -> Fields:
        """A message field; empty where the text has none, so that its defaults can be read."""
        value = self.get(name)
        assert isinstance(value, Fields)
        return value

    def messages(self, name: str) -> tuple[Fields, ...]:
        """A repeated message field."""
        return tuple(value for value in self.all(name) if isinstance(value, Fields))


def axis_of(axis: int, dims: int) -> int:
    """A possibly negative axis of a blob of `dims` axes as an index.

    Raises:
        ValueError: there is no such axis.
    """
    index = axis + dims if axis < 0 else axis
    if not 0 <= index < dims:
        raise ValueError(f"axis {axis} of an input with {dims} axes")
    return index
