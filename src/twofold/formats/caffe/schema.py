"""The messages of caffe.proto: numbers, kinds and defaults of fields, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FieldDef:
    """One field of a message.

    Attributes:
        name: name in the text format.
        number: number in the binary format.
        kind: int32, int64, uint32, uint64, float, double, bool, string, bytes, enum or message.
        repeated: whether it may be given more than once.
        required: whether it must be given.
        packed: whether Caffe writes it packed.
        type_name: message or enum name, else "".
        default: value where the file gives none; enums by name.
    """

    name: str
    number: int
    kind: str
    repeated: bool = False
    required: bool = False
    packed: bool = False
    type_name: str = ""
    default: int | float | bool | str = 0


#: message name -> field name -> definition
MESSAGES: dict[str, dict[str, FieldDef]] = {}
#: enum name -> value name -> number
ENUMS: dict[str, dict[str, int]] = {}
