"""Statistics on disk, so that a second plan needs no second calibration."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from twofold.calibration.gather import Statistics
from twofold.calibration.statistics import patch_size
from twofold.conv import ConvLayer, LayerStatistics
from twofold.errors import FormatError, InputError
from twofold.formats.base import commit, is_missing, reserved

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
        OutputError: the system refuses.
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
        if saved.layers[layer.name].mean.shape[-1] != patch_size(layer.geometry):
            raise InputError(f"{path}: {layer.name} had another shape; remove the file to gather anew")
    note = f"what layers see was read from {path}"
    return Statistics(
        dict(saved.layers), {k: v for k, v in saved.provenance.items() if k != "sources"}, (note,)
    )


def _layer(file: Any, index: int, entry: dict[str, Any]) -> LayerStatistics:
    kept = tuple(file[f"{index}/strip{axis}"] for axis in range(entry["strips"]))
    strips = kept if entry.get("diagonal") else tuple(map(_symmetric, kept))
    covariance = _symmetric(file[f"{index}/covariance"]) if entry["full"] else None
    gradient = _symmetric(file[f"{index}/gradient"]) if entry["gradient"] else None
    return LayerStatistics(
        entry["count"],
        file[f"{index}/mean"],
        covariance,
        strips,
        gradient,
        shrinkage=entry.get("shrinkage", 0.0),
    )


def _symmetric(triangle: Any) -> Any:
    n = (int(np.sqrt(8 * triangle.shape[-1] + 1)) - 1) // 2
    matrix = np.empty((*triangle.shape[:-1], n, n))
    matrix[(..., *np.triu_indices(n))] = triangle
    lower = np.tril_indices(n, -1)
    matrix[(..., *lower)] = matrix.swapaxes(-1, -2)[(..., *lower)]
    return matrix
