"""Protobuf's text format as Caffe reads it, into a tree that knows where everything stands in the file.

Nothing is lost, because nothing is written anew: the tree holds byte spans of the source, and an edit
replaces spans (`Document.splice`). An unedited document is its source, byte for byte.

What Caffe's parser (protobuf 3.21, C++) rejects is rejected with its line and column, with these exceptions,
which are harmless to read, are kept as they are, and are noted in `Document.notes`:

- a byte order mark;
- fields that BVLC Caffe does not know, since every fork adds its own;
- names of enum values that it does not know, for the same reason.

Columns count bytes from 1. Text is bytes throughout; strings are decoded as UTF-8 with `surrogateescape`.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

from ...errors import FormatError
from .literals import LiteralError, decode_string, parse_enum, parse_scalar
from .schema import MESSAGES, FieldDef
from .tree import Field, Message, Scalar, Span

#: Deeper nesting than any real net has; protobuf's own default is 100 for binary files.
MAX_DEPTH = 100

_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(rb"(?:[ \t\n\r\v\f]+|#[^\n\0]*)*")
# Without the carriage return that ends a line, though to Caffe it is part of the comment.
_COMMENT = re.compile(rb"#[^\n\0]*?(?=\r?\n|\r?\Z)")
_TOKEN = re.compile(
    rb"(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    rb"|(?P<number>0[xX][0-9a-fA-F]*|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fF]?)"
    rb"|(?P<string>\"(?:[^\"\\\n\0]|\\[^\n\0])*\"|'(?:[^'\\\n\0]|\\[^\n\0])*')"
    rb"|(?P<symbol>[^\x00-\x20\x7f-\xff])"
)
_CLOSING = {b"{": b"}", b"<": b">"}


@dataclass(frozen=True, eq=False)
class Document:
    """A parsed file.

    Attributes:
        source: its bytes.
        path: where it came from, for messages.
        root: the message that the file is.
        notes: harmless deviations from what Caffe reads, each with its place.
    """

    source: bytes
    path: str
    root: Message
    notes: tuple[str, ...]

    @cached_property
    def _line_starts(self) -> list[int]:
        return _find_line_starts(self.source)

    def line_column(self, offset: int) -> tuple[int, int]:
        """Line and column of a byte, both from 1."""
        return _line_column(self._line_starts, offset)

    def text(self, span: Span) -> bytes:
        """The source between two offsets."""
        return self.source[span[0] : span[1]]

    def splice(self, edits: Sequence[tuple[int, int, bytes]]) -> Document:
        """Replace spans of the source, and parse the result.

        Args:
            edits: (start, end, new text); they must not overlap.
        """
        return parse(apply_edits(self.source, edits), self.path, self.root.type)


def _find_line_starts(source: bytes) -> list[int]:
    return [0, *(match.end() for match in re.finditer(rb"\n", source))]


def _line_column(line_starts: list[int], offset: int) -> tuple[int, int]:
    line = bisect.bisect_right(line_starts, offset)
    return line, offset - line_starts[line - 1] + 1


def apply_edits(source: bytes, edits: Sequence[tuple[int, int, bytes]]) -> bytes:
    """Return `source` with spans replaced; `edits` are (start, end, new text) and do not overlap."""
    pieces, position = [], 0
    for start, end, text in sorted(edits, key=lambda edit: edit[:2]):
        assert start >= position, "Bug: edits overlap"
        pieces += [source[position:start], text]
        position = end
    return b"".join([*pieces, source[position:]])


def after_space(source: bytes, offset: int) -> int:
    """Where the next token begins: `offset`, which is at a token's edge, after white space and comments."""
    space = _SPACE.match(source, offset)
    assert space is not None
    return space.end()


def comments(source: bytes, span: Span) -> list[Span]:
    """Spans of all comments within `span`, which must begin and end between tokens or at a token's edge."""
    found, position = [], span[0]
    while position < span[1]:
        space = _SPACE.match(source, position, span[1])
        assert space is not None
        found += [match.span() for match in _COMMENT.finditer(source, *space.span())]
        token = _TOKEN.match(source, space.end(), span[1])
        position = token.end() if token else max(space.end(), position + 1)
    return found


def parse(source: bytes, path: str = "<text>", message: str = "NetParameter") -> Document:
    """Parse a text file.

    Args:
        source: the file's bytes.
        path: its name, for messages.
        message: the message type that the file is.

    Raises:
        FormatError: the text is not what Caffe accepts; says where, what was found and what was expected.
    """
    return _Parser(source, path).document(message)


class _Parser:
    """A recursive descent over tokens; one token of lookahead."""

    def __init__(self, source: bytes, path: str) -> None:
        self.source, self.path = source, path
        self.notes: dict[str, list[str]] = {}
        self.token_type, self.token, self.start, self.end = "", b"", 0, 0
        self.last_end = 0
        if source.startswith(_BOM):
            self.note("begins with a byte order mark, which Caffe rejects; it is kept", 0)
            self.end = len(_BOM)

    def document(self, type_name: str) -> Document:
        self.advance()
        fields = self.fields(type_name, b"", 0)
        root = Message((0, len(self.source)), (0, len(self.source)), type_name, fields)
        notes = (
            f"{first}: {text}" if not more else f"{first}: {text} ({1 + len(more)} times, here first)"
            for text, (first, *more) in self.notes.items()
        )
        return Document(self.source, self.path, root, tuple(notes))

    # Tokens

    @cached_property
    def line_starts(self) -> list[int]:
        return _find_line_starts(self.source)

    def where(self, offset: int) -> str:
        line, column = _line_column(self.line_starts, offset)
        return f"{self.path}:{line}:{column}"

    def fail(self, problem: str, offset: int | None = None) -> NoReturn:
        raise FormatError(f"{self.where(self.start if offset is None else offset)}: {problem}")

    def found(self) -> str:
        if self.token_type == "end":
            return "the end of the file"
        return self.token.decode("utf-8", "backslashreplace")

    def note(self, text: str, offset: int) -> None:
        self.notes.setdefault(text, []).append(self.where(offset))

    def advance(self) -> None:
        """Move to the next token."""
        self.last_end = self.end
        space = _SPACE.match(self.source, self.end)
        assert space is not None
        self.start = space.end()
        if self.start == len(self.source):
            self.token_type, self.token, self.end = "end", b"", self.start
            return
        match = _TOKEN.match(self.source, self.start)
        if match is None or match.group() in (b'"', b"'"):
            self._reject_character()
        self.token_type, self.token, self.end = match.lastgroup or "", match.group(), match.end()
        if self.token_type == "number":
            self._check_number()
        elif self.token_type == "string":
            try:
                decode_string(self.token)
            except LiteralError as error:
                self.fail(str(error), self.start + error.offset)

    def _reject_character(self) -> NoReturn:
        character = self.source[self.start]
        if character in b"\"'":
            self.fail("a string is not closed on its line; add the closing quote")
        if character >= 0x7F:
            self.fail(
                f"byte 0x{character:02x} outside a string or comment; the text format is ASCII there. "
                "Remove it (it may be invisible in an editor)"
            )
        self.fail(f"control character 0x{character:02x}; remove it")

    def _check_number(self) -> None:
        following = self.source[self.end : self.end + 1]
        octal = len(self.token) > 1 and self.token[:1] == b"0" and self.token[1:2].isdigit()
        if self.token[:2].lower() == b"0x" and len(self.token) == 2:
            self.fail('"0x" must be followed by hex digits')
        if octal and not re.fullmatch(rb"0[0-7]+", self.token):
            self.fail(f"{self.found()}: a number with a leading zero is octal; remove the zero", self.end - 1)
        if following in (b"e", b"E") and not re.search(rb"[eExXfF]", self.token):
            self.fail('"e" must be followed by an exponent', self.end + 1)
        if following == b".":
            self.fail(f"{self.found()}. is not a number; it may have one decimal point", self.end)
        if following.isalpha() or following == b"_":
            self.fail("a space is needed between a number and what follows", self.end)

    def accept(self, *symbols: bytes) -> bytes | None:
        """Move past the next token if it is one of `symbols`."""
        if self.token_type == "symbol" and self.token in symbols:
            token = self.token
            self.advance()
            return token
        return None

    # Grammar

    def fields(self, type_name: str, closing: bytes, depth: int) -> tuple[Field, ...]:
        """All fields up to the closing delimiter, which is not consumed."""
        if depth > MAX_DEPTH:
            self.fail(f"messages are nested more than {MAX_DEPTH} deep")
        known = MESSAGES.get(type_name, {})
        seen: set[str] = set()
        result = []
        while self.token_type != "end" and not (self.token_type == "symbol" and self.token == closing):
            field = self.field(type_name, known, seen, depth)
            seen.add(field.name)
            result.append(field)
            self.accept(b";", b",")
        for name, definition in known.items():
            if definition.required and name not in seen:
                self.fail(f"{type_name} needs the field {name!r}; add it")
        return tuple(result)

    def field(self, type_name: str, known: dict[str, FieldDef], seen: set[str], depth: int) -> Field:
        start = self.start
        if self.token_type != "name":
            self.fail(f"found {self.found()!r} where a field name is expected")
        name = self.token.decode("ascii")
        definition = known.get(name)
        if definition is None and type_name:
            self.note(f"field {name!r} of {type_name} is unknown to BVLC Caffe; it is kept", start)
        if definition is not None and not definition.repeated and name in seen:
            self.fail(f"field {name!r} is given a second time, but may be given once; remove one")
        self.advance()
        colon = self.accept(b":") is not None
        if self.token == b"[" and self.token_type == "symbol":
            values = self.values_in_brackets(name, definition, colon, depth)
            return Field(name, (start, self.last_end), values, definition, listed=True)
        value = self.value(name, definition, colon, depth)
        return Field(name, (start, self.last_end), (value,), definition)

    def values_in_brackets(
        self, name: str, definition: FieldDef | None, colon: bool, depth: int
    ) -> tuple[Scalar | Message, ...]:
        if definition is not None:
            if not definition.repeated:
                self.fail(f"a list for field {name!r}, which takes one value; remove the brackets")
            if definition.type != "message" and not colon:
                self.fail(f"found '[' where ':' is expected after {name!r}")
        self.advance()
        values: list[Scalar | Message] = []
        if not self.accept(b"]"):
            while True:
                values.append(self.value(name, definition, True, depth))
                if self.accept(b"]"):
                    break
                if not self.accept(b","):
                    self.fail(f"found {self.found()!r} where ',' or ']' is expected")
        return tuple(values)

    def value(self, name: str, definition: FieldDef | None, colon: bool, depth: int) -> Scalar | Message:
        opens = self.token_type == "symbol" and self.token in _CLOSING
        if definition is not None and definition.type == "message":
            if not opens:
                self.fail(f"found {self.found()!r} where '{{' is expected: {name!r} is a message")
            return self.message(definition.type_name, depth)
        if definition is None and opens:
            return self.message("", depth)
        if not colon:
            self.fail(f"found {self.found()!r} where ':' is expected after {name!r}")
        return self.scalar(name, definition)

    def message(self, type_name: str, depth: int) -> Message:
        start, opening = self.start, self.token
        closing = _CLOSING[opening]
        self.advance()
        body = self.last_end
        fields = self.fields(type_name, closing, depth + 1)
        end = self.start
        if not self.accept(closing):
            line = self.where(start).removeprefix(self.path + ":")
            self.fail(
                f"found {self.found()!r} where {closing.decode()!r} is expected, "
                f"which closes the {opening.decode()!r} of {line}"
            )
        return Message((start, self.last_end), (body, end), type_name, fields)

    def scalar(self, name: str, definition: FieldDef | None) -> Scalar:
        start = self.start
        negative = self.accept(b"-") is not None
        if self.token_type == "string" and not negative:
            pieces = []
            while self.token_type == "string":
                pieces.append(decode_string(self.token))
                self.advance()
            raw = self.source[start : self.last_end]
            if definition is not None and definition.type not in ("string", "bytes"):
                self.fail(f"found {raw.decode('utf-8', 'replace')}, expected {_expected(definition)}", start)
            return Scalar((start, self.last_end), raw, b"".join(pieces).decode("utf-8", "surrogateescape"))
        if self.token_type not in ("name", "number"):
            self.fail(f"found {self.found()!r} where a value is expected for {name!r}")
        token_type, token = self.token_type, self.token
        value_start = self.start
        try:
            value, known = self._decode(definition, token_type, token, negative, value_start)
        except LiteralError as error:
            self.fail(f"field {name!r}: {error}", start)
        self.advance()
        return Scalar((start, self.last_end), self.source[start : self.last_end], value, known)

    def _decode(
        self, definition: FieldDef | None, token_type: str, token: bytes, negative: bool, offset: int
    ) -> tuple[int | float | bool | str, bool]:
        if definition is None:
            return ("-" if negative else "") + token.decode("ascii"), True
        if definition.type == "enum":
            value, known = parse_enum(definition.type_name, token_type, token, negative)
            if not known:
                self.note(
                    f"value {value!r} of {definition.name!r} is unknown to BVLC Caffe; it is kept", offset
                )
            return value, known
        return parse_scalar(definition.type, token_type, token, negative), True


def _expected(definition: FieldDef) -> str:
    return {"enum": "a name without quotes", "bool": "true or false"}.get(definition.type, "a number")
