"""Caffe weights in HDF5 (`.caffemodel.h5`): a group `data`, in it a group per layer, in it datasets 0, 1, ...

Needs h5py (extra `hdf5`). Source: Net::ToHDF5 and Net::CopyTrainedLayersFromHDF5 in BVLC Caffe.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...conv import Array
from ...errors import FormatError, ModelError
from ...files.hdf5 import h5py_for, open_hdf5
from ...files.source import Source, hashed_source
from ...progress import track
from .blob import converted, exact_dtype
from .weights import Blob, Float32, NewWeights, WeightsFile, WeightsLayer

_DATA, _DIFF = "data", "diff"
_MAX_AXES = 32  # kMaxBlobAxes
_MAX_VALUES = 2**31 - 1  # what an int counts


def _h5py() -> Any:
    return h5py_for("reading weights in HDF5", "hdf5")


@contextmanager
def _damage(where: str) -> Iterator[None]:
    """Turn what h5py raises for a damaged file into one line."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise FormatError(f"{where}: damaged HDF5: {error}") from error


class _Hdf5Blob(Blob):
    """A dataset of a file that stays open."""

    def __init__(self, dataset: Any, where: str) -> None:
        self._dataset = dataset
        self._where = where

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in self._dataset.shape or ())

    @property
    def encoding(self) -> str:
        return f"HDF5 {self._dataset.dtype.name}"

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self._dataset.dtype)
        return dtype

    def check(self) -> None:
        if self._dataset.shape is None or self.dtype.kind not in "fiu":
            raise FormatError(f"{self._where}: type {self.dtype} holds no numbers")
        if len(self.shape) > _MAX_AXES:
            raise FormatError(f"{self._where}: {len(self.shape)} axes, Caffe allows {_MAX_AXES}")
        if math.prod(self.shape) > _MAX_VALUES:
            raise FormatError(f"{self._where}: shape {list(self.shape)}, Caffe allows {_MAX_VALUES} values")

    def array(self) -> Float32:
        self.check()
        with _damage(self._where), np.errstate(over="ignore"):
            values = np.asarray(self._dataset[()]).astype(np.float32)
        values.flags.writeable = False
        return values


class _AbsentBlob(Blob):
    """A blob that the file leaves out: Caffe writes a shared parameter once, with the layer that owns it."""

    def __init__(self, where: str) -> None:
        self._error = f"{where} is not in the file; a layer that shares it may hold it"

    @property
    def shape(self) -> tuple[int, ...]:
        raise FormatError(self._error)

    @property
    def encoding(self) -> str:
        return "absent"

    def check(self) -> None:
        """Nothing is wrong as long as nobody needs the values."""

    def array(self) -> Float32:
        raise FormatError(self._error)


class _EditedBlob(Blob):
    """A blob of an edit that is not written yet."""

    def __init__(self, values: Array, dtype: np.dtype[Any], where: str) -> None:
        self.values = converted(values, dtype, where).reshape(values.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def encoding(self) -> str:
        return f"HDF5 {self.values.dtype.name}"

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    def check(self) -> None:
        """Nothing can be wrong with it."""

    def array(self) -> Float32:
        values = self.values.astype(np.float32)
        values.flags.writeable = False
        return values


class _Hdf5Layer(WeightsLayer):
    """A layer group of the file, or the blobs of an edited one."""

    def replaced(self, stack: Sequence[NewWeights], path: Path | None) -> list[_Hdf5Layer]:
        """The layers that put `stack` in this one's place, in its types.

        Raises:
            ModelError: A value that the type of the old dataset cannot hold.
        """
        layers = []
        for new in stack:
            blobs: list[Blob] = []
            for index, values in enumerate(new.blobs):
                where = f"{path}: layer {new.name!r}, blob {index}"
                old = self.blobs[min(index, len(self.blobs) - 1)] if self.blobs else None
                if old is None or isinstance(old, _AbsentBlob):  # a shared parameter, stored with its owner
                    blobs.append(_AbsentBlob(where))
                elif isinstance(old, (_Hdf5Blob, _EditedBlob)):
                    dtype = old.dtype if old.dtype.kind == "f" else np.dtype("<f4")
                    blobs.append(_EditedBlob(values, exact_dtype(values, dtype), where))
            layers.append(_Hdf5Layer(new.name, "", tuple(blobs)))
        return layers


class Hdf5Weights(WeightsFile):
    """Weights in an HDF5 file, which stays open as long as this object lives."""

    def __init__(self, source: Source, file: Any, layers: Sequence[_Hdf5Layer], kept: frozenset[str]) -> None:
        super().__init__(source.path, "HDF5", layers, source)
        self._read = source
        self._file = file
        self._entries_in_order = tuple(layers)
        self._kept = kept  # names of groups that are still as in the file

    def replace(self, replacements: Mapping[str, Sequence[NewWeights]]) -> WeightsFile:
        """See `WeightsFile.replace`. What is not replaced stays as HDF5 objects; bytes may move.

        Raises:
            ModelError: Also where a new name is taken: HDF5 holds one group of a name.
        """
        self._reject_unknown(replacements)
        layers: list[_Hdf5Layer] = []
        for layer in self._entries_in_order:
            stack = replacements.get(layer.name)
            layers += [layer] if stack is None else layer.replaced(stack, self.path)
        names = [layer.name for layer in layers]
        for name in names:
            if names.count(name) > 1 or "/" in name:
                raise ModelError(
                    f"{self.path}: cannot hold a layer named {name!r} (taken, or it has a slash)"
                )
        return Hdf5Weights(self._read, self._file, layers, self._kept - replacements.keys())

    def write(self, stream: BinaryIO) -> None:
        """See `WeightsFile.write`. The file is built in memory, as HDF5 writes back and forth."""
        scratch = BytesIO()
        with _h5py().File(scratch, "w") as new:
            self._fill(new)
        stream.write(scratch.getbuffer())

    def _fill(self, new: Any) -> None:
        with _damage(str(self.path)):
            new.attrs.update(self._file.attrs)
            for name in self._file:
                if name not in (_DATA, _DIFF):
                    self._file.copy(name, new)
            for part in (_DATA, _DIFF):
                if part in self._file:
                    new.create_group(part).attrs.update(self._file[part].attrs)
                    for name in track(self._file[part], f"writing weights ({part})"):
                        if name in self._kept:
                            self._file.copy(f"{part}/{name}", new[part], name)
        for layer in self._entries_in_order:
            if layer.name in self._kept:
                continue
            group = new[_DATA].create_group(layer.name)
            for index, blob in enumerate(layer.blobs):
                if isinstance(blob, _EditedBlob):
                    group.create_dataset(str(index), data=blob.values)


def read_hdf5(path: Path) -> WeightsFile:
    """Read Caffe weights in HDF5.

    Raises:
        FormatError: The file is damaged, is no file of Caffe weights, or keeps some in another file.
        MissingExtraError: h5py is not installed.
    """
    source = hashed_source(path)  # its data are read when they are used
    with _damage(str(path)):
        file = open_hdf5(_h5py(), path)
        if _DATA not in file or not hasattr(file[_DATA], "keys"):
            found = ", ".join(map(repr, sorted(file)[:4])) or "nothing"
            raise FormatError(f"{path}: HDF5, but no Caffe weights: no group 'data' in it, found {found}")
        layers = [_read_layer(path, name, file[_DATA][name]) for name in file[_DATA]]
    if not layers:
        raise FormatError(f"{path}: no layers in this file")
    return Hdf5Weights(source, file, layers, frozenset(layer.name for layer in layers))


def _read_layer(path: Path, name: str, group: Any) -> _Hdf5Layer:
    where = f"{path}: layer {name!r}"
    if not hasattr(group, "keys"):
        raise FormatError(f"{where}: a group of datasets should be here")
    unknown = [key for key in group if not key.isdecimal() or int(key) > _MAX_AXES]
    if unknown:
        raise FormatError(f"{where}: datasets are numbered from 0, found {unknown[0]!r}")
    blobs: list[Blob] = []
    for index in range(1 + max(map(int, group), default=-1)):
        blob = f"{where}, blob {index}"
        item = group.get(str(index))
        if item is not None and not (hasattr(item, "shape") and hasattr(item, "dtype")):
            raise FormatError(f"{blob}: is a {type(item).__name__}, no dataset")
        blobs.append(_AbsentBlob(blob) if item is None else _Hdf5Blob(item, blob))
    return _Hdf5Layer(name, "", tuple(blobs))
