"""Blobs in protobuf files: BlobProto of BVLC Caffe and the raw bytes that NVCaffe adds, read and rewritten.

A blob's values may be packed, unpacked or split into several pieces, float or double; its dimensions may be a
`shape` or the four legacy numbers. A new blob is written the way an old one was. Only half precision must not
round it: values that are not halves are written as packed float32, which every fork of Caffe reads, blob by
blob.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ...conv import Array
from ...errors import FormatError, ModelError
from .weights import Blob, Float32
from .wire import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    WIDTH,
    Field,
    WireError,
    edited,
    fields,
    length_field,
    packed_varints,
    signed,
    tag,
    varint,
    varint_field,
)

# BlobProto in caffe.proto
_NUM, _WIDTH = 1, 4  # num, channels, height, width
_DATA, _DIFF, _SHAPE, _DOUBLE_DATA, _DOUBLE_DIFF = 5, 6, 7, 8, 9
# NVCaffe adds these. Other forks use the numbers otherwise (DeePhi: 12 is a varint): the wire type decides.
_RAW_TYPE, _RAW_DIFF_TYPE, _RAW_DATA, _RAW_DIFF = 10, 11, 12, 13
_DIM = 1  # BlobShape

_FLOATS = {_DATA: FIXED32, _DIFF: FIXED32, _DOUBLE_DATA: FIXED64, _DOUBLE_DIFF: FIXED64}
_Dtype = np.dtype[np.floating]
_DTYPES: dict[int, _Dtype] = {_DATA: np.dtype("<f4"), _DOUBLE_DATA: np.dtype("<f8")}
#: NVCaffe's enum Type: DOUBLE, FLOAT, FLOAT16
_RAW_DTYPES: dict[int, _Dtype] = {0: np.dtype("<f8"), 1: np.dtype("<f4"), 2: np.dtype("<f2")}

_MAX_AXES = 32  # kMaxBlobAxes
_MAX_DIM = 2**31 - 1


class _Piece(NamedTuple):
    """`length` values that lie `step` bytes apart."""

    position: int
    length: int
    step: int


class WireBlob(Blob):
    """A BlobProto inside a buffer.

    Raises:
        WireError: The bytes are no BlobProto.
    """

    def __init__(self, buffer: memoryview, start: int, end: int, depth: int, where: str) -> None:
        self._buffer, self._start, self._end, self._depth = buffer, start, end, depth
        self._where = where
        self._legacy: dict[int, int] = {}
        self._dims: list[int] | None = None
        self._dims_packed = True
        self._pieces: dict[int, list[_Piece]] = {_DATA: [], _DOUBLE_DATA: []}
        self._packed = {_DATA: False, _DOUBLE_DATA: False}
        self._raw_type: int | None = None
        self._raw: _Piece | None = None
        for field in self._fields():
            self._read(field)

    def _fields(self) -> Iterator[Field]:
        return fields(self._buffer, self._start, self._end, self._depth)

    def _read(self, field: Field) -> None:
        number, wire = field.number, field.wire
        if number in _FLOATS and wire in (LENGTH, _FLOATS[number]):
            self._read_floats(field)
        elif _NUM <= number <= _WIDTH and wire == VARINT:
            self._legacy[number] = signed(field.value)
        elif number == _SHAPE and wire == LENGTH:
            self._read_shape(field)
        elif number == _RAW_TYPE and wire == VARINT:
            self._raw_type = field.value
        elif number == _RAW_DATA and wire == LENGTH:
            self._raw = _Piece(field.body, field.end - field.body, 1)

    def _read_floats(self, field: Field) -> None:
        width = WIDTH[_FLOATS[field.number]]
        size = field.end - field.body
        if field.wire == LENGTH and size % width:
            raise WireError(field.start, f"packed values take {size} bytes, which is no multiple of {width}")
        if field.number not in self._pieces:
            return  # a gradient
        if field.wire != LENGTH:
            self._pieces[field.number].append(_Piece(field.body, field.repeats, field.step))
        elif size:
            self._packed[field.number] = True
            self._pieces[field.number].append(_Piece(field.body, size // width, width))

    def _read_shape(self, field: Field) -> None:
        if self._dims is None:
            self._dims = []
        for dim in fields(self._buffer, field.body, field.end, self._depth + 1):
            if dim.number == _DIM and dim.wire == VARINT:
                self._dims.append(signed(dim.value))
                self._dims_packed = False
            elif dim.number == _DIM and dim.wire == LENGTH:
                self._dims += packed_varints(self._buffer, dim.body, dim.end)

    # What the fields mean. The order of preference is that of Blob::FromProto and Blob::ShapeEquals.

    @property
    def _source(self) -> tuple[_Dtype, list[_Piece]]:
        """Type and place of the values that count: double_data, then data, then raw bytes."""
        for number in (_DOUBLE_DATA, _DATA):
            if self._pieces[number]:
                return _DTYPES[number], self._pieces[number]
        if self._raw is not None and self._raw_type is not None:
            dtype = _RAW_DTYPES.get(self._raw_type)
            if dtype is None:
                raise self._error(f"raw values of type {self._raw_type} are unknown; 0, 1 and 2 are floats")
            size = self._raw.length
            if size % dtype.itemsize:
                raise self._error(f"raw values of type {dtype.name} take {size} bytes")
            return dtype, [_Piece(self._raw.position, size // dtype.itemsize, dtype.itemsize)]
        return _DTYPES[_DATA], []

    @property
    def _values_in(self) -> int:
        """Number of the field that holds the values."""
        for number in (_DOUBLE_DATA, _DATA):
            if self._pieces[number]:
                return number
        return _DATA if self._raw is None or self._raw_type is None else _RAW_DATA

    @property
    def encoding(self) -> str:
        dtype, pieces = self._source
        number = self._values_in
        if number == _RAW_DATA:
            return f"raw {dtype.name}"
        if len(pieces) > 1:
            return f"chunked {dtype.name}"
        return f"{'unpacked' if pieces and not self._packed[number] else 'packed'} {dtype.name}"

    @property
    def shape(self) -> tuple[int, ...]:
        dims = tuple(self._dims or ())
        legacy = self._legacy_dims
        if legacy is not None and self._dims is not None and _legacy_of(dims) != legacy:
            raise self._error(f"shape {dims} contradicts the legacy dimensions {legacy}")
        if self._dims is None and legacy is not None:
            dims = legacy
        if any(not 0 <= dim <= _MAX_DIM for dim in dims) or len(dims) > _MAX_AXES:
            raise self._error(f"shape {_short(dims)} is impossible")
        return dims

    @property
    def _legacy_dims(self) -> tuple[int, ...] | None:
        if not self._legacy:
            return None
        return tuple(self._legacy.get(number, 0) for number in range(_NUM, _WIDTH + 1))

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether Caffe loads this blob into a parameter of `shape`; legacy dimensions are right-aligned."""
        own = self.shape
        return _legacy_of(tuple(shape)) == own if self._dims is None and self._legacy else own == tuple(shape)

    def check(self) -> None:
        shape, (_, pieces) = self.shape, self._source
        found = sum(piece.length for piece in pieces)
        if found != math.prod(shape):
            raise self._error(f"shape {shape} needs {math.prod(shape)} values, the file holds {found}")

    def array(self) -> Float32:
        self.check()
        dtype, pieces = self._source
        runs: list[Array] = [
            np.ndarray((piece.length,), dtype, self._buffer, piece.position, (piece.step,))
            for piece in pieces
            if piece.length
        ]
        if not runs:
            flat = np.zeros(0, np.float32)
        elif len(runs) == 1 and dtype == np.float32 and runs[0].strides == (4,):
            flat = runs[0]
        else:
            flat = np.empty(sum(run.size for run in runs), np.float32)
            with np.errstate(over="ignore"):  # a double beyond float32 is infinite in Caffe too
                np.concatenate(runs, out=flat, casting="same_kind")
        values = cast(Float32, flat.reshape(self.shape))
        values.flags.writeable = False
        return values

    def _error(self, reason: str) -> FormatError:
        return FormatError(f"{self._where}: {reason}")

    # Writing

    def with_values(self, values: Array) -> list[bytes | memoryview]:
        """The pieces of this BlobProto with other values, in the encoding it has; gradients are dropped.

        Raises:
            ModelError: The encoding cannot hold the values.
        """
        dims = values.shape
        legacy = _legacy_of(dims)
        if self._legacy and legacy is None:
            raise ModelError(f"{self._where}: legacy dimensions cannot hold a blob of shape {dims}")
        number, dtype = self._target(values)
        data = _Once(lambda: self._encoded(values, number, dtype))
        shape = _Once(lambda: b"" if self._dims is None else self._encoded_shape(dims))
        keeps_raw = number == _RAW_DATA

        def edit(field: Field) -> bytes | None:
            at, wire = field.number, field.wire
            if at in _FLOATS and wire in (LENGTH, _FLOATS[at]):
                return data() if at == number else b""
            if at == _RAW_DATA and wire == LENGTH and self._raw_type is not None:
                return data() if keeps_raw else b""
            if at == _RAW_TYPE and wire == VARINT and self._raw is not None:
                return None if keeps_raw else b""
            if (at == _RAW_DIFF and wire == LENGTH) or (at == _RAW_DIFF_TYPE and wire == VARINT):
                return b"" if self._values_in == _RAW_DATA else None
            if at == _SHAPE and wire == LENGTH:
                return shape()
            if _NUM <= at <= _WIDTH and wire == VARINT and legacy is not None:
                return varint_field(at, legacy[at - _NUM])
            return None

        pieces = edited(self._buffer, self._start, self._end, self._depth, edit)
        pieces.append(data())
        if self._dims is None and not self._legacy and dims:
            pieces.append(self._encoded_shape(dims))
        else:
            pieces.append(shape())
        if self._legacy and legacy is not None:
            pieces += [
                varint_field(_NUM + i, d) for i, d in enumerate(legacy) if _NUM + i not in self._legacy
            ]
        return pieces

    def _target(self, values: Array) -> tuple[int, _Dtype]:
        """Field and type for new values: those of the old ones, but float32 instead of rounding to half."""
        dtype = self._source[0]
        wide = exact_dtype(values, dtype)
        return (self._values_in, dtype) if wide == dtype else (_DATA, wide)

    def _encoded(self, values: Array, number: int, dtype: _Dtype) -> bytes:
        flat = converted(values, dtype, self._where)
        if number == _RAW_DATA or not self._pieces[number] or self._packed[number]:
            return length_field(number, flat.tobytes())
        rows = np.empty((flat.size, 1 + dtype.itemsize), np.uint8)
        rows[:, 0] = tag(number, _FLOATS[number])[0]
        rows[:, 1:] = flat.view(np.uint8).reshape(flat.size, dtype.itemsize)
        return rows.tobytes()

    def _encoded_shape(self, dims: Sequence[int]) -> bytes:
        if self._dims_packed:
            return new_shape(dims)
        return length_field(_SHAPE, b"".join(varint_field(_DIM, dim) for dim in dims))


class _Once:
    """Gives its bytes once: the new value of a repeated field stands where the first old one stood."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make: Callable[[], bytes] | None = make

    def __call__(self) -> bytes:
        make, self._make = self._make, None
        return make() if make else b""


def _legacy_of(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Legacy dimensions of a shape: ones in front up to four axes; None where it has more."""
    return (1,) * (4 - len(shape)) + shape if len(shape) <= 4 else None


def _short(dims: tuple[int, ...]) -> str:
    return str(dims) if len(dims) <= _MAX_AXES else f"of {len(dims)} axes"


def exact_dtype(values: Array, dtype: _Dtype) -> _Dtype:
    """Return `dtype`, or float32 where `dtype` is half precision and would change the values."""
    if dtype.itemsize > 2:
        return dtype
    with np.errstate(over="ignore"):
        same = np.array_equal(values.astype(dtype), values, equal_nan=True)
    return dtype if same else np.dtype("<f4")


def converted(values: Array, dtype: DTypeLike, where: str) -> NDArray[np.floating]:
    """Values in C order as a flat array of `dtype`.

    Raises:
        ModelError: A finite value becomes infinite.
    """
    with np.errstate(over="ignore"):
        flat = np.ascontiguousarray(values, dtype).reshape(-1)
    lost = np.isinf(flat) & np.isfinite(values).reshape(-1)
    if lost.any():
        largest = float(np.abs(np.asarray(values, np.float64)).reshape(-1)[lost].max())
        raise ModelError(f"{where}: {np.dtype(dtype).name}, as the file stores it, cannot hold {largest:.6g}")
    return flat


def new_shape(dims: Sequence[int]) -> bytes:
    """A packed shape field."""
    return length_field(_SHAPE, length_field(_DIM, b"".join(map(varint, dims))))


def new_blob(values: Array, where: str) -> bytes:
    """A BlobProto as Caffe writes it: packed floats, then a shape of packed dimensions.

    Raises:
        ModelError: A finite value is infinite in float32.
    """
    return length_field(_DATA, converted(values, "<f4", where).tobytes()) + new_shape(values.shape)
