"""What the literals of protobuf's text format mean: numbers, names of values, strings with escapes.

Source: protobuf 3.21, `tokenizer.cc` and `text_format.cc`, as the recorded verdicts of Caffe show.
"""

from __future__ import annotations

import re

from .schema import ENUMS, FORK_VALUES


class LiteralError(ValueError):
    """A literal that Caffe rejects; `offset` counts from the literal's first byte."""

    def __init__(self, problem: str, offset: int = 0) -> None:
        super().__init__(problem)
        self.offset = offset


_RANGES = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
}
_BOOLS = {b"true": True, b"True": True, b"t": True, b"false": False, b"False": False, b"f": False}
_ESCAPE = re.compile(rb"\\(?:[0-7]{1,3}|x[0-9a-fA-F]{1,2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_LOW_SURROGATE = re.compile(rb"\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_SIMPLE = {
    b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v", b"\\": b"\\",
    b"?": b"?", b"'": b"'", b'"': b'"',
}  # fmt: skip
_LAST_CODE_POINT = 0x10FFFF
#: Longer than any 64-bit number in any base, leading zeros aside; Python rejects to read numbers far beyond.
_MOST_DIGITS = 100


def parse_scalar(field_type: str, token_type: str, token: bytes, negative: bool) -> int | float | bool | str:
    """The value of a number or name token for a field that is neither an enum nor a message.

    Raises:
        LiteralError: the field does not take it.
    """
    text = token.decode("ascii")
    if field_type in _RANGES:
        return _integer(field_type, token_type, text, negative)
    if field_type in ("float", "double"):
        return _float(token_type, text, negative)
    if field_type == "bool" and not negative:
        if token_type == "name" and token in _BOOLS:
            return _BOOLS[token]
        if token_type == "number" and _plain_integer(text):
            if _to_int(text) > 1:
                raise LiteralError(f"integer out of range ({text}); a bool is 0 or 1")
            return bool(_to_int(text))
        raise LiteralError(f"found {text!r}, expected true or false")
    raise LiteralError(f"found {text!r}, expected a string in quotes")


def _plain_integer(text: str) -> bool:
    return re.fullmatch(r"0[xX][0-9a-fA-F]+|\d+", text) is not None


def _to_int(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise LiteralError(f"integer out of range ({text[:20]}... has {len(text)} digits)")
    if text[:2].lower() == "0x":
        return int(text, 16)
    return int(text, 8 if len(text) > 1 and text[0] == "0" else 10)


def _integer(field_type: str, token_type: str, text: str, negative: bool) -> int:
    low, high = _RANGES[field_type]
    if negative and low == 0:
        raise LiteralError(f"found '-', expected an integer that is not negative, as in {text}")
    if token_type != "number" or not _plain_integer(text):
        raise LiteralError(f"found {text!r}, expected an integer")
    value = -_to_int(text) if negative else _to_int(text)
    if not low <= value <= high:
        raise LiteralError(f"integer out of range ({value}); allowed are {low} to {high}")
    return value


def _float(token_type: str, text: str, negative: bool) -> float:
    sign = -1.0 if negative else 1.0
    if token_type == "name":
        if text.lower() in ("inf", "infinity", "nan"):
            return sign * float(text)
        raise LiteralError(f"found {text!r}, expected a number")
    if text[:2].lower() == "0x" or re.fullmatch(r"0\d+", text):
        raise LiteralError(f"found {text!r}, expected a decimal number")
    return sign * float(text.rstrip("fF"))


def parse_enum(enum: str, token_type: str, token: bytes, negative: bool) -> tuple[str, bool]:
    """The name of an enum's value, and whether the schema knows it.

    Raises:
        LiteralError: a number without a name, or no value at all.
    """
    text = token.decode("ascii")
    values = ENUMS[enum]
    if token_type == "name" and not negative:
        return text, text in values or text in FORK_VALUES[enum]
    if token_type == "number" and _plain_integer(text):
        number = -_to_int(text) if negative else _to_int(text)
        for name, value in values.items():
            if value == number:
                return name, True
        raise LiteralError(f"unknown value {number}; allowed are {', '.join(values)}")
    raise LiteralError(f"found {text!r}; allowed are {', '.join(values)}")


def decode_string(literal: bytes) -> bytes:
    """The bytes that a quoted literal means.

    Raises:
        LiteralError: an escape that Caffe rejects.
    """
    body = literal[1:-1]
    if b"\\" not in body:
        return body
    pieces: list[bytes] = []
    position = 0
    while (match := _ESCAPE.search(body, position)) is not None:
        pieces.append(body[position : match.start()])
        position = match.end()
        code = match.group()[1:]
        if code[:1] not in (b"u", b"U") or len(code) == 1:
            pieces.append(_short_escape(code, match.start() + 1))
            continue
        point = int(code[1:], 16)
        low = _LOW_SURROGATE.match(body, position)
        if 0xD800 <= point < 0xDC00 and low:
            point = 0x10000 + ((point - 0xD800) << 10) + (int(low[1], 16) - 0xDC00)
            position = low.end()
        if point > _LAST_CODE_POINT:
            raise LiteralError(f"escape \\{code.decode()} is beyond the last code point", match.start() + 1)
        pieces.append(chr(point).encode("utf-8", "surrogatepass"))
    return b"".join([*pieces, body[position:]])


def _short_escape(code: bytes, offset: int) -> bytes:
    if code in _SIMPLE:
        return _SIMPLE[code]
    if code[:1].isdigit() and code[:1] < b"8":
        return bytes([int(code, 8) & 0xFF])
    if code[:1] == b"x":
        if len(code) == 1:
            raise LiteralError("expected hex digits after \\x in a string", offset + 2)
        return bytes([int(code[1:], 16)])
    problem = "expected four hex digits after \\u" if code in (b"u", b"U") else "invalid escape"
    raise LiteralError(f"{problem} in a string", offset + 1)
