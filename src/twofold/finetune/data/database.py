"""Data: images of an LMDB, in the order of its keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...calibration.pixels import Color
from ...errors import InputError
from ...system import is_file
from .datum import Datum
from .lmdb_file import LmdbFile
from .reader import Array, Items
from .registry import Request, register
from .transform import Transform


@register("Data")
class DatabaseItems(Items):
    """The records of a database of `Datum`."""

    def __init__(self, request: Request) -> None:
        param = request.spec.fields.message("data_param")
        self.batch_size, self.skip = param.integer("batch_size"), param.integer("rand_skip")
        self._label = request.label
        path = request.locate(param.text("source"), f"{request.label}: its source")
        if param.text("backend") == "LEVELDB" and not is_file(path / "data.mdb"):
            raise InputError(
                f"{request.label}: its source {path} is a LevelDB, which is not read; write the images as "
                "LMDB (convert_imageset --backend=lmdb) with 'backend: LMDB', or use an ImageData layer"
            )
        self._records, self._path = LmdbFile(path, request.label), path
        self._transform = Transform.of(request)
        self._color: Color | None = "bgr" if param.flag("force_encoded_color") else self._transform.color
        self.slow = len(self) > 0 and self._datum(0).encoded

    def __len__(self) -> int:
        return self._records.count

    def _where(self, index: int) -> str:
        return f"{self._label}: record {index} of {self._path}"

    def _datum(self, index: int) -> Datum:
        return Datum.parse(self._records.read(index), self._where(index))

    def fetch(self, index: int) -> tuple[int, Datum]:
        """The record, read from the file."""
        return index, self._datum(index)

    def decode(self, stored: Any, draw: Callable[[], np.random.Generator]) -> Sequence[Array]:
        """Image and label."""
        index, datum = stored
        image = datum.image(self._color, self._where(index))
        return self._transform(image, draw), np.asarray(datum.label, np.float32)
