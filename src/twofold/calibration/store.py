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

from twofold.calibration.arrays import read_npz
from twofold.calibration.gather import Statistics
from twofold.calibration.memory import check_room
from twofold.calibration.sound import unsound
from twofold.codec import from_plain
from twofold.conv import ConvLayer, LayerStatistics
from twofold.errors import FormatError, InputError
from twofold.formats.base import commit, is_missing, reserved
from twofold.system import reading

VERSION = 1


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
    arrays: dict[str, Any] = {}
    for index, statistics in enumerate(saved.layers.values()):
        matrices = {f"strip{axis}": strip for axis, strip in enumerate(statistics.strips)}
        for key in ("covariance", "gradient"):
            matrix = getattr(statistics, key)
            if matrix is not None:
                matrices[key] = matrix
        arrays[f"{index}/mean"] = statistics.mean
        for key, matrix in matrices.items():  # with the groups in front, where the layer has any
            diagonal = matrix.ndim == statistics.mean.ndim
            kept = matrix if diagonal else matrix[(..., *np.triu_indices(matrix.shape[-1]))]
            arrays[f"{index}/{key}"] = kept
    header = {
        "version": VERSION,
        "provenance": dict(saved.provenance),
        "layers": [
            {
                "name": name,
                "count": s.count,
                "strips": len(s.strips),
                "full": s.covariance is not None,
                "gradient": s.gradient is not None,
                "diagonal": s.strips[0].ndim == s.mean.ndim,
                "shrinkage": s.shrinkage,
            }
            for name, s in saved.layers.items()
        ],
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
        layers = {entry.name: _layer(arrays, index, entry) for index, entry in enumerate(known.layers)}
    except FormatError as error:
        raise FormatError(f"{path}: is no file of statistics: {error}; calibrate again") from error
    return SavedStatistics(MappingProxyType(layers), MappingProxyType(known.provenance))


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


def _layer(arrays: Mapping[str, Any], index: int, entry: _Entry) -> LayerStatistics:
    where = f"layer {entry.name!r}"
    if not 1 <= entry.count < 2**63 or not 0 <= entry.strips <= 8 or not 0 <= entry.shrinkage <= 1:
        raise FormatError(f"{where}: {entry} cannot be")

    def stored(name: str) -> Any:
        array = arrays.get(f"{index}/{name}")
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


def _symmetric(triangle: Any, n: int) -> Any:
    matrix = np.empty((*triangle.shape[:-1], n, n))
    matrix[(..., *np.triu_indices(n))] = triangle
    lower = np.tril_indices(n, -1)
    matrix[(..., *lower)] = matrix.swapaxes(-1, -2)[(..., *lower)]
    return matrix
