"""Writing a model whose data are in files beside it, and which may be larger than one message can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from onnx import ModelProto, TensorProto

from .tensors import Files, all_tensors, byte_count, external_entry, is_external, offset_of

_CHUNK = 1 << 22
_PAGE = 4096


@dataclass(frozen=True, eq=False)
class Piece:
    """Data of one tensor in a file.

    Attributes:
        offset: where they go, bytes.
        length: how many bytes.
        source: the bytes, or the file and the offset to copy them from.
    """

    offset: int
    length: int
    source: bytes | tuple[Path, int]


@dataclass(frozen=True, eq=False)
class Layout:
    """A model as it is written.

    Attributes:
        model: with the final places of its data.
        files: location -> what is in it, by rising offset.
    """

    model: ModelProto
    files: Mapping[str, tuple[Piece, ...]]


def lay_out(model: ModelProto, files: Files) -> Layout:
    """Give every tensor that is stored beside the model, or is to be, its place, without gaps.

    Data that tensors share stay shared. Where all data of a file began on pages, they do so again.
    """
    placed = ModelProto()
    placed.CopyFrom(model)
    tensors = [tensor for tensor in all_tensors(placed) if external_entry(tensor, "location")]
    offsets: dict[str, list[int]] = {}
    for tensor in filter(is_external, tensors):
        offsets.setdefault(external_entry(tensor, "location"), []).append(offset_of(tensor))
    pieces: dict[str, list[Piece]] = {location: [] for location in files}
    known: dict[tuple[str, int, int], Piece] = {}
    for tensor in tensors:
        location, length = external_entry(tensor, "location"), byte_count(tensor)
        key = (location, offset_of(tensor), length) if is_external(tensor) else None
        piece = known.get(key) if key is not None else None
        if piece is None:
            page = _PAGE if all(offset % _PAGE == 0 for offset in offsets.get(location, [1])) else 1
            last = pieces[location][-1] if pieces[location] else None
            end = 0 if last is None else last.offset + last.length
            source = (files[location], offset_of(tensor)) if key is not None else tensor.raw_data
            piece = Piece(-(-end // page) * page, length, source)
            pieces[location].append(piece)
        if key is not None:
            known[key] = piece
        _point(tensor, location, piece)
    return Layout(placed, {location: tuple(row) for location, row in pieces.items()})


def _point(tensor: TensorProto, location: str, piece: Piece) -> None:
    # A checksum was of the old file.
    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    for key, value in (("location", location), ("offset", str(piece.offset)), ("length", str(piece.length))):
        tensor.external_data.add(key=key, value=value)
    tensor.data_location = TensorProto.EXTERNAL


def write_pieces(stream: BinaryIO, pieces: tuple[Piece, ...]) -> None:
    """Write a data file."""
    end = 0
    for piece in pieces:
        stream.write(bytes(piece.offset - end))
        if isinstance(piece.source, bytes):
            stream.write(piece.source)
        else:
            copy_range(*piece.source, piece.length, stream)
        end = piece.offset + piece.length


def copy_range(path: Path, offset: int, length: int | None, stream: BinaryIO) -> None:
    """Copy bytes of a file into a stream; all to its end if `length` is None.

    Raises:
        OSError: the file is shorter.
    """
    with path.open("rb") as source:
        source.seek(offset)
        left = length
        while left is None or left:
            chunk = source.read(_CHUNK if left is None else min(_CHUNK, left))
            if not chunk:
                break
            stream.write(chunk)
            left = None if left is None else left - len(chunk)
        if left:
            raise OSError(None, f"the data file is {left} bytes short", str(path))
