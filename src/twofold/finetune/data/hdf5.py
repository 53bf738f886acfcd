"""HDF5Data: rows of datasets that have the names of the tops, from files that a list names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...files.hdf5 import h5py_for, open_hdf5
from ...system import reading
from .reader import Array, Items
from .registry import Request, register

#: Bytes of the rows that are held at once.
_BLOCK = 1 << 28


@register("HDF5Data")
class Hdf5Items(Items):
    """The rows of all files; shuffled, files keep together, as in Caffe, which holds one at a time."""

    def __init__(self, request: Request) -> None:
        param = request.spec.fields.message("hdf5_data_param")
        self.batch_size, self.shuffle = param.integer("batch_size"), param.flag("shuffle")
        self._label, self._tops = request.label, request.spec.tops
        if request.spec.fields.has("transform_param"):
            raise InputError(f"{self._label}: transform_param is not for this type; Caffe rejects it, too")
        source = request.locate(param.text("source"), f"{self._label}: its source")
        try:
            names = [line.strip() for line in source.read_text("utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self._label}: cannot read its source {source} as a list: {error}") from error
        self._files = [request.locate(name, f"{self._label}: file of {source}") for name in names]
        self._block = _BLOCK
        self._starts = np.cumsum([0, *(self._rows(path) for path in self._files)])
        self._load = lru_cache(2)(self._read)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def order(self, rng: np.random.Generator) -> Array:
        """Files in random order, and the rows of each."""
        files = rng.permutation(len(self._files))
        runs = [self._starts[i] + rng.permutation(int(self._starts[i + 1] - self._starts[i])) for i in files]
        return np.concatenate(runs)

    def fetch(self, index: int) -> Sequence[Array]:
        """The row of every dataset."""
        file = int(np.searchsorted(self._starts, index, side="right")) - 1
        block, row = divmod(index - int(self._starts[file]), self._block)
        return [rows[row] for rows in self._load(self._files[file], block)]

    def decode(self, stored: Any, draw: Callable[[], np.random.Generator]) -> Sequence[Array]:
        """The row as it is."""
        rows: Sequence[Array] = stored
        return rows

    def _rows(self, path: Path) -> int:
        """Number of rows of a file, whose datasets are checked."""
        with self._damage(path), self._opened(path) as file:
            for top in self._tops:
                if (
                    top not in file
                    or not getattr(file[top], "shape", ())
                    or file[top].dtype.kind not in "fiu"
                ):
                    found = ", ".join(map(repr, sorted(file)[:6])) or "nothing"
                    raise InputError(
                        f"{self._label}: {path} has no dataset of numbers {top!r}, which it needs with one "
                        f"row per item; it has {found}"
                    )
            rows = {top: int(file[top].shape[0]) for top in self._tops}
            values = sum(math.prod(file[top].shape[1:]) for top in self._tops)
            if 4 * values > _BLOCK:
                raise InputError(f"{self._label}: {path}: a row has {values} values, more than can be held")
            self._block = min(self._block, max(1, _BLOCK // max(1, 4 * values)))
        if len(set(rows.values())) > 1:
            raise InputError(f"{self._label}: {path}: its datasets differ in their rows: {rows}")
        return next(iter(rows.values()), 0)

    def _read(self, path: Path, block: int) -> list[Array]:
        """Some rows: a file may hold more than memory does, and a packed one does not show it."""
        rows = slice(block * self._block, (block + 1) * self._block)
        with self._damage(path), self._opened(path) as file:
            return [np.asarray(file[top][rows], np.float32) for top in self._tops]

    def _opened(self, path: Path) -> Any:
        return open_hdf5(h5py_for("reading HDF5", "caffe-train"), path)

    @contextmanager
    def _damage(self, path: Path) -> Iterator[None]:
        try:
            with reading(path, "a file of HDF5", error=InputError):
                yield
        except (KeyError, RuntimeError, TypeError, AttributeError) as error:  # of h5py, over damaged objects
            raise InputError(f"{self._label}: {path} is damaged HDF5: {error}") from error
