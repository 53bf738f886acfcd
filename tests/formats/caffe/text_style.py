"""Random messages of our schema, written in random styles of the text format."""

from __future__ import annotations

import random

from twofold.formats.caffe.fields import Fields, Value
from twofold.formats.caffe.schema import ENUMS, MESSAGES, FieldDef

_CHARACTERS = "ab_/.0 #{}'\"\\\n\t\r\x7f\x01é卷😀"
_NUMBERS = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
}


def random_fields(rng: random.Random, message: str, depth: int = 0) -> Fields:
    """A message with some of its fields."""
    values: dict[str, list[Value]] = {}
    definitions = list(MESSAGES[message].values())
    for definition in rng.sample(definitions, min(len(definitions), rng.randrange(4 if depth else 6))):
        count = rng.choice((1, 1, 2, 4)) if definition.repeated else 1
        if definition.type != "message" or depth < 3:
            values[definition.name] = [random_value(rng, definition, depth) for _ in range(count)]
    for definition in definitions:
        if definition.required and definition.name not in values:
            values[definition.name] = [random_value(rng, definition, depth)]
    return Fields(message, values)


def random_value(rng: random.Random, definition: FieldDef, depth: int = 0) -> Value:
    """A value for a field."""
    kind = definition.type
    if kind == "message":
        return random_fields(rng, definition.type_name, depth + 1)
    if kind == "enum":
        return rng.choice(list(ENUMS[definition.type_name]))
    if kind == "bool":
        return rng.random() < 0.5
    if kind in _NUMBERS:
        low, high = _NUMBERS[kind]
        return rng.choice((0, 1, 3, 8, low, high, rng.randint(low, high)))
    if kind in ("float", "double"):
        return rng.choice((0.0, 1.0, -0.5, float("inf"), 1e-10, rng.gauss(0, 1), rng.gauss(0, 1e9)))
    return "".join(rng.choices(_CHARACTERS, k=rng.randrange(8)))


def render(rng: random.Random, fields: Fields, *, exotic: bool = True) -> bytes:
    """Write a message.

    Args:
        rng: decides about the style.
        fields: the message.
        exotic: use forms that Caffe reads and Python's protobuf does not.
    """
    return _Writer(rng, exotic).body(fields).encode("utf-8", "surrogateescape")


class _Writer:
    def __init__(self, rng: random.Random, exotic: bool) -> None:
        self.rng, self.exotic = rng, exotic
        self.newline = rng.choice(("\n", "\n", "\r\n"))
        self.quotes = rng.choice(("'", '"', "'\""))

    def space(self, needed: bool = False) -> str:
        choices = [" ", "  ", "\t", self.newline, f" # a {{comment}} 'x{self.newline}", f"#{self.newline}\t"]
        return self.rng.choice(choices if needed else [*choices, "", "", ""])

    def body(self, fields: Fields) -> str:
        # Values of one field may be split over several fields, whose order among others is free.
        parts: list[tuple[float, str]] = []
        for name, values in fields.values.items():
            definition = MESSAGES[fields.type][name]
            place = self.rng.random()
            rest = list(values)
            while rest:
                count = self.rng.randrange(1, len(rest) + 1)
                if count > 1 or (definition.repeated and self.rng.random() < 0.2):
                    text = self.listed(definition, rest[:count])
                else:
                    count, text = 1, self.single(definition, rest[0])
                parts.append((place, text))
                rest = rest[count:]
                place += self.rng.random()
        ordered = [text for _, text in sorted(parts, key=lambda part: part[0])]
        return self.space() + "".join(
            text + self.rng.choice((" ", " ;", ",", "; ", self.space(True))) for text in ordered
        )

    def single(self, definition: FieldDef, value: Value) -> str:
        colon = ":" if definition.type != "message" or self.rng.random() < 0.3 else ""
        return definition.name + self.space() + colon + self.space() + self.value(definition, value)

    def listed(self, definition: FieldDef, values: list[Value]) -> str:
        colon = ":" if definition.type != "message" or not self.exotic or self.rng.random() < 0.5 else ""
        comma = self.space() + "," + self.space()
        inner = comma.join(self.value(definition, value) for value in values)
        return definition.name + self.space() + colon + "[" + self.space() + inner + self.space() + "]"

    def value(self, definition: FieldDef, value: Value) -> str:
        if isinstance(value, Fields):
            opening, closing = self.rng.choice(("{}", "<>"))
            return opening + self.body(value) + self.space() + closing
        if isinstance(value, bool):
            forms = ("true", "True", "t", "1") if value else ("false", "False", "f", "0")
            return self.rng.choice(forms)
        if definition.type == "enum":
            number = ENUMS[definition.type_name][str(value)]
            return self.rng.choice((str(value), str(number)))
        if isinstance(value, int):
            sign, size = ("-", -value) if value < 0 else ("", value)
            forms = [str(size), hex(size), hex(size).upper().replace("X", "x")]
            forms += [f"0{size:o}"] if self.exotic else []
            return sign + (self.space() if self.exotic and sign else "") + self.rng.choice(forms)
        if isinstance(value, float):
            forms = [repr(value), repr(value).upper()]
            forms += [repr(value) + "f"] if self.exotic and "inf" not in repr(value) else []
            return self.rng.choice(forms)
        cut = self.rng.randrange(len(value) + 1)
        parts = [value[:cut], value[cut:]] if self.rng.random() < 0.3 else [value]
        return self.space().join(self.literal(part) for part in parts)

    def literal(self, text: str) -> str:
        quote = self.rng.choice(self.quotes)
        return quote + "".join(self.character(one, quote) for one in text) + quote

    def character(self, one: str, quote: str) -> str:
        escapes = {"\n": "\\n", "\\": "\\\\", quote: "\\" + quote}
        if one in escapes and self.rng.random() < 0.7:
            return escapes[one]
        if one in escapes or self.rng.random() < 0.2:
            octal = "".join(f"\\{byte:03o}" for byte in one.encode("utf-8"))
            # A hex escape takes two digits at most, so what follows is safe.
            hexadecimal = "".join(f"\\x{byte:02x}" for byte in one.encode("utf-8"))
            return self.rng.choice((octal, hexadecimal))
        return one
