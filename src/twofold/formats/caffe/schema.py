"""The messages of caffe.proto: numbers, kinds and defaults of fields, as data.

The facts stand in the table `caffe.fields` beside this module; its head says how to read it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files

SCALARS = frozenset(("int32", "int64", "uint32", "uint64", "float", "double", "bool", "string", "bytes"))


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
        fork: "" where BVLC Caffe has the field, else the name of the fork that has it, as "ssd".
    """

    name: str
    number: int
    kind: str
    repeated: bool = False
    required: bool = False
    packed: bool = False
    type_name: str = ""
    default: int | float | bool | str = 0
    fork: str = ""


#: message name -> field name -> definition
MESSAGES: dict[str, dict[str, FieldDef]] = {}
#: enum name -> value name -> number
ENUMS: dict[str, dict[str, int]] = {}

_FIELD = re.compile(r"(\d+) (\w+) (?:(repeated|packed|required) )?([\w.]+)(?: = (.*))?")


def _default(kind: str, type_name: str, given: str | None) -> int | float | bool | str:
    """The default of a field as a Python value: what the table gives, else protobuf's own zero."""
    match kind:
        case "string" | "bytes":
            return given.strip('"') if given else ""
        case "float" | "double":
            return float(given or 0)
        case "bool":
            return given == "true"
        case "enum":
            return given or next(iter(ENUMS[type_name]))
        case "message":
            return 0
        case _:
            return int(given or 0)


def _field(line: str, fork: str) -> FieldDef:
    match = _FIELD.fullmatch(line)
    assert match, f"Bug: caffe.fields has the line {line!r}"
    number, name, label, type_name, given = match.groups()
    kind = type_name if type_name in SCALARS else "enum" if type_name in ENUMS else "message"
    return FieldDef(
        name=name,
        number=int(number),
        kind=kind,
        repeated=label in ("repeated", "packed"),
        required=label == "required",
        packed=label == "packed",
        type_name="" if kind in SCALARS else type_name,
        default=_default(kind, type_name, given),
        fork=fork,
    )


def _load(table: str) -> None:
    """Fill MESSAGES and ENUMS. An enum stands above the first field that uses it."""
    fork, block, name = "", "", ""
    for line in table.splitlines():
        if line.startswith("["):
            fork = line.strip("[]").replace("bvlc", "")
        elif line.startswith(("enum ", "message ")):
            block, name = line.split()
            (ENUMS if block == "enum" else MESSAGES).setdefault(name, {})
        elif line.startswith("  ") and block == "enum":
            pairs = (pair.split("=") for pair in line.split())
            ENUMS[name].update((value, int(number)) for value, number in pairs)
        elif line.startswith("  "):
            definition = _field(line.strip(), fork)
            MESSAGES[name][definition.name] = definition


_load(files(__package__).joinpath("caffe.fields").read_text("ascii"))
