"""Statistics on disk, so that a second plan needs no second calibration."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from twofold.calibration.gather import Statistics
from twofold.calibration.memory import check_room
from twofold.calibration.sound import unsound
from twofold.codec import from_plain, to_plain
from twofold.conv import ConvLayer, LayerStatistics
from twofold.errors import FormatError, InputError
from twofold.files.arrays import read_npz
from twofold.formats.base import commit, is_missing, reserved
from twofold.system import reading

VERSION = 1
_BLOCK = 64


@dataclass(frozen=True)
class SavedStatistics:
    """The statistics of a model's layers and where they came from.

    Attributes:
        layers: statistics by layer name.
        provenance: what the inputs were and for which model (sha256), as plain JSON values.
    """

    layers: Mapping[str, LayerStatistics]
    provenance: Mapping[str, Any]


def save_statistics(path: Path, saved: SavedStatistics) -> None:
    """Write statistics to one .npz file, over an older one, whole or not at all.

    Symmetric matrices are stored as their upper triangle, in float64: loading gives back equal arrays.

    Raises:
        OutputError: the system rejects.
    """
    packed = [pack(name, statistics) for name, statistics in saved.layers.items()]
    arrays = {f"{i}/{key}": array for i, (_, parts) in enumerate(packed) for key, array in parts.items()}
    header = {
        "version": VERSION,
        "provenance": dict(saved.provenance),
        "layers": [entry for entry, _ in packed],
    }
    commit({path: lambda stream: np.savez(stream, header=np.array(json.dumps(header)), **arrays)}, force=True)


def load_statistics(path: Path) -> SavedStatistics:
    """Read what `save_statistics` wrote.

    Raises:
        FormatError: the file is missing, is something else, or of a later version.
    """
    with reading(path, "a file of statistics", "calibrate again"):
        arrays = read_npz(path, None, partial(check_room, path, None))
        header = json.loads(str(arrays["header"])) if "header" in arrays else {}
    try:
        known = from_plain(_Header, header, "its header")
        if known.version > VERSION:
            raise FormatError(f"its version is {known.version}, and this twofold reads up to {VERSION}")
        layers = {
            entry.name: _layer(_parts(arrays, f"{index}/"), entry) for index, entry in enumerate(known.layers)
        }
    except FormatError as error:
        raise FormatError(f"{path}: is no file of statistics: {error}; calibrate again") from error
    return SavedStatistics(MappingProxyType(layers), MappingProxyType(known.provenance))


def pack(name: str, statistics: LayerStatistics) -> tuple[dict[str, Any], dict[str, Any]]:
    """The statistics of a layer as plain JSON values and arrays of numbers; see `unpack`.

    Symmetric matrices become their upper triangles, with the groups in front where the layer has any.
    """
    matrices = {f"strip{axis}": strip for axis, strip in enumerate(statistics.strips)}
    for key in ("covariance", "gradient"):
        matrix = getattr(statistics, key)
        if matrix is not None:
            matrices[key] = matrix
    arrays = {"mean": statistics.mean}
    for key, matrix in matrices.items():
        diagonal = matrix.ndim == statistics.mean.ndim
        arrays[key] = matrix if diagonal else _triangle(matrix)
    entry = _Entry(
        name, statistics.count, len(statistics.strips), statistics.covariance is not None,
        statistics.gradient is not None, statistics.strips[0].ndim == statistics.mean.ndim,
        statistics.shrinkage,
    )  # fmt: skip
    return to_plain(entry), arrays


def unpack(entry: Any, arrays: Mapping[str, Any]) -> LayerStatistics:
    """The statistics of a layer from what `pack` gave, all arrays equal.

    Raises:
        FormatError: it is something else.
    """
    return _layer(arrays, from_plain(_Entry, entry, "the statistics"))


def load_or_gather(
    path: Path,
    layers: Sequence[ConvLayer],
    gather: Callable[[Sequence[ConvLayer]], Statistics],
    sources: Mapping[str, str],
    digest: str,
    size: int = 0,
) -> Statistics:
    """Read the statistics of layers from a file, or gather them and keep them there.

    Args:
        path: the file; made if it is missing.
        layers: what is wanted.
        gather: gathers.
        sources: sha256 of the model's files.
        digest: sha256 of the inputs.
        size: bytes that the file may take.

    Raises:
        OutputError: the file is missing and cannot be written, which is found before anything is gathered.
        FormatError: the file holds something else.
        InputError: the file was gathered for another model, or from other inputs.
    """
    if is_missing(path):
        with reserved([path], sizes=[size]):
            found = gather(layers)
            save_statistics(path, SavedStatistics(found.layers, {**found.record, "sources": dict(sources)}))
        return found
    saved = load_statistics(path)
    if saved.provenance.get("sources") != dict(sources):
        raise InputError(f"{path} was gathered for another model; name another file, or remove this one")
    if saved.provenance.get("inputs", {}).get("sha256") != digest:
        raise InputError(
            f"{path} was gathered from other inputs; name another file, or remove this one to gather anew"
        )
    alone = saved.provenance.get("weights_alone", [])
    layers = [layer for layer in layers if layer.name not in alone]
    missing = [layer.name for layer in layers if layer.name not in saved.layers]
    if missing:
        raise InputError(
            f"{path} lacks the layers {', '.join(missing[:5])}; remove it to gather statistics of all"
        )
    for layer in layers:
        if (why := unsound(layer, saved.layers[layer.name])) is not None:
            raise InputError(f"{path}: layer {layer.name!r}: {why}; remove the file to gather anew")
    note = f"input statistics of layers were read from {path}"
    return Statistics(
        dict(saved.layers), {k: v for k, v in saved.provenance.items() if k != "sources"}, (note,)
    )


@dataclass(frozen=True)
class _Entry:
    """What the header says of a layer; see `LayerStatistics`."""

    name: str
    count: int
    strips: int
    full: bool
    gradient: bool
    diagonal: bool = False
    shrinkage: float = 0.0


@dataclass(frozen=True)
class _Header:
    """The header of a file."""

    version: int
    provenance: Mapping[str, Any]
    layers: tuple[_Entry, ...]


def _parts(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def _layer(arrays: Mapping[str, Any], entry: _Entry) -> LayerStatistics:
    where = f"layer {entry.name!r}"
    if not 1 <= entry.count < 2**63 or not 0 <= entry.strips <= 8 or not 0 <= entry.shrinkage <= 1:
        raise FormatError(f"{where}: {entry} cannot be")

    def stored(name: str) -> Any:
        array = arrays.get(name)
        if array is None or array.dtype != np.float64 or array.ndim not in (1, 2, 3) or not array.size:
            found = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
            raise FormatError(f"{where}: its {name} is {found}, no array of float64")
        if not np.isfinite(array).all():
            raise FormatError(f"{where}: its {name} has values that are not finite")
        return array

    def matrix(name: str) -> Any:
        triangle = stored(name)
        n = (math.isqrt(8 * triangle.shape[-1] + 1) - 1) // 2
        if n * (n + 1) // 2 != triangle.shape[-1]:
            raise FormatError(f"{where}: its {name} has {triangle.shape[-1]} values, no triangle of a matrix")
        return _symmetric(triangle, n)

    mean = stored("mean")
    strips = tuple(
        stored(f"strip{axis}") if entry.diagonal else matrix(f"strip{axis}") for axis in range(entry.strips)
    )
    covariance = matrix("covariance") if entry.full else None
    gradient = matrix("gradient") if entry.gradient else None
    if covariance is not None and covariance.shape != (*mean.shape, mean.shape[-1]):
        raise FormatError(f"{where}: a covariance of shape {covariance.shape} for a mean of {mean.shape}")
    return LayerStatistics(entry.count, mean, covariance, strips, gradient, shrinkage=entry.shrinkage)


def _triangle(matrix: Any) -> Any:
    """The upper triangle (..., n (n + 1) / 2), row by row: indices would take more memory than values."""
    return np.concatenate([matrix[..., i, i:] for i in range(matrix.shape[-1])], axis=-1)


def _symmetric(triangle: Any, n: int) -> Any:
    matrix = np.empty((*triangle.shape[:-1], n, n))
    start = 0
    for i in range(n):
        matrix[..., i, i:] = triangle[..., start : start + n - i]
        start += n - i
    for i in range(0, n, _BLOCK):  # by blocks, since single columns are slow to write
        rows = slice(i, min(i + _BLOCK, n))
        matrix[..., rows.stop :, rows] = matrix[..., rows, rows.stop :].swapaxes(-1, -2)
        lower = (..., *np.tril_indices(rows.stop - i, -1))
        block = matrix[..., rows, rows]
        block[lower] = block.swapaxes(-1, -2)[lower]
    return matrix
