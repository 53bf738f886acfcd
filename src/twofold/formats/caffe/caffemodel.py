"""Caffe weights: `read_weights` for every file format, and protobuf files edited at the wire level.

A protobuf file is read into memory and kept as the row of its outermost fields. An edit exchanges single
entries of that row, so all other bytes are written as they were read, known to us or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...errors import FormatError
from ...files.source import Source, read_head, read_source
from ...progress import track
from ..sniff import is_hdf5, looks_like_onnx, what_else
from .entry import ENTRY, EntryError, WireLayer, is_v0, new_entry, read_layer
from .hdf5 import read_hdf5
from .weights import Blob, NewLayer, NewWeights, WeightsFile, WeightsLayer
from .wire import LENGTH, Field, WireError, fields, length_field

__all__ = ["Blob", "NewLayer", "NewWeights", "WeightsFile", "WeightsLayer", "create_weights", "read_weights"]

_NET_NAME = 1  # NetParameter.name
_HEAD = 4096
_CHUNK = 1 << 22
_MOST = 2**31 - 1  # bytes of a message, in every protobuf


@dataclass(frozen=True, eq=False)
class _Record:
    """One outermost field of the file: its bytes, and the layer if it is one."""

    raw: memoryview
    layer: WireLayer | None = None


class BinaryWeights(WeightsFile):
    """Weights in a protobuf file."""

    def __init__(
        self, path: Path | None, version: str, records: Iterable[_Record], source: Source | None = None
    ) -> None:
        self._records = tuple(records)
        super().__init__(path, version, (r.layer for r in self._records if r.layer is not None), source)

    def replace(self, replacements: Mapping[str, Sequence[NewWeights]]) -> WeightsFile:
        """See `WeightsFile.replace`."""
        self._reject_unknown(replacements)
        records: list[_Record] = []
        for record in self._records:
            stack = replacements.get(record.layer.name) if record.layer is not None else None
            if record.layer is None or stack is None:
                records.append(record)
            else:
                records += (_record(entry, self.version) for entry in record.layer.replaced(stack))
        return BinaryWeights(self.path, self.version, records, self.source)

    def write(self, stream: BinaryIO) -> None:
        """See `WeightsFile.write`."""
        for record in track(self._records, "writing weights"):
            for start in range(0, len(record.raw), _CHUNK):
                stream.write(record.raw[start : start + _CHUNK])


def _record(entry: bytes, version: str) -> _Record:
    """A record of bytes that we made."""
    buffer = memoryview(entry)
    (field,) = fields(buffer, 0, len(buffer))
    return _Record(buffer, read_layer(buffer, field.body, field.end, version, "the edited weights"))


def create_weights(layers: Iterable[NewLayer], name: str = "") -> WeightsFile:
    """Make weights from nothing, as Caffe writes them: V2 layers, packed float32.

    Args:
        layers: the layers, in the net's order.
        name: the net's name.

    Raises:
        ModelError: A finite value is infinite in float32.
    """
    records = [_record(new_entry(layer), "V2") for layer in layers]
    if name:
        net = length_field(_NET_NAME, name.encode("utf-8", "surrogateescape"))
        records.insert(0, _Record(memoryview(net)))
    return BinaryWeights(None, "V2", records)


def read_weights(path: str | Path) -> WeightsFile:
    """Read a file of Caffe weights, protobuf of any age or HDF5; which one, its content tells.

    What Caffe rejects to parse is rejected. Damage inside a single blob shows when the blob is used or
    checked, see `WeightsFile.check`.

    Args:
        path: the file.

    Raises:
        FormatError: It cannot be opened, or it is no file of Caffe weights.
        MissingExtraError: It is HDF5 and h5py is not installed.
    """
    path = Path(path)
    try:
        head = read_head(path)
        if is_hdf5(head):
            return read_hdf5(path)
        source = read_source(path, _MOST)
    except OSError as error:
        raise FormatError(f"{path}: cannot read the weights: {error.strerror or error}") from error
    buffer = memoryview(source.content or b"")
    head = bytes(buffer[:_HEAD])
    if not head:
        raise FormatError(f"{path}: the file is empty")
    other = what_else(head)
    if other is not None:
        raise FormatError(f"{path}: {other}")
    try:
        version, records = _records(buffer, str(path))
    except WireError as error:
        if looks_like_onnx(head):
            raise FormatError(f"{path}: not a caffemodel; it looks like an ONNX model") from error
        layer = f" in layer {error.layer!r}" if isinstance(error, EntryError) and error.layer else ""
        raise FormatError(
            f"{path}: not a caffemodel, truncated or damaged: "
            f"at byte {error.offset} of {len(buffer)}{layer}, {error.reason}"
        ) from error
    if not version:
        what = (
            "it looks like an ONNX model"
            if looks_like_onnx(head)
            else "Caffe would load it as an empty model"
        )
        raise FormatError(f"{path}: no layers in this file: {what}")
    return BinaryWeights(path, version, records, source)


def _records(buffer: memoryview, file: str) -> tuple[str, list[_Record]]:
    """Split the file into its outermost fields and read the layers among them.

    Returns:
        The net's age, "" where there is no layer, and the records.

    Raises:
        FormatError: Entries of different ages are mixed.
        WireError: This is no NetParameter.
    """
    outer, end = _outer_fields(buffer)
    version = _version(buffer, outer, file)
    records = []
    for field in outer:
        layer = None
        if version and field.number == ENTRY[version] and field.wire == LENGTH:
            layer = read_layer(buffer, field.body, field.end, version, file)
        records.append(_Record(buffer[field.start : field.end], layer))
    if end < len(buffer):
        records.append(_Record(buffer[end:]))
    return version, records


def _outer_fields(buffer: memoryview) -> tuple[list[Field], int]:
    """The outermost fields, and where they end: Caffe stops at a zero byte. Padding of zeros is kept.

    Raises:
        WireError: The bytes are no message, or something follows a zero byte, which Caffe would silently
            ignore. That is most often a damaged file.
    """
    outer: list[Field] = []
    end = 0
    try:
        for field in fields(buffer, 0, len(buffer)):
            outer.append(field)
            end = field.end
    except WireError:
        if buffer[end]:
            raise
        if np.frombuffer(buffer, np.uint8, offset=end).any():
            ignored = len(buffer) - end
            raise WireError(
                end, f"a zero byte; Caffe would silently ignore the {ignored} bytes from here"
            ) from None
    return outer, end


def _version(buffer: memoryview, outer: Sequence[Field], file: str) -> str:
    entries: dict[int, list[Field]] = {ENTRY["V2"]: [], ENTRY["V1"]: []}
    for field in outer:
        if field.number in entries and field.wire == LENGTH:
            entries[field.number].append(field)
    new, old = entries[ENTRY["V2"]], entries[ENTRY["V1"]]
    if new and old:
        raise FormatError(
            f"{file}: 'layer' entries (first at byte {new[0].start}) and older 'layers' entries "
            f"(first at byte {old[0].start}) are mixed; Caffe rejects such a file"
        )
    if not old:
        return "V2" if new else ""
    return "V0" if any(is_v0(buffer, field.body, field.end) for field in old) else "V1"
