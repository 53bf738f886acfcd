"""Arrays in `.npy` files and `.npz` archives, no larger in memory than they are asked for.

NumPy unpacks a member of an archive as a whole, whatever its size, before anyone can take the first rows.
And it maps files: one that gets shorter while it is mapped ends in SIGBUS, here in a message.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

_HEADERS: dict[tuple[int, int], Callable[[Any], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}
#: Called with the bytes that an array will take; raises where these are too many.
Room = Callable[[int], None]


def read_npz(path: Path, rows: int | None, room: Room) -> dict[str, NDArray[Any]]:
    """Read the arrays of an archive.

    Args:
        path: the archive.
        rows: of each array at most the first so many; None for all.
        room: asked before each array, with the bytes of all so far.

    Returns:
        The arrays by name.

    Raises:
        ValueError, OSError, EOFError, zipfile.BadZipFile: it is damaged, or holds something else; see
            `system.reading`.
    """
    found: dict[str, NDArray[Any]] = {}
    taken = 0

    def so_far(size: int) -> None:
        nonlocal taken
        taken += size
        room(taken)

    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if member.flag_bits & 1:
                raise ValueError(f"array {name!r} is encrypted")
            if name in found:
                raise ValueError(f"array {name!r} is there twice")
            with archive.open(member) as stream:
                found[name] = _read(stream, f"array {name!r}", so_far, rows)
    return found


def read_npy(path: Path, rows: int | None, room: Room) -> NDArray[Any]:
    """Read an array; see `read_npz`.

    Raises:
        ValueError, OSError, EOFError: it is damaged, holds something else, or gets shorter.
    """
    with path.open("rb") as stream:
        return _read(stream, "it", room, rows, os.fstat(stream.fileno()).st_size)


def _read(
    stream: IO[bytes], what: str, room: Room, rows: int | None, there: int | None = None
) -> NDArray[Any]:
    """An array, or its first rows; of one in Fortran's order all are read. `there` is the file's size."""
    shape, dtype, fortran = _header(stream, what)
    whole = math.prod(shape) * dtype.itemsize
    if there is not None and stream.tell() + whole > there:
        raise ValueError(f"{what} is cut off: {there} of {stream.tell() + whole} bytes are there")
    wanted = (min(rows, shape[0]), *shape[1:]) if rows is not None and shape and not fortran else shape
    size = math.prod(wanted) * dtype.itemsize
    room(size)
    data = stream.read(size)
    if len(data) < size:
        raise ValueError(f"{what} ends after {len(data)} of {size} bytes")
    found = np.frombuffer(data, dtype).reshape(wanted, order="F" if fortran else "C")
    return found if rows is None or not shape else found[:rows]


def _header(stream: IO[bytes], what: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape, type and order of an array, checked."""
    version = npy.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"{what} has a header of version {version}; known are 1.0 and 2.0")
    try:
        shape, fortran, dtype = _HEADERS[version](stream)
    except TypeError as error:  # a Python literal of another type than NumPy writes
        raise ValueError(f"{what} has a header that is none: {error}") from error
    if dtype.hasobject:
        raise ValueError(f"{what} holds Python objects, which are not read")
    if dtype.kind not in "biufcSU":
        raise ValueError(f"{what} holds {dtype}, no numbers or text")
    if any(type(size) is not int or size < 0 for size in shape):  # NumPy lets True and False pass
        raise ValueError(f"{what} has the shape {shape}")
    return shape, dtype, fortran
