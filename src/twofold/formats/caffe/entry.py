"""One layer entry of a protobuf weights file, of any age: read, and rewritten as those that replace it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...conv import Array
from .blob import WireBlob, new_blob
from .layer_types import LayerAdapter, adapter_of, plain
from .schema import ENUMS, MESSAGES, FieldDef
from .upgrade import V1_TYPES, v1_type
from .weights import NewLayer, NewWeights, WeightsLayer
from .wire import LENGTH, VARINT, Field, WireError, edited, fields, length_field, varint_field


@dataclass(frozen=True)
class _Numbers:
    """Where a layer message of one age keeps what is needed; 0 where it has no such field."""

    name: int
    type: int
    bottom: int
    top: int
    blobs: int


#: NetParameter's repeated field per age: `layer` and the older `layers`.
ENTRY = {"V2": 100, "V1": 2, "V0": 2}

_NUMBERS = {
    "V2": _Numbers(name=1, type=2, bottom=3, top=4, blobs=7),  # LayerParameter
    "V1": _Numbers(name=4, type=5, bottom=2, top=3, blobs=6),  # V1LayerParameter
    # A V0 net wraps each V0LayerParameter in a V1LayerParameter that holds the bottoms and tops.
    "V0": _Numbers(name=0, type=0, bottom=2, top=3, blobs=0),
}
#: The message of a layer by age; what V0 says of a layer's shape is not rewritten.
_MESSAGES = {"V2": "LayerParameter", "V1": "V1LayerParameter"}
#: V1's number of a type -> V2's name
_V1_TYPES: dict[str | int, str] = {ENUMS["LayerType"][name]: type_ for name, type_ in V1_TYPES.items()}
_V0_INNER = 1  # V1LayerParameter.layer
_V0_NUMBERS = _Numbers(name=1, type=2, bottom=0, top=0, blobs=50)  # V0LayerParameter


class EntryError(WireError):
    """A `WireError` inside a layer entry; `layer` is its name, "" where that was not reached."""

    def __init__(self, error: WireError, layer: str) -> None:
        super().__init__(error.offset, error.reason)
        self.layer = layer


@dataclass(frozen=True, eq=False)
class WireLayer(WeightsLayer):
    """A layer entry inside a buffer.

    Attributes:
        buffer: the bytes that hold it.
        body: offset of the layer message.
        end: offset after it.
        version: age of the message.
    """

    buffer: memoryview = memoryview(b"")  # noqa: RUF009 - immutable
    body: int = 0
    end: int = 0
    version: str = "V2"

    def replaced(self, stack: Sequence[NewWeights]) -> list[bytes]:
        """The entries, with their tags, that put `stack` in this one's place.

        Raises:
            ModelError: A value or shape that the encoding of this entry cannot hold.
        """
        last = len(stack) - 1
        return [
            length_field(
                ENTRY[self.version],
                b"".join(_Rewriter(self, new, first=i == 0, last=i == last).pieces()),
            )
            for i, new in enumerate(stack)
        ]


def is_v0(buffer: memoryview, body: int, end: int) -> bool:
    """Whether an entry of `layers` is a wrapped V0 layer, which makes the whole net a V0 net.

    Raises:
        WireError: The bytes are no message.
    """
    return any(f.number == _V0_INNER and f.wire == LENGTH for f in fields(buffer, body, end, 1))


def read_layer(buffer: memoryview, body: int, end: int, version: str, file: str) -> WireLayer:
    """Read the layer message in `buffer[body:end]`.

    Args:
        buffer: bytes, contiguous.
        body: offset of the message.
        end: offset after it.
        version: age of the message.
        file: name of the file, for messages.

    Raises:
        EntryError: The bytes are no such message.
    """
    found = _Found(buffer, file)
    try:
        if version == "V0":
            # A message field that occurs twice layer_type one message, merged.
            inner = [f for f in fields(buffer, body, end, 1) if f.number == _V0_INNER and f.wire == LENGTH]
            for f in inner:
                found.read_names(_V0_NUMBERS, f.body, f.end, 2)
            for f in inner:
                found.read_blobs(_V0_NUMBERS, f.body, f.end, 2)
        found.read_names(_NUMBERS[version], body, end, 1)
        found.read_blobs(_NUMBERS[version], body, end, 1)
    except WireError as error:
        raise EntryError(error, found.name) from error
    return WireLayer(
        found.name, found.type, tuple(found.blobs), tuple(found.bottoms), tuple(found.tops),
        buffer, body, end, version,
    )  # fmt: skip


class _Found:
    """What has been read of a layer so far; names come first, so that messages about blobs can use them."""

    def __init__(self, buffer: memoryview, file: str) -> None:
        self._buffer = buffer
        self._file = file
        self.name = ""
        self.type: str | int = ""
        self.blobs: list[WireBlob] = []
        self.bottoms: list[str] = []
        self.tops: list[str] = []

    def read_names(self, numbers: _Numbers, start: int, end: int, depth: int) -> None:
        for field in fields(self._buffer, start, end, depth):
            if field.wire == LENGTH:
                self._read_text(numbers, field)
            elif field.wire == VARINT and field.number == numbers.type:
                self.type = field.value

    def _read_text(self, numbers: _Numbers, field: Field) -> None:
        if field.number not in (numbers.name, numbers.type, numbers.bottom, numbers.top):
            return
        text = bytes(self._buffer[field.body : field.end]).decode("utf-8", "surrogateescape")
        if field.number == numbers.name:
            self.name = text
        elif field.number == numbers.bottom:
            self.bottoms.append(text)
        elif field.number == numbers.top:
            self.tops.append(text)
        elif numbers.type == _NUMBERS["V2"].type:  # a V1 type is an enum; text there is an unknown field
            self.type = text

    def read_blobs(self, numbers: _Numbers, start: int, end: int, depth: int) -> None:
        for field in fields(self._buffer, start, end, depth):
            if field.number == numbers.blobs and field.wire == LENGTH:
                where = f"{self._file}: layer {self.name!r}, blob {len(self.blobs)} at byte {field.start}"
                self.blobs.append(WireBlob(self._buffer, field.body, field.end, depth + 1, where))


class _Rewriter:
    """Derives one new layer message from an old one."""

    def __init__(self, layer: WireLayer, new: NewWeights, *, first: bool, last: bool) -> None:
        self._layer = layer
        self._new = new
        self._bottoms = None if first else list(map(_text, new.bottoms))
        self._tops = None if last else list(map(_text, new.tops))
        self._named = False
        self._blobs = self._new_blobs()
        own = adapter_of(new.type or _V1_TYPES.get(layer.type, str(layer.type)))
        self._adapter = plain(new.geometry.layer_type, own) if new.geometry else None
        param = self._adapter.param if self._adapter else ""
        self._param = MESSAGES[_MESSAGES[layer.version]].get(param) if layer.version in _MESSAGES else None

    def pieces(self) -> list[bytes | memoryview]:
        layer = self._layer
        numbers = _V0_NUMBERS if layer.version == "V0" else _NUMBERS[layer.version]
        pieces = edited(layer.buffer, layer.body, layer.end, 1, self._edit)
        rest = b"" if self._named else length_field(numbers.name, _text(self._new.name))
        rest += b"".join(length_field(numbers.blobs, blob) for blob in self._take_blobs())
        if rest:
            pieces.append(length_field(_V0_INNER, rest) if layer.version == "V0" else rest)
        return pieces

    def _edit(self, field: Field) -> bytes | None:
        numbers = _NUMBERS[self._layer.version]
        if field.number == numbers.type and self._new.type:
            if field.wire == VARINT:
                return varint_field(field.number, ENUMS["LayerType"][v1_type(self._new.type)])
            return length_field(field.number, _text(self._new.type))
        if field.wire != LENGTH:
            return None
        if self._layer.version == "V0" and field.number == _V0_INNER:
            inner = edited(self._layer.buffer, field.body, field.end, 2, self._edit_v0)
            return length_field(_V0_INNER, b"".join(inner))
        if numbers.bottom == field.number and self._bottoms is not None:
            texts, self._bottoms = self._bottoms, []
            return b"".join(length_field(field.number, text) for text in texts)
        if numbers.top == field.number and self._tops is not None:
            texts, self._tops = self._tops, []
            return b"".join(length_field(field.number, text) for text in texts)
        if self._adapter is not None and self._param is not None and field.number == self._param.number:
            message = self._parameters(field, self._adapter, MESSAGES[self._param.type_name])
            return length_field(field.number, message)
        return self._edit_name_and_blobs(numbers, field)

    def _parameters(self, field: Field, adapter: LayerAdapter, known: Mapping[str, FieldDef]) -> bytes:
        """The parameters with the new shape, in the order of caffe.proto; all that is no size stays."""
        geometry = self._new.geometry
        assert geometry is not None
        values = [("num_output", geometry.c_out)]
        if len(self._new.blobs) < 2:
            values.append(("bias_term", 0))
        told = {"num_output", "bias_term"}
        for sizes in adapter.sizes(geometry):
            told.update(sizes.names)
            if any(value != sizes.default for value in sizes.values):
                values += sizes.spelled
        # Numbers of forks' fields are not known. Caffe takes a layer's shape from the definition alone.
        numbered = [(known[name].number, value) for name, value in values if known[name].number]
        new = sorted(numbered, key=lambda one: one[0])
        numbers = {known[name].number for name in told}
        buffer = self._layer.buffer
        old = fields(buffer, field.body, field.end, 2)
        return b"".join(
            [
                *(varint_field(*one) for one in new),
                *(buffer[f.start : f.end] for f in old if f.number not in numbers),
            ]
        )

    def _edit_v0(self, field: Field) -> bytes | None:
        return self._edit_name_and_blobs(_V0_NUMBERS, field) if field.wire == LENGTH else None

    def _edit_name_and_blobs(self, numbers: _Numbers, field: Field) -> bytes | None:
        if field.number == numbers.name:
            self._named = True
            return length_field(field.number, _text(self._new.name))
        if field.number == numbers.blobs:
            return b"".join(length_field(field.number, blob) for blob in self._take_blobs())
        return None

    def _new_blobs(self) -> list[bytes]:
        old = self._layer.blobs
        blobs = []
        for index, values in enumerate(self._new.blobs):
            # A blob that the old layer did not have is written like its last one.
            template = old[min(index, len(old) - 1)] if old else None
            if isinstance(template, WireBlob):
                blobs.append(b"".join(template.with_values(values)))
            else:
                blobs.append(new_blob(values, f"layer {self._new.name!r}, blob {index}"))
        return blobs

    def _take_blobs(self) -> list[bytes]:
        blobs, self._blobs = self._blobs, []
        return blobs


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def new_entry(layer: NewLayer) -> bytes:
    """A V2 entry, with its tag, for a layer that is made from scratch; the fields stand in Caffe's order.

    Raises:
        ModelError: A finite value is infinite in float32.
    """
    numbers = _NUMBERS["V2"]
    parts = [length_field(numbers.name, _text(layer.name)), length_field(numbers.type, _text(layer.type))]
    parts += [length_field(numbers.bottom, _text(bottom)) for bottom in layer.bottoms]
    parts += [length_field(numbers.top, _text(top)) for top in layer.tops]
    values: Array
    for index, values in enumerate(layer.blobs):
        where = f"layer {layer.name!r}, blob {index}"
        parts.append(length_field(numbers.blobs, new_blob(values, where)))
    return length_field(ENTRY["V2"], b"".join(parts))
