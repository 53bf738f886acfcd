"""Files as they were read. What is written later comes from those bytes, or nothing is written.

A file that is mapped into memory shows what others do to it: changed values under an old hash, and the end
of the process (SIGBUS) where it got shorter. So nothing is mapped: most files are read as a whole, and those
that stay on disk are hashed when they are opened, and again before anything takes its name.
"""

from __future__ import annotations

import copy
import hashlib
import os
import stat
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from ..errors import FormatError, OutputError
from ..progress import track

_PIECE = 1 << 20  # bytes that are hashed at a time


class Source:
    """A file of a model, or of data, as it was read.

    Attributes:
        path: the file.
        size: its bytes.
        content: all of it; None where it stays on disk, or is kept in another form.
        held: whether it is in memory, and the file is not read again.
    """

    def __init__(self, path: Path, status: os.stat_result, content: bytes | None) -> None:
        self.path, self.size, self.content, self.held = path, status.st_size, content, content is not None
        self._identity, self._sha256 = (status.st_dev, status.st_ino), ""

    @cached_property
    def sha256(self) -> str:
        """The hash of what was read, in hexadecimal."""
        return self._sha256 or hashlib.sha256(self.content or b"").hexdigest()

    def parsed(self) -> Source:
        """The same for something that keeps the content in another form."""
        source = copy.copy(self)
        source._sha256, source.content = self.sha256, None
        return source

    def reject_changed(self, *, needed: bool | None = None) -> None:
        """Reject to go on where the file holds other bytes than were read.

        Args:
            needed: it is read again; by default unless it is held. Where it is not, another file in its place
                does no harm, such as a result that was written over its input; one that was changed in place
                is named all the same.

        Raises:
            OutputError: it holds other bytes, or it is needed and gone.
        """
        needed = not self.held if needed is None else needed
        try:
            with self.path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                same = (status.st_dev, status.st_ino) == self._identity
                if not stat.S_ISREG(status.st_mode) or not (same or needed):
                    return
                found = status.st_size == self.size and _hash(stream, self) == self.sha256
        except OSError as error:
            if needed:
                raise OutputError(
                    f"{self.path}: is gone: {error.strerror or error}; nothing was written"
                ) from error
            return
        if not found:
            raise OutputError(
                f"{self.path}: was changed while it was in use; nothing was written; run again once it stays "
                "as it is"
            )


def read_source(path: Path, most: int | None = None) -> Source:
    """Read a file as a whole.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        OSError: the system rejects.
        FormatError: it is larger than `most`, or changes while it is read.
    """
    with path.open("rb") as stream:
        before = os.fstat(stream.fileno())
        if most is not None and before.st_size > most:
            raise FormatError(f"{path}: has {before.st_size} bytes, and such a file has at most {most}")
        content = stream.read()
        after = os.fstat(stream.fileno())
    if stat.S_ISREG(before.st_mode) and (_state(before) != _state(after) or len(content) != after.st_size):
        raise FormatError(f"{path}: was changed while it was read; run again once it stays as it is")
    return Source(path, after, content)


def read_head(path: Path, size: int = 4096) -> bytes:
    """The first bytes of a file; none of what can be read but once, such as a pipe.

    Raises:
        OSError: the system rejects.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        return b""
    with path.open("rb") as stream:
        return stream.read(size)


def hashed_source(path: Path) -> Source:
    """A file that stays on disk and is read where it is needed.

    Raises:
        OSError: the system rejects.
        FormatError: it changes while it is hashed.
    """
    with path.open("rb") as stream:
        before = os.fstat(stream.fileno())
        source = Source(path, before, None)
        source._sha256 = _hash(stream, source)
        if _state(before) != _state(os.fstat(stream.fileno())):
            raise FormatError(f"{path}: was changed while it was read; run again once it stays as it is")
    return source


def reject_changed(model: object) -> None:
    """Reject to write what was made of a model whose files have changed since.

    Raises:
        OutputError: a file has; it names it.
    """
    for source in sources_of(model):
        source.reject_changed()


def sources_of(model: object) -> tuple[Source, ...]:
    """The files that a model was read from; none for one that was never in files."""
    return tuple(getattr(model, "read", ()))


def sizes_of(models: Iterable[object]) -> list[int]:
    """The bytes of the files of models, which bound those of what is made of them."""
    return [source.size for model in models for source in sources_of(model)]


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _hash(stream: BinaryIO, source: Source) -> str:
    found = hashlib.sha256()
    pieces = -(-source.size // _PIECE)
    for piece in track(iter(lambda: stream.read(_PIECE), b""), f"hashing {source.path.name}", pieces):
        found.update(piece)
    return found.hexdigest()
