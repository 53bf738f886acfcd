"""The protobuf wire format: one message as a row of fields, and the bytes of single fields.

Nothing here knows a schema. `fields` accepts what the C++ parser that Caffe uses accepts and rejects what it
rejects (nesting, overlong numbers, unclosed groups), so that a file which passes is one that Caffe parses.

Source: https://protobuf.dev/programming-guides/encoding/ and the limits in protobuf 3.21 `parse_context.h`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

VARINT, FIXED64, LENGTH, GROUP, GROUP_END, FIXED32 = range(6)

#: Size of one value per fixed-width wire type.
WIDTH = {FIXED32: 4, FIXED64: 8}

_MAX_DEPTH = 100  # protobuf's default recursion limit
_MAX_LENGTH = 2**31 - 1 - 16  # ReadSize rejects more


class WireError(Exception):
    """Bytes that are no protobuf message; `offset` is where, `reason` is what is wrong there."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"byte {offset}: {reason}")
        self.offset = offset
        self.reason = reason


class Field(NamedTuple):
    """One field of a message, or a run of equal fixed-width fields.

    Attributes:
        number: field number.
        wire: wire type.
        start: offset of the tag.
        body: offset of the value: of a LENGTH field's payload, of the first value of a run.
        end: offset after the field.
        value: the number of a VARINT field, unsigned 64 bits; else 0.
        repeats: number of fields in the run. Unpacked repeated floats are millions of 5-byte fields; a run is
            found at numpy's speed, and its values lie `step` bytes apart.
    """

    number: int
    wire: int
    start: int
    body: int
    end: int
    value: int = 0
    repeats: int = 1

    @property
    def step(self) -> int:
        """Distance between the values of a run, in bytes."""
        return (self.end - self.start) // self.repeats


def read_varint(buffer: memoryview, position: int, end: int, limit: int = 10) -> tuple[int, int]:
    """Read a varint of at most `limit` bytes.

    Returns:
        Its value as unsigned 64 bits, and the offset after it.

    Raises:
        WireError: It passes `end` or has more bytes than `limit`.
    """
    result = shift = 0
    for offset in range(position, min(end, position + limit)):
        byte = buffer[offset]
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFF_FFFF_FFFF_FFFF, offset + 1
        shift += 7
    if position + limit <= end:
        raise WireError(position, f"a number has more than {limit} bytes")
    raise WireError(position, "the data end in the middle of a number")


def fields(buffer: memoryview, start: int, end: int, depth: int = 0) -> Iterator[Field]:
    """Iterate over the fields of the message that fills `buffer[start:end]`.

    Args:
        buffer: bytes, contiguous.
        start: offset of the first tag.
        end: offset after the message.
        depth: how many messages enclose this one.

    Raises:
        WireError: The bytes are no message. A zero tag and an end-group tag are errors here too; on the
            outermost level protobuf stops at either, see `caffemodel.py`.
    """
    position = start
    while position < end:
        field = _field(buffer, position, end, depth)
        position = field.end
        yield field


def _field(buffer: memoryview, start: int, end: int, depth: int) -> Field:
    tag, body = read_varint(buffer, start, end, limit=5)
    number, wire = tag >> 3, tag & 7
    if not 0 < number < 2**29:
        raise WireError(start, f"field number {number} is not allowed")
    if wire == VARINT:
        value, after = read_varint(buffer, body, end)
        return Field(number, wire, start, body, after, value)
    if wire == LENGTH:
        size, body = read_varint(buffer, body, end, limit=5)
        if size > _MAX_LENGTH or size > end - body:
            raise WireError(start, f"field {number} claims {size} bytes where {end - body} are left")
        return Field(number, wire, start, body, body + size)
    if wire in WIDTH:
        width = WIDTH[wire]
        if width > end - body:
            raise WireError(start, f"field {number} needs {width} bytes where {end - body} are left")
        count = _run_length(buffer, start, end, 1 + width) if body == start + 1 else 1
        return Field(number, wire, start, body, start + count * (body - start + width), repeats=count)
    if wire == GROUP:
        return Field(number, wire, start, body, _group_end(buffer, number, start, body, end, depth + 1))
    if wire == GROUP_END:
        raise WireError(start, f"group {number} ends without having begun")
    raise WireError(start, f"wire type {wire} does not exist")


def _group_end(buffer: memoryview, number: int, start: int, body: int, end: int, depth: int) -> int:
    """Offset after the end tag of the group whose start tag ends at `body`."""
    open_groups = [(number, start)]
    position = body
    while open_groups:
        number, start = open_groups[-1]
        if depth + len(open_groups) - 1 > _MAX_DEPTH:
            raise WireError(start, f"messages are nested more than {_MAX_DEPTH} deep")
        if position >= end:
            raise WireError(start, f"group {number} is not closed")
        tag, after = read_varint(buffer, position, end, limit=5)
        if tag & 7 == GROUP_END:
            if tag >> 3 != number:
                raise WireError(position, f"group {number} is closed as group {tag >> 3}")
            open_groups.pop()
            position = after
        elif tag & 7 == GROUP:
            open_groups.append((tag >> 3, position))
            position = after
        else:
            position = _field(buffer, position, end, depth).end
    return position


def _run_length(buffer: memoryview, start: int, end: int, step: int) -> int:
    """How many fields with the tag byte at `start`, each of `step` bytes, follow one another."""
    tag = buffer[start]
    possible = (end - start) // step
    count, block = 1, 64
    while count < possible and buffer[start + count * step] == tag:
        block = min(block * 8, 1 << 20, possible - count)
        tags = np.frombuffer(buffer, np.uint8, block * step, start + count * step)[::step]
        other = tags != tag
        if other.any():
            return count + int(other.argmax())
        count += block
    return count


def signed(value: int) -> int:
    """A varint's value as int64."""
    return value - (1 << 64) if value >> 63 else value


def packed_varints(buffer: memoryview, start: int, end: int) -> list[int]:
    """Values of a packed repeated int64 field.

    Raises:
        WireError: The payload ends in the middle of a number.
    """
    values = []
    while start < end:
        value, start = read_varint(buffer, start, end)
        values.append(signed(value))
    return values


def varint(value: int) -> bytes:
    """Encode an int64; negative values take ten bytes, as protobuf writes them."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def tag(number: int, wire: int) -> bytes:
    """Encode a field's tag."""
    return varint(number << 3 | wire)


def varint_field(number: int, value: int) -> bytes:
    """Encode a VARINT field."""
    return tag(number, VARINT) + varint(value)


def length_field(number: int, payload: bytes | memoryview) -> bytes:
    """Encode a LENGTH field: a string, bytes, a message or a packed list."""
    return b"".join((tag(number, LENGTH), varint(len(payload)), payload))


def edited(
    buffer: memoryview, start: int, end: int, depth: int, edit: Callable[[Field], bytes | None]
) -> list[bytes | memoryview]:
    """The pieces of the message in `buffer[start:end]` after an edit; what is not edited stays byte for byte.

    Args:
        buffer: bytes, contiguous.
        start: offset of the first tag.
        end: offset after the message.
        depth: how many messages enclose this one.
        edit: gives the new bytes of a field with its tag, b"" to drop it, None to keep it.
    """
    pieces: list[bytes | memoryview] = []
    for field in fields(buffer, start, end, depth):
        new = edit(field)
        pieces.append(buffer[field.start : field.end] if new is None else new)
    return pieces
