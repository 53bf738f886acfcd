"""Datum: one labelled image, as Caffe's databases hold it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...calibration.pixels import BadImageError, Color, decode_pixels
from ...errors import InputError
from ...formats.caffe.wire import (
    FIXED32,
    LENGTH,
    VARINT,
    WireError,
    fields,
    length_field,
    signed,
    varint_field,
)

# Datum in caffe.proto
_CHANNELS, _HEIGHT, _WIDTH, _DATA, _LABEL, _FLOAT_DATA, _ENCODED = range(1, 8)


@dataclass(frozen=True, eq=False)
class Datum:
    """A labelled image.

    Attributes:
        shape: (C, H, W) as stored; of an encoded image whatever its writer said.
        data: pixels of 8 bits in that order, or the file of an encoded image.
        label: its class.
        floats: values where there are no pixels.
        encoded: whether `data` is the file of an image, JPEG or PNG.
    """

    shape: tuple[int, int, int]
    data: bytes | memoryview
    label: int = 0
    floats: NDArray[np.float32] | None = None
    encoded: bool = False

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], label: int) -> Datum:
        """The datum of pixels (C, H, W)."""
        channels, height, width = pixels.shape
        return cls((channels, height, width), pixels.tobytes(), label)

    @classmethod
    def parse(cls, record: bytes, where: str) -> Datum:
        """Read a datum.

        Raises:
            InputError: it is none.
        """
        buffer = memoryview(record)
        numbers = {_CHANNELS: 0, _HEIGHT: 0, _WIDTH: 0, _LABEL: 0, _ENCODED: 0}
        data: memoryview = buffer[:0]
        floats: list[NDArray[np.float32]] = []
        try:
            for field in fields(buffer, 0, len(buffer)):
                body = buffer[field.body : field.end]
                if field.wire == VARINT and field.number in numbers:
                    numbers[field.number] = signed(field.value)
                elif field.wire == LENGTH and field.number == _DATA:
                    data = body
                elif field.wire == LENGTH and field.number == _FLOAT_DATA:
                    floats.append(np.frombuffer(body, "<f4"))
                elif field.wire == FIXED32 and field.number == _FLOAT_DATA:
                    # A run of unpacked values: a tag of one byte stands before each.
                    run = np.frombuffer(buffer[field.start : field.end], np.uint8).reshape(field.repeats, -1)
                    floats.append(np.ascontiguousarray(run[:, -4:]).view("<f4")[:, 0])
        except (WireError, ValueError) as error:
            raise InputError(f"{where}: not a Datum, or damaged: {error}") from error
        shape = (numbers[_CHANNELS], numbers[_HEIGHT], numbers[_WIDTH])
        values = np.concatenate(floats) if floats else None
        return cls(shape, data, numbers[_LABEL], values, bool(numbers[_ENCODED]))

    def serialize(self) -> bytes:
        """The bytes of the record."""
        parts = [varint_field(number, size) for number, size in enumerate(self.shape, _CHANNELS)]
        if len(self.data):
            parts.append(length_field(_DATA, bytes(self.data)))
        parts.append(varint_field(_LABEL, self.label))
        if self.floats is not None:
            parts.append(length_field(_FLOAT_DATA, self.floats.astype("<f4").tobytes()))
        if self.encoded:
            parts.append(varint_field(_ENCODED, 1))
        return b"".join(parts)

    def image(self, color: Color | None, where: str) -> NDArray[Any]:
        """The image (C, H, W), uint8 or float32.

        Args:
            color: channels of encoded images; None for as they are, gray or BGR.
            where: for messages.

        Raises:
            InputError: an encoded image cannot be decoded, or the data do not fill the shape.
        """
        if self.encoded:
            try:
                return decode_pixels(bytes(self.data), color).transpose(2, 0, 1)
            except BadImageError as error:
                raise InputError(f"{where}: {error}") from error
        values = np.frombuffer(self.data, np.uint8) if len(self.data) else self.floats
        count = 0 if values is None else values.size
        if values is None or count != np.prod(self.shape) or not count:
            raise InputError(f"{where}: {count} values for an image of shape {self.shape}; it is damaged")
        return values.reshape(self.shape)
