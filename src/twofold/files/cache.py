"""A folder of results by the hash of what they depend on: any process may read, write and lose entries.

Every entry is one `.npz` file: a header of JSON and arrays of numbers, no pickles. It appears whole or not at
all. Nothing here may stop a run: what cannot be read is missing, what cannot be written is left out, and one
note tells why.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..codec import strict_json
from ..errors import FormatError, OutputError, option
from ..progress import LINES, note
from ..system import exists, reading
from .arrays import read_npz
from .atomic import commit

_log = logging.getLogger(__name__)
#: Names the folder; empty for no cache at all.
FOLDER_VARIABLE = "TWOFOLD_CACHE"
#: Bytes that entries may take where nothing else is said.
LIMIT = 4 << 30
#: Entries go, those first that were not used for longest, until so much of the limit is left.
_KEPT = 0.9
_NAME = re.compile(r"([a-z]+)-[0-9a-f]{64}\.npz")


def cache_folder() -> Path | None:
    """Where results are cached; None where the user wants none, or has no home directory."""
    moved = os.environ.get(FOLDER_VARIABLE)
    if moved is not None:
        return Path(moved) if moved else None
    import platformdirs  # noqa: PLC0415 - planning by MACs loads with numpy and scipy alone

    folder = platformdirs.user_cache_path("twofold")
    # Without a home directory the path would be one in the working directory, named "~".
    return folder / "results" if folder.is_absolute() else None


@dataclass(frozen=True)
class Entry:
    """A result.

    Attributes:
        header: plain JSON values.
        arrays: by name.
    """

    header: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """The file of an entry.

    Attributes:
        path: the file.
        piece: what kind of result it is.
        size: its bytes.
        used: when it was last read or written, in seconds of the clock.
    """

    path: Path
    piece: str
    size: int
    used: float


class Cache:
    """Entries in a folder, up to a size."""

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        """Use a folder; it is made when something is written.

        Args:
            folder: whatever else is in it stays.
            limit: bytes that entries may take.
        """
        self.folder, self.limit = folder, limit
        self._writes, self._size = True, -1
        self._lock = Lock()

    def get(self, piece: str, key: str) -> Entry | None:
        """An entry; None where there is none, or none that can be read.

        Args:
            piece: what kind of result it is, in lower-case letters.
            key: sha256 in hexadecimal.
        """
        path = self._path(piece, key)
        try:
            with reading(path, "a cached result"):
                size = path.stat().st_size
                arrays = read_npz(path, None, partial(_within, size))
                if "header" not in arrays:
                    raise ValueError("it has no header")
                header = strict_json(str(arrays.pop("header")), "header")
        except FormatError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                _tell(f"{error}; what it held is computed again")
            return None
        with suppress(OSError):  # a folder that others keep for reading
            os.utime(path)
        return Entry(header, arrays)

    def has(self, piece: str, key: str) -> bool:
        """Whether there is an entry, readable or not."""
        try:
            return exists(self._path(piece, key))
        except FormatError:  # a folder that may not be searched
            return False

    def put(self, piece: str, key: str, entry: Entry) -> None:
        """Keep an entry, over an older one; where that is not possible, a note tells why, once."""
        size = sum(array.nbytes for array in entry.arrays.values())
        if not self._writes or size > self.limit:
            return
        arrays: dict[str, Any] = {"header": np.array(json.dumps(entry.header)), **entry.arrays}

        def write(stream: BinaryIO) -> None:
            np.savez(stream, **arrays)

        try:
            with self._lock:
                self._make_room(size)
                commit({self._path(piece, key): write}, force=True)
        except OutputError as error:
            self._writes = False
            off = option("cache=False", "--no-cache")
            _tell(f"results are not cached, so another run starts again ({off} ends this note): {error}")

    def entries(self) -> Iterator[Stored]:
        """All that is stored, in no order."""
        with suppress(OSError), os.scandir(self.folder) as found:
            for one in found:
                match = _NAME.fullmatch(one.name)
                with suppress(OSError):
                    if match and one.is_file(follow_symlinks=False):
                        status = one.stat(follow_symlinks=False)
                        yield Stored(Path(one.path), match[1], status.st_size, status.st_mtime)

    def clear(self) -> tuple[Path, ...]:
        """Remove all entries; gives their files.

        Raises:
            OutputError: one cannot be removed.
        """
        paths = tuple(sorted(one.path for one in self.entries()))
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(f"{path}: cannot be removed ({error.strerror})") from error
        return paths

    def _path(self, piece: str, key: str) -> Path:
        return self.folder / f"{piece}-{key}.npz"

    def _make_room(self, size: int) -> None:
        """Remove what was not used for longest where the limit would be passed."""
        if self._size < 0 or self._size + size > self.limit:
            found = sorted(self.entries(), key=lambda one: one.used)
            self._size = sum(one.size for one in found)
            if self._size + size > self.limit:
                for one in found:
                    if self._size + size <= _KEPT * self.limit:
                        break
                    with suppress(OSError):  # another process was quicker, or has it open
                        one.path.unlink()
                        self._size -= one.size
        self._size += size


def _within(size: int, taken: int) -> None:
    if taken > size:
        raise ValueError(f"its arrays take {taken} bytes, and the file has {size}")


def _tell(text: str) -> None:
    if LINES.get():
        note(text)
    else:
        _log.warning(text)
