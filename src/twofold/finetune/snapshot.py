"""A solver's state in Caffe's own files: `.caffemodel` for the weights, `.solverstate` for the rest.

Source: BVLC Caffe 1.0, `caffe.proto` (SolverState) and `sgd_solver.cpp`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..formats.caffe.blob import WireBlob, new_blob
from ..formats.caffe.wire import LENGTH, VARINT, WireError, fields, length_field, signed, varint_field
from ..system import is_file

# SolverState in caffe.proto
_ITER, _LEARNED_NET, _HISTORY, _CURRENT_STEP = 1, 2, 3, 4

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What a `.solverstate` holds.

    Attributes:
        iteration: number of iterations that are done.
        learned_net: path of the weights, as it was written.
        history: the update rule's tensors, in the order of the net's learnable blobs; of rules with two per
            blob first all first ones, then all second ones.
        current_step: steps that the learning rate has taken.
    """

    iteration: int
    learned_net: str
    history: tuple[Float32, ...]
    current_step: int = 0

    def encode(self) -> bytes:
        """The bytes of the file, as Caffe writes them."""
        return b"".join(
            (
                varint_field(_ITER, self.iteration),
                length_field(_LEARNED_NET, self.learned_net.encode("utf-8", "surrogateescape")),
                *(length_field(_HISTORY, new_blob(array, "the solver's history")) for array in self.history),
                varint_field(_CURRENT_STEP, self.current_step),
            )
        )

    def write(self, stream: BinaryIO) -> None:
        """Write the file."""
        stream.write(self.encode())

    def weights_file(self, state: Path) -> Path:
        """Where the weights are: at the path that was written, or beside the state, if that has moved.

        Args:
            state: where the `.solverstate` is.

        Raises:
            FormatError: they are at neither place.
        """
        beside = state.parent / Path(self.learned_net).name
        for path in (Path(self.learned_net), beside):
            if is_file(path):
                return path
        raise FormatError(
            f"{state}: its weights {self.learned_net!r} are neither there nor beside it; put them at {beside}"
        )


def parse_state(buffer: memoryview, path: str | Path) -> Snapshot:
    """Read the bytes of a `.solverstate`.

    Raises:
        FormatError: they are no solver state.
    """
    numbers = {_ITER: 0, _CURRENT_STEP: 0}
    learned_net: str | None = None
    history: list[Float32] = []
    try:
        for field in fields(buffer, 0, len(buffer)):
            if field.number in numbers and field.wire == VARINT:
                numbers[field.number] = signed(field.value)
            elif field.number == _LEARNED_NET and field.wire == LENGTH:
                learned_net = bytes(buffer[field.body : field.end]).decode("utf-8", "surrogateescape")
            elif field.number == _HISTORY and field.wire == LENGTH:
                where = f"{path}: history {len(history)}"
                history.append(WireBlob(buffer, field.body, field.end, 1, where).array())
    except WireError as error:
        raise FormatError(f"{path}: not a solver state, truncated or damaged: {error}") from error
    if learned_net is None:
        raise FormatError(f"{path}: no solver state, it names no weights; is it a caffemodel?")
    return Snapshot(numbers[_ITER], learned_net, tuple(history), numbers[_CURRENT_STEP])


def check_history(snapshot: Snapshot, shapes: Sequence[tuple[int, ...]], where: Path) -> None:
    """Raise FormatError where the history is not of these shapes."""
    found = [array.shape for array in snapshot.history]
    if found != list(shapes):
        raise FormatError(
            f"{where}: its history is {len(found)} blobs, {_some(found)}, the net and solver need "
            f"{len(shapes)}, {_some(shapes)}; it is of another net or solver type"
        )


def _some(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(str(list(shape)) for shape in shapes[:3]) + (" and so on" if len(shapes) > 3 else "")
