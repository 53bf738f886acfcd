"""The two formats in which Caffe keeps snapshots: protobuf and HDF5.

Source: BVLC Caffe 1.0, `Net::ToHDF5`, `SGDSolver::SnapshotSolverStateToHDF5`, `util/hdf5.cpp`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import FormatError, OptionError
from ..files.hdf5 import h5py_for, open_hdf5
from ..formats.caffe.caffemodel import NewLayer, create_weights
from ..formats.sniff import is_hdf5
from .snapshot import Snapshot, parse_state

Write = Callable[[BinaryIO], None]


@dataclass(frozen=True)
class Storage:
    """How snapshots are written.

    Attributes:
        weights: ending of the file of weights.
        state: ending of the file of the solver's state.
        write_weights: from layers and the net's name to what writes the file.
        write_state: from a state to what writes the file.
        check: raises OptionError where layers of these names cannot be stored.
    """

    weights: str
    state: str
    write_weights: Callable[[Sequence[NewLayer], str], Write]
    write_state: Callable[[Snapshot], Write]
    check: Callable[[Sequence[str]], None] = lambda names: None


def read_state(path: str | Path) -> Snapshot:
    """Read a `.solverstate` of either format.

    Raises:
        FormatError: it cannot be read, or is no solver state.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: cannot read the solver state: {error.strerror or error}") from error
    return _read_hdf5(Path(path)) if is_hdf5(content) else parse_state(memoryview(content), path)


def _h5py() -> Any:
    return h5py_for("snapshots in HDF5", "caffe-train")


def _hdf5(fill: Callable[[Any], None]) -> Write:
    """What writes an HDF5 file; it is built in memory, as HDF5 writes back and forth."""
    h5py = _h5py()

    def write(stream: BinaryIO) -> None:
        scratch = BytesIO()
        with h5py.File(scratch, "w") as file:
            fill(file)
        stream.write(scratch.getbuffer())

    return write


def _hdf5_weights(layers: Sequence[NewLayer], name: str) -> Write:
    # Caffe stores a shared blob with its owner alone; it also reads files where every sharer has a copy.
    def fill(file: Any) -> None:
        data = file.create_group("data")
        for layer in layers:
            group = data.create_group(layer.name)
            for index, blob in enumerate(layer.blobs):
                group.create_dataset(str(index), data=np.asarray(blob, np.float32))

    return _hdf5(fill)


def _hdf5_state(snapshot: Snapshot) -> Write:
    def fill(file: Any) -> None:
        file.create_dataset("iter", data=np.array([snapshot.iteration], np.int32))
        # Caffe reads up to a zero byte.
        name = snapshot.learned_net.encode("utf-8", "surrogateescape")
        file.create_dataset("learned_net", data=np.array(name, f"S{len(name) + 1}"))
        file.create_dataset("current_step", data=np.array([snapshot.current_step], np.int32))
        history = file.create_group("history")
        for index, array in enumerate(snapshot.history):
            history.create_dataset(str(index), data=array)

    return _hdf5(fill)


def _read_hdf5(path: Path) -> Snapshot:
    try:
        with open_hdf5(_h5py(), path) as file:
            history = file["history"]
            return Snapshot(
                int(file["iter"][0]),
                bytes(file["learned_net"][()]).rstrip(b"\0").decode("utf-8", "surrogateescape"),
                tuple(np.asarray(history[str(i)][()], np.float32) for i in range(len(history))),
                int(file["current_step"][0]),
            )
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, IndexError) as error:
        raise FormatError(f"{path}: not a solver state in HDF5, or damaged: {error}") from error


def _reject_slashes(names: Sequence[str]) -> None:
    for name in names:
        if "/" in name:
            raise OptionError(
                f"snapshot_format HDF5 cannot hold a layer named {name!r}, as it takes slashes for folders; "
                "write 'snapshot_format: BINARYPROTO'"
            )


#: By the solver's `snapshot_format`.
STORAGES = {
    "BINARYPROTO": Storage(
        ".caffemodel",
        ".solverstate",
        lambda layers, name: create_weights(layers, name).write,
        lambda snapshot: snapshot.write,
    ),
    "HDF5": Storage(".caffemodel.h5", ".solverstate.h5", _hdf5_weights, _hdf5_state, _reject_slashes),
}
