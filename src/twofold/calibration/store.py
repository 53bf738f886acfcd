"""Statistics on disk, so that a second plan needs no second calibration."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from twofold.conv import LayerStatistics
from twofold.errors import FormatError

VERSION = 1


@dataclass(frozen=True)
class SavedStatistics:
    """The statistics of a model's layers and where they came from.

    Attributes:
        layers: statistics by layer name.
        provenance: what the inputs were and for which model (sha256), in the caller's words.
    """

    layers: Mapping[str, LayerStatistics]
    provenance: Mapping[str, str]


def save_statistics(path: Path, saved: SavedStatistics) -> None:
    """Write statistics to one .npz file, whole or not at all.

    Symmetric matrices are stored as their upper triangle, in float64: loading gives back equal arrays.
    """
    arrays: dict[str, Any] = {}
    for index, statistics in enumerate(saved.layers.values()):
        matrices = {f"strip{axis}": strip for axis, strip in enumerate(statistics.strips)}
        if statistics.covariance is not None:
            matrices["covariance"] = statistics.covariance
        arrays[f"{index}/mean"] = statistics.mean
        arrays |= {f"{index}/{key}": matrix[np.triu_indices(len(matrix))] for key, matrix in matrices.items()}
    header = {
        "version": VERSION,
        "provenance": dict(saved.provenance),
        "layers": [
            {"name": name, "count": s.count, "strips": len(s.strips), "full": s.covariance is not None}
            for name, s in saved.layers.items()
        ],
    }
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), **arrays)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load_statistics(path: Path) -> SavedStatistics:
    """Read what `save_statistics` wrote.

    Raises:
        FormatError: the file is missing, is something else, or of a later version.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            if header["version"] > VERSION:
                raise FormatError(
                    f"{path}: statistics of version {header['version']}; this twofold reads up to {VERSION}"
                )
            layers = {
                entry["name"]: _layer(file, index, entry) for index, entry in enumerate(header["layers"])
            }
            return SavedStatistics(MappingProxyType(layers), MappingProxyType(header["provenance"]))
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file") from None
    except (KeyError, TypeError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path}: not a statistics file of twofold ({error}); calibrate again") from error


def _layer(file: Any, index: int, entry: dict[str, Any]) -> LayerStatistics:
    strips = tuple(_symmetric(file[f"{index}/strip{axis}"]) for axis in range(entry["strips"]))
    covariance = _symmetric(file[f"{index}/covariance"]) if entry["full"] else None
    return LayerStatistics(entry["count"], file[f"{index}/mean"], covariance, strips)


def _symmetric(triangle: Any) -> Any:
    n = (int(np.sqrt(8 * len(triangle) + 1)) - 1) // 2
    matrix = np.empty((n, n))
    matrix[np.triu_indices(n)] = triangle
    lower = np.tril_indices(n, -1)
    matrix[lower] = matrix.T[lower]
    return matrix
