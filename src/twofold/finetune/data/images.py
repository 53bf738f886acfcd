"""ImageData: image files that a list names, a label behind each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...calibration.pixels import BadImageError, Color, read_pixels, resize
from ...errors import InputError
from .reader import Array, Items
from .registry import Request, register
from .transform import Transform


@register("ImageData")
class ImageItems(Items):
    """The lines of a list: a path, relative to `root_folder`, and a label."""

    slow = True

    def __init__(self, request: Request) -> None:
        param = request.spec.fields.message("image_data_param")
        self.batch_size, self.skip = param.integer("batch_size"), param.integer("rand_skip")
        self.shuffle = param.flag("shuffle")
        self._label = request.label
        self._size = (param.integer("new_height"), param.integer("new_width"))
        if (self._size[0] == 0) != (self._size[1] == 0):
            raise InputError(f"{self._label}: new_height and new_width are needed together, got {self._size}")
        self._transform = Transform.of(request)
        self._color: Color = "bgr" if param.flag("is_color") else "gray"
        source = request.locate(param.text("source"), f"{self._label}: its source")
        self._lines = _read_list(source, self._label)
        self._root = param.text("root_folder")
        if self._lines:
            # The place of the first image is the place of all.
            first = self._root + self._lines[0][0]
            found = str(request.locate(first, f"{self._label}: the first image of {source}"))
            self._root = found.removesuffix(first) + self._root

    def __len__(self) -> int:
        return len(self._lines)

    def fetch(self, index: int) -> tuple[str, int]:
        """Path and label."""
        return self._lines[index]

    def decode(self, stored: Any, draw: Callable[[], np.random.Generator]) -> Sequence[Array]:
        """Image and label."""
        name, label = stored
        path = Path(self._root + name)
        try:
            pixels = read_pixels(path, self._color)
        except BadImageError as error:
            raise InputError(f"{self._label}: {path}: {error}") from error
        if any(self._size):
            pixels = resize(pixels, self._size)
        return self._transform(pixels.transpose(2, 0, 1), draw), np.asarray(label, np.float32)


def _read_list(path: Path, where: str) -> list[tuple[str, int]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise InputError(f"{where}: cannot read its source {path}: {error.strerror or error}") from error
    entries = []
    for number, line in enumerate(lines, 1):
        name, _, label = line.rstrip().rpartition(" ")
        if not line.strip():
            continue
        try:
            if not -(2**31) <= int(label) < 2**31:
                raise InputError(f"{path}:{number}: the label {label[:20]} is more than Caffe's int32 holds")
            entries.append((name.rstrip(), int(label)))
        except ValueError:
            name = ""
        if not name:
            raise InputError(f"{path}:{number}: {line.strip()!r} is not a path, a space and a whole number")
    return entries
