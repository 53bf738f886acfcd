"""The tree of a text file: what it says, and where in the file it says so."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import Fields, Value
from .schema import FieldDef

#: Offsets of the first byte and of the one behind the last.
Span = tuple[int, int]


@dataclass(frozen=True)
class Scalar:
    """One value: its text and what it means. Adjacent string literals are one value.

    Attributes:
        span: where it stands.
        raw: its text.
        value: what it means; of an enum the name.
        known: whether the schema has it; False for the name of an enum's value that it lacks.
    """

    span: Span
    raw: bytes
    value: int | float | bool | str
    known: bool = True


@dataclass(frozen=True)
class Field:
    """One field of a message with all values that it gives: several where list syntax is used.

    Attributes:
        name: field name.
        span: from the name to the end of the value; a separator after it does not belong to it.
        values: scalars or messages.
        definition: what the schema says; None for a field that BVLC Caffe and the known forks lack.
        listed: whether it is written as a list in brackets.
    """

    name: str
    span: Span
    values: tuple[Scalar | Message, ...]
    definition: FieldDef | None
    listed: bool = False

    @property
    def messages(self) -> tuple[Message, ...]:
        """Its values that are messages."""
        return tuple(value for value in self.values if isinstance(value, Message))

    @property
    def scalars(self) -> tuple[Scalar, ...]:
        """Its values that are not messages."""
        return tuple(value for value in self.values if isinstance(value, Scalar))


@dataclass(frozen=True)
class Message:
    """A message: everything between two delimiters, or a whole file.

    Attributes:
        span: with the delimiters.
        body: between the delimiters.
        type: its name in the schema, "" for one that is not known.
        fields: in the file's order.
    """

    span: Span
    body: Span
    type: str
    fields: tuple[Field, ...]

    def all(self, name: str) -> tuple[Field, ...]:
        """All fields of that name."""
        return tuple(field for field in self.fields if field.name == name)

    def to_fields(self) -> Fields:
        """The typed values of all fields that the schema knows."""
        values: dict[str, list[Value]] = {}
        for field in self.fields:
            if field.definition is not None:
                values.setdefault(field.name, []).extend(
                    value.to_fields() if isinstance(value, Message) else value.value for value in field.values
                )
        return Fields(self.type, values)
