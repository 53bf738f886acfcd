"""The messages of caffe.proto: numbers, types and defaults of fields, as data (`caffe.schema`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class FieldDef:
    """One field of a message.

    Attributes:
        name: name in the text format.
        number: number in the binary format; 0 for a fork's field whose number differs between forks.
        type: int32, int64, uint32, float, double, bool, string, bytes, enum or message.
        repeated: whether it may be given more than once.
        required: whether it must be given.
        packed: whether Caffe writes it packed.
        fork: whether BVLC Caffe lacks it.
        only: types of layers in which it is known what a fork's field does; empty for all.
        type_name: message or enum name, else "".
        default: value where the file gives none; enums by name.
    """

    name: str
    number: int
    type: str
    repeated: bool = False
    required: bool = False
    packed: bool = False
    fork: bool = False
    only: tuple[str, ...] = ()
    type_name: str = ""
    default: int | float | bool | str = 0


#: message name -> field name -> definition
MESSAGES: dict[str, dict[str, FieldDef]] = {}
#: enum name -> value name -> number
ENUMS: dict[str, dict[str, int]] = {}
#: enum name -> values of forks, whose numbers differ
FORK_VALUES: dict[str, frozenset[str]] = {}

_FIELD = re.compile(
    r"(?P<number>\d+) (?P<flags>\*p|~?\*|[!~])?(?P<type>\w+) (?P<name>\w+)"
    r"(?: = (?P<default>\S+))?(?: @(?P<only>\S+))?"
)
_NUMBERS = ("int32", "int64", "uint32")


def _default(field_type: str, type_name: str, text: str | None) -> int | float | bool | str:
    if field_type == "enum":
        return text or next(iter(ENUMS[type_name]))
    if field_type == "bool":
        return text == "true"
    if field_type in ("float", "double"):
        return float(text or 0)
    if field_type in _NUMBERS:
        return int(text or 0)
    return text or ""


def _load() -> None:
    lines = files(__package__).joinpath("caffe.schema").read_text("ascii").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    for line in lines:
        head, _, rest = line.partition(" ")
        if head == "enum":
            name, _, values = rest.partition(" = ")
            pairs = [value.split() for value in values.split(", ")]
            ENUMS[name] = {key: int(number) for key, number in pairs if number != "~"}
            FORK_VALUES[name] = frozenset(key for key, number in pairs if number == "~")
        elif head == "message":
            MESSAGES[rest.lstrip("~")] = {}
    fields: dict[str, FieldDef] = {}
    for line in lines:
        if line.startswith("message"):
            fields = MESSAGES[line.split()[1].lstrip("~")]
        elif line.startswith(" "):
            match = _FIELD.fullmatch(line.strip())
            assert match, f"Bug: {line!r} in caffe.schema"
            flags, field_type = match["flags"] or "", match["type"]
            type_name = field_type if field_type in MESSAGES or field_type in ENUMS else ""
            if type_name:
                field_type = "message" if field_type in MESSAGES else "enum"
            fields[match["name"]] = FieldDef(
                name=match["name"],
                number=int(match["number"]),
                type=field_type,
                repeated="*" in flags,
                required=flags == "!",
                packed=flags == "*p",
                fork=flags.startswith("~"),
                only=tuple(match["only"].split(",")) if match["only"] else (),
                type_name=type_name,
                default=_default(field_type, type_name, match["default"]),
            )


_load()
