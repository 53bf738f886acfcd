"""Folders for what other libraries can do with files alone. The next run removes what a kill leaves."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .locks import take
from .signals import unwinding

_NAME = re.compile(r"twofold-(\d+)-.*", re.DOTALL)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder of this process alone, which goes with the context.

    Libraries make their own temporary folders in it, too, as long as it is there.
    """
    sweep(Path(tempfile.gettempdir()))
    with unwinding(), ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"twofold-{os.getpid()}-"))
        with suppress(OSError):  # no locks here: the number of the process has to do
            take(_opened(Path(name), stack), wait=False)
        before, tempfile.tempdir = tempfile.tempdir, name
        try:
            yield Path(name)
        finally:
            tempfile.tempdir = before


def sweep(place: Path) -> None:
    """Remove the folders that processes which are gone have left in a place."""
    try:
        entries = list(os.scandir(place))
    except OSError:
        return
    for entry in entries:
        match = _NAME.fullmatch(entry.name)
        with suppress(OSError):
            if match and _mine(entry) and not _runs(int(match[1])) and _free(Path(entry.path)):
                shutil.rmtree(entry.path, ignore_errors=True)


def _mine(entry: os.DirEntry[str]) -> bool:
    own = not hasattr(os, "getuid") or entry.stat(follow_symlinks=False).st_uid == os.getuid()
    return own and entry.is_dir(follow_symlinks=False)


def _runs(process: int) -> bool:
    """Whether there is such a process, or none can tell."""
    if os.name != "posix":
        return True  # there, asking would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _free(folder: Path) -> bool:
    """Whether no process holds a folder; the number of one in another container means nothing here."""
    with ExitStack() as stack:
        try:
            take(_opened(folder, stack), wait=False)
        except OSError:
            return False
        return True


def _opened(folder: Path, stack: ExitStack) -> int:
    """A file to lock; not the folder itself, which a commit to it locks."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(folder / ".held", flags, 0o600)
    stack.callback(os.close, descriptor)
    return descriptor
