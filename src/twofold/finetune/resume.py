"""What a snapshot needs beyond Caffe's files so that a training goes on as if it had never stopped.

It lies beside them as `PREFIX_iter_N.resume`, written by torch; Caffe's files stay as Caffe knows them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..caffe_torch import CaffeNet
from ..errors import FormatError
from ..files.atomic import recover
from ..system import is_dir

SUFFIX = ".resume"
_VERSION = 1

#: By layer, what it carries over from one pass to the next.
States = Mapping[str, tuple[Tensor, ...]]


@dataclass(frozen=True, eq=False)
class Progress:
    """Where a training stands.

    All that is random follows from the seed and the number of the iteration, so no generator's state is here.

    Attributes:
        seed: of the training.
        passes: batches that were trained with.
        test_passes: batches that each test net was tested with.
        losses: the last ones, for the displayed mean.
        states: per process, the states of recurrent layers.
        int8: the ranges of values, and how they are trained, where the net is trained in int8.
    """

    seed: int
    passes: int = 0
    test_passes: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()
    states: tuple[States, ...] = ()
    int8: Mapping[str, Any] = field(default_factory=dict)

    def write(self, stream: BinaryIO) -> None:
        """Write the file; made in memory, as torch says of a full disk that it is a bug of its own."""
        content = BytesIO()
        torch.save({"version": _VERSION, **asdict(self)}, content)
        stream.write(content.getbuffer())


def read_progress(path: Path) -> Progress:
    """Read the file.

    Raises:
        FormatError: it cannot be read.
    """
    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version = values.pop("version")
        progress = Progress(**values)
    except Exception as error:  # what torch raises for damaged files is not bounded
        raise FormatError(
            f"{path}: cannot be read, so the training would not go on as it began "
            f"({type(error).__name__}); remove it to go on from Caffe's files alone"
        ) from error
    if version != _VERSION:
        raise FormatError(
            f"{path}: version {version}, this twofold reads {_VERSION}; resume with the other one"
        )
    return progress


def states_of(net: CaffeNet) -> States:
    """What recurrent layers carry over to the next pass."""
    return {
        spec.name: tuple(tensor.detach().cpu() for tensor in state)
        for spec, layer in zip(net.definition.layers, net.layers, strict=True)
        if (state := getattr(layer, "state", None)) is not None
    }


def set_states(net: CaffeNet, states: States, device: torch.device) -> None:
    """Give recurrent layers what they carried over."""
    for name, state in states.items():
        layer: Any = net.layers[name]
        layer.state = tuple(tensor.to(device) for tensor in state)


def snapshots(prefix: Path) -> list[Path]:
    """The solver states of a prefix, the newest last.

    The time of writing counts, not the number: an older training of the same name may have got further.
    """
    if not is_dir(prefix.parent):
        return []
    recover(prefix.parent)
    pattern = re.compile(re.escape(prefix.name) + r"_iter_(\d+)\.solverstate(\.h5)?")
    found = [
        (path.stat().st_mtime_ns, int(match[1]), path)
        for path in prefix.parent.iterdir()
        if (match := pattern.fullmatch(path.name))
    ]
    return [path for _, _, path in sorted(found)]


def beside(state: Path) -> Path:
    """Where the progress of a solver state lies."""
    return state.with_name(state.name.removesuffix(".h5").removesuffix(".solverstate") + SUFFIX)
