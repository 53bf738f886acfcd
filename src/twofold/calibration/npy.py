"""Arrays in `.npy` files, read without a mapping: one that gets shorter ends in a message, not in SIGBUS."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npy(path: Path, limit: int | None, room: Callable[[int], None]) -> NDArray[Any]:
    """Read an array, or its first rows.

    Args:
        path: the file.
        limit: rows to read; None for all. Of an array in Fortran's order all are read.
        room: gets the number of bytes before they are read, and raises where they are too many.

    Returns:
        At most `limit` rows.

    Raises:
        OSError: the system refuses.
        ValueError: it is no such file, holds Python objects, is cut off or gets shorter.
    """
    with path.open("rb") as file:
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"version {version} of the format is for fields with names, which no net takes")
        shape, fortran, dtype = _HEADERS[version](file)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which are not read")
        start, size = file.tell(), os.fstat(file.fileno()).st_size
        whole = math.prod(shape) * dtype.itemsize
        if start + whole > size:
            raise ValueError(f"it is cut off: {size} of {start + whole} bytes are there")
        rows = shape[0] if limit is None or fortran else min(limit, shape[0]) if shape else 0
        wanted = (rows, *shape[1:]) if shape else ()
        count = math.prod(wanted) * dtype.itemsize
        room(count)
        content = file.read(count)
    if len(content) != count:
        raise ValueError("it got shorter while it was read")
    found = np.frombuffer(content, dtype).reshape(wanted, order="F" if fortran else "C")
    return found if limit is None or not shape else found[:limit]
