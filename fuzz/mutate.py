"""Mutations of files: of bytes, of text, and of what bytes mean, so that they pass the first check."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

#: From the bytes of a seed and a generator to those of an attack.
Mutator = Callable[[bytes, random.Random], bytes]

NUMBERS = (
    0, 1, -1, 2, 3, 7, 16, 127, 128, 255, 256, 65535, 65536, 999999, 2**31 - 1, 2**31, -(2**31), 2**32 - 1,
    2**32, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 10**30,
)  # fmt: skip
TEXTS = (
    "nan", "inf", "-inf", "1e400", "1e-400", "1e30", "0x10", "1.5", "true", "false", "null", '""', '"\\0"',
    "-0", "\x00", "\x1b[2J", "\u202e", "\ud7ff", "''", "[]", "{}", "[[]]", "../../x", "/dev/zero", "*",
    "a" * 300,
)  # fmt: skip
_LARGEST = 1 << 20  # bytes of an attack


def havoc(data: bytes, rng: random.Random) -> bytes:
    """Change some bytes wherever they are."""
    attack = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(attack) + 1)
        length = min(rng.choice((1, 1, 2, 4, 8, 64, 512)), len(attack) - at)
        match rng.randrange(8):
            case 0 if length:
                attack[at] ^= 1 << rng.randrange(8)
            case 1 if length:
                attack[at] = rng.randrange(256)
            case 2:
                del attack[at : at + length]
            case 3:
                attack[at:at] = attack[at : at + length] * rng.choice((1, 2, 50))
            case 4:
                packed = struct.pack(
                    rng.choice(("<q", ">q", "<Q", ">Q")), rng.choice((0, 1, -1 & 0x7F, 2**62))
                )
                attack[at : at + len(packed)] = packed[: rng.choice((1, 2, 4, 8))]
            case 5:
                del attack[at:]
            case 6:
                other = rng.randrange(len(attack) + 1)
                attack[at:at] = attack[other : other + length]
            case _:
                attack[at : at + length] = bytes(length) if rng.random() < 0.5 else b"\xff" * length
    return bytes(attack[:_LARGEST])


_TOKEN = re.compile(rb"[A-Za-z_]+|-?[0-9.]+(?:[eE][-+]?[0-9]+)?|\"[^\"\n]*\"|[{}\[\]:,#\n]")


def text(data: bytes, rng: random.Random) -> bytes:
    """Exchange, repeat or drop words, numbers and brackets of a text."""
    if rng.random() < 0.15:
        return havoc(data, rng)
    tokens = list(_TOKEN.finditer(data))
    attack, last = data, len(data)
    for token in sorted(
        rng.sample(tokens, min(len(tokens), rng.choice((1, 1, 2, 3)))), key=lambda m: -m.start()
    ):
        if token.end() > last:
            continue
        last = token.start()
        word = token.group()
        new = rng.choice(
            (
                str(rng.choice(NUMBERS)).encode(),
                rng.choice(TEXTS).encode("utf-8", "surrogatepass"),
                b'"' + rng.choice(TEXTS).encode("utf-8", "surrogatepass") + b'"',
                rng.choice(tokens).group(),
                b"",
                word + b" " + word,
                word * rng.choice((2, 3000)),
                havoc(word, rng),
            )
        )
        if word[:1].isdigit() and rng.random() < 0.6:
            new = str(rng.choice(NUMBERS)).encode()
        attack = attack[: token.start()] + new + attack[token.end() :]
    return attack[:_LARGEST]


def document(data: bytes, rng: random.Random) -> bytes:
    """Exchange, drop or add values of a JSON document."""
    if rng.random() < 0.2:
        return text(data, rng)
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):  # a finding that is no JSON
        return text(data, rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = _replaced(tree, rng)
    return json.dumps(tree, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")[:_LARGEST]


def _replaced(value: Any, rng: random.Random) -> Any:
    """Walk down by chance and change what is there."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        match rng.randrange(10):
            case 0:
                return {name: one for name, one in value.items() if name != key}
            case 1:
                return {**value, rng.choice((*TEXTS, key + "x")): rng.choice(NUMBERS)}
            case _:
                return {**value, key: _replaced(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        match rng.randrange(8):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value, rng.choice(value)]
            case _:
                return [*value[:at], _replaced(value[at], rng), *value[at + 1 :]]
    return rng.choice(
        (
            rng.choice(NUMBERS), rng.choice(TEXTS), None, True, False, -1.5, 1e300, float("nan"),
            float("inf"), [], {}, [value], {"x": value}, [[[]]], str(value), value,
        )
    )  # fmt: skip


def wire(data: bytes, rng: random.Random) -> bytes:
    """Change a field of a protobuf message, somewhere in its tree, and mend the lengths around it."""
    if rng.random() < 0.2:
        return havoc(data, rng)
    attack = data
    for _ in range(rng.choice((1, 1, 2))):
        attack = _message(attack, rng, 0) or havoc(attack, rng)
    return attack[:_LARGEST]


def _message(data: bytes, rng: random.Random, depth: int) -> bytes | None:
    fields = _fields(data)
    if not fields:
        return None
    at = rng.randrange(len(fields))
    number, kind, value = fields[at]
    if kind == 2 and isinstance(value, bytes) and rng.random() < 0.85 and depth < 12:
        inner = _message(value, rng, depth + 1) if len(value) < 1 << 16 else None
        if inner is None:
            inner = rng.choice((havoc(value, rng), b"", value * 2, value[:-1], rng.randbytes(5)))
        fields[at] = (number, kind, inner)
    else:
        match rng.randrange(6):
            case 0:
                del fields[at]
            case 1:
                fields.insert(at, fields[at])
            case 2:
                fields[at] = (rng.randrange(1, 200), kind, value)
            case 3:
                fields[at] = (number, 0, rng.choice(NUMBERS) & (2**64 - 1))
            case 4:
                fields.append(rng.choice(fields))
            case _:
                new = (
                    rng.choice(NUMBERS) & (2**64 - 1)
                    if kind == 0
                    else rng.randbytes({1: 8, 5: 4}.get(kind, 3))
                )
                fields[at] = (number, kind, new)
    return b"".join(_field(*one) for one in fields)


def _fields(data: bytes) -> list[tuple[int, int, int | bytes]] | None:
    """The fields of a message; None where the bytes are none."""
    found: list[tuple[int, int, int | bytes]] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = data[at : at + size], at + size
        elif kind == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            return None
        if at > len(data) or not number or at < 0:
            return None
        found.append((number, kind, value))
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 0x80:
            return value & (2**64 - 1), at
    return 0, 1 << 62  # past the end


def _field(number: int, kind: int, value: int | bytes) -> bytes:
    if kind == 0 or isinstance(value, int):
        return _packed(number << 3) + _packed(int(value) if isinstance(value, int) else 0)
    return _packed(number << 3 | kind) + (_packed(len(value)) if kind == 2 else b"") + value


def _packed(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def archive(data: bytes, rng: random.Random) -> bytes:
    """Change a member of a zip archive, its name, or the archive itself."""
    if rng.random() < 0.3:
        return havoc(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    chosen = rng.choice(list(members))
    match rng.randrange(8):
        case 0:
            members.pop(chosen)
        case 1:
            members[rng.choice(list(members))] = members[chosen]
        case 2:
            members[chosen] = bytes(1 << 22)  # a bomb, for its size
        case _:
            members[chosen] = array(members[chosen], rng)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()[:_LARGEST]


def array(data: bytes, rng: random.Random) -> bytes:
    """Change the header of a `.npy` array, or what stands in it: JSON, numbers."""
    head = data.find(b"\n")
    if data[:6] != b"\x93NUMPY" or head < 0 or rng.random() < 0.3:
        return havoc(data, rng)
    header, body = data[10:head], data[head + 1 :]
    if rng.random() < 0.7:
        header = text(header.rstrip(), rng).replace(b"\n", b" ")
        header += b" " * (-(len(header) + 11) % 64)
    else:
        body = _values(body, rng)
    return data[:8] + struct.pack("<H", len(header) + 1 & 0xFFFF) + header + b"\n" + body


def _values(body: bytes, rng: random.Random) -> bytes:
    """A text of four bytes per character is changed as JSON; numbers become extreme ones."""
    try:
        found = body.decode("utf-32-le")
        return document(found.encode(), rng).decode("utf-8", "replace").encode("utf-32-le")
    except (UnicodeError, ValueError):
        special = struct.pack("<d", rng.choice((float("nan"), float("inf"), 1e308, -1.0)))
        at = rng.randrange(len(body) // 8 + 1) * 8
        return body[:at] + special + body[at + 8 :]


def png(data: bytes, rng: random.Random) -> bytes:
    """Change a chunk of a PNG and mend its checksum, as its size or what is compressed in it."""
    if not data.startswith(b"\x89PNG") or rng.random() < 0.3:
        return havoc(data, rng)
    chunks, at = [], 8
    while at + 12 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    chosen = rng.randrange(len(chunks))
    name, content = chunks[chosen]
    if name == b"IHDR" and rng.random() < 0.7:
        sides = [rng.choice((0, 1, 5000, 30000, 2**31 - 1)) for _ in range(2)]
        content = struct.pack(">II", *sides) + content[8:]
    elif name == b"IDAT" and rng.random() < 0.5:
        content = zlib.compress(havoc(zlib.decompress(content), rng))
    else:
        content = havoc(content, rng)
    chunks[chosen] = (name, content)
    parts = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    return b"".join([data[:8], *parts])[:_LARGEST]
