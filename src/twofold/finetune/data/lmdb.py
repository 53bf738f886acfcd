"""Data: images of a database, in the order of its keys. LMDB, by the package `lmdb`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ...calibration.pixels import Color
from ...errors import InputError, MissingExtraError
from ...system import is_dir, is_file, real
from .datum import Datum
from .reader import Array, Items
from .registry import Request, reads
from .transform import Transform


class _Environment:
    """An open LMDB file; a process may open each only once."""

    def __init__(self, path: Path, where: str) -> None:
        try:
            import lmdb  # noqa: PLC0415 - optional
        except ImportError as error:
            raise MissingExtraError("reading LMDB", "lmdb", "caffe-train") from error
        self.error = lmdb.Error
        try:
            self.opened = lmdb.open(str(path), readonly=True, lock=False, subdir=is_dir(path))
        except lmdb.Error as error:
            raise InputError(f"{where}: its source {path} cannot be read as LMDB: {error}") from error


_OPEN: WeakValueDictionary[Path, _Environment] = WeakValueDictionary()


class _Records:
    """The values of a database by the number of their key: quick where the numbers rise."""

    def __init__(self, path: Path, where: str) -> None:
        self.path, self._where, self._at = path, where, -1
        key = real(path)
        self._environment = _OPEN.get(key) or _Environment(path, where)
        _OPEN[key] = self._environment
        self.count = int(self._environment.opened.stat()["entries"])
        self._cursor = self._environment.opened.begin().cursor()

    def read(self, index: int) -> bytes:
        """The value of key number `index`."""
        try:
            if index < self._at or self._at < 0:
                self._cursor.first()
                self._at = 0
            while self._at < index:
                self._cursor.next()
                self._at += 1
            return bytes(self._cursor.value())
        except self._environment.error as error:
            raise InputError(
                f"{self._where}: record {index} of {self.path} cannot be read: {error}"
            ) from error


@reads("Data")
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
        self._records = _Records(path, request.label)
        self._transform = Transform.of(request)
        self._color: Color | None = "bgr" if param.flag("force_encoded_color") else self._transform.color
        self.slow = len(self) > 0 and self._datum(0).encoded

    def __len__(self) -> int:
        return self._records.count

    def _where(self, index: int) -> str:
        return f"{self._label}: record {index} of {self._records.path}"

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
