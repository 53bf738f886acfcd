"""What every format offers: the `Model` protocol, and atomic writing of several files as one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

from ..conv import ConvLayer, Factors, Skipped
from ..files.atomic import commit, recover
from ..files.preflight import is_missing, output_path, preflight, reject_existing, reserved
from ..files.source import reject_changed, sizes_of
from ..progress import track
from .graph import NetGraph

__all__ = [
    "Model",
    "commit",
    "digest",
    "is_missing",
    "output_path",
    "preflight",
    "recover",
    "reject_changed",
    "reject_existing",
    "reserved",
    "sizes_of",
]

_PIECE = 1 << 20  # bytes that are hashed at a time

Self = TypeVar("Self", bound="Model")


class Model(Protocol):
    """A model in memory, whatever its format. Editing gives a new one; nothing is written before `save`."""

    #: Name of its format in `backends`.
    format: ClassVar[str]

    @property
    def replaced(self) -> Mapping[str, tuple[str, ...]]:
        """Name of each convolution that was replaced -> the names of the convolutions of its stack."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about its files but does no harm."""

    def convolutions(self) -> tuple[ConvLayer | Skipped, ...]:
        """All convolutions in the model's order; those that cannot be replaced as `Skipped`."""

    def graph(self) -> NetGraph:
        """Its structure, for showing it.

        Raises:
            ModelError: it cannot be opened.
        """

    def sources(self) -> dict[str, str]:
        """The sha256 of each of its files, by file name."""

    def replace(self: Self, factors: Mapping[str, Factors]) -> Self:
        """Put stacks of convolutions in the place of layers, by name."""

    def targets(self, folder: Path) -> tuple[Path, ...]:
        """The files that `save_to` writes into a folder, but for `extra`."""

    def save_to(
        self: Self, folder: Path, *, force: bool, extra: Mapping[Path, bytes], check: Callable[[Self], None]
    ) -> tuple[Path, ...]:
        """Write its files into a folder under their own names, with `extra` files; gives all paths."""


def digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        pieces = -(-path.stat().st_size // _PIECE)
        for piece in track(iter(lambda: stream.read(_PIECE), b""), f"hashing {path.name}", pieces):
            found.update(piece)
    return found.hexdigest()
