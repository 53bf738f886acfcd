"""Means of images, as numbers or from the files in which Caffe's tools keep them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, InputError, UsageError
from ..files.arrays import read_npy
from ..formats.caffe.blob import WireBlob
from ..formats.caffe.wire import WireError
from ..system import is_file, reading
from .memory import check_room


def read_mean(source: str | Path) -> tuple[float, ...] | NDArray[np.float32]:
    """Read a mean.

    Args:
        source: numbers with commas between, "104,117,123"; or a path: `.npy` with (C,) or (C, H, W), else a
            `.binaryproto` as Caffe's compute_image_mean writes it.

    Returns:
        The numbers, or the array, (C,) or (C, H, W) float32.

    Raises:
        OptionError: neither numbers nor a file.
        InputError: the file holds no mean.
    """
    path = Path(source)
    if not is_file(path):
        try:
            return tuple(float(value) for value in str(source).split(","))
        except ValueError:
            raise UsageError(
                f"mean {str(source)!r} is neither numbers like 104,117,123 nor a .binaryproto or .npy file"
            ) from None
    with reading(path, "a mean", error=InputError):
        content = path.read_bytes()
        if content[:6] == b"\x93NUMPY":
            mean = read_npy(path, None, partial(check_room, path, None))
        else:
            mean = _stored_mean(path, content)
    if mean.dtype.kind not in "fiu":
        raise InputError(f"{path}: a mean is numbers, found {mean.dtype}")
    if (
        mean.ndim == 4 and len(mean) == 1
    ):  # the legacy dimensions of a binaryproto: num, channels, height, width
        mean = mean[0]
    if mean.ndim not in {1, 3} or not mean.size:
        raise InputError(f"{path}: a mean has the shape (C,) or (C, H, W), found {mean.shape}")
    if not np.isfinite(mean).all():
        raise InputError(f"{path}: the mean has values that are not finite")
    return np.ascontiguousarray(mean, np.float32)


def _stored_mean(path: Path, content: bytes) -> NDArray[np.float32]:
    try:
        return WireBlob(memoryview(content), 0, len(content), 0, str(path)).array()
    except (FormatError, WireError) as error:
        raise InputError(f"{path}: is not a mean, or is damaged: {error}") from error
