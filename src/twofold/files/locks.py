"""Locks between processes, which a dead process holds none of.

`locked` is for the moments in which a folder's files change places. `claimed` is for the whole of a command's
work on one file: a second command that would write the same one ends before its own work begins.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import OutputError

#: What a system says of a lock that somebody else holds.
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_PAUSE = 0.05  # seconds between two tries, where a system cannot wait

#: Names that this process has claimed, and how often: commands call functions that claim the same.
_claims: dict[Path, int] = {}
_claims_lock = threading.Lock()


def _module(name: str) -> Any:
    """A module that only some systems have, or None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def take(descriptor: int, *, wait: bool) -> None:
    """Lock an open file until it is closed.

    Raises:
        OSError: somebody else holds it (`BlockingIOError`), or there are no locks here.
    """
    fcntl = _module("fcntl")
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return
    msvcrt = _module("msvcrt")
    if msvcrt is None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    while True:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno not in _HELD:
                raise
            if not wait:
                raise BlockingIOError(error.errno, error.strerror) from error
            time.sleep(_PAUSE)
        else:
            return


@contextmanager
def locked(folders: Sequence[Path], *, wait: bool) -> Iterator[list[Path]]:
    """Lock folders; gives those that could be locked. Give them in sorted order, against deadlocks.

    The lock is on the folder itself, so that none is left behind; on a file in it where a system cannot open
    folders.
    """
    with ExitStack() as stack:
        mine = []
        for folder in folders:
            descriptor = _open_folder(folder, stack)
            # A file system without locks (some network shares): no recovery there, everything else works.
            with suppress(OSError):
                take(descriptor, wait=wait)
                mine.append(folder)
        yield mine


def _open_folder(folder: Path, stack: ExitStack) -> int:
    """Something to lock a folder by; it is closed with the stack."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    else:
        place = folder / ".twofold-lock"
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT)
        stack.callback(_remove, place)  # fails while another process has it open, and that one tries again
    stack.callback(os.close, descriptor)
    return descriptor


def _remove(path: Path) -> None:
    with suppress(OSError):
        os.unlink(path)


def abandoned(path: Path) -> bool:
    """Whether nobody holds the claim that a hidden file stands for; the folder is locked."""
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return os.path.islink(path)
    try:
        take(descriptor, wait=False)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextmanager
def claimed(target: Path) -> Iterator[None]:
    """Keep other processes from writing a file, from now until the work on it is done.

    Args:
        target: the file, by its real path; its folder exists.

    Raises:
        OutputError: another process has it.
    """
    with _claims_lock:
        first = not _claims.get(target)
        _claims[target] = _claims.get(target, 0) + 1
    try:
        if not first:
            yield
            return
        descriptor, place = _claim(target)
        try:
            yield
        finally:
            if descriptor is not None:
                _release(descriptor, place)
    finally:
        with _claims_lock:
            _claims[target] -= 1
            if not _claims[target]:
                del _claims[target]


def claim_file(target: Path) -> Path:
    """The hidden file that stands for a claim."""
    name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
    return target.parent / f".twofold-{name}-lock"


def _claim(target: Path) -> tuple[int | None, Path]:
    place = claim_file(target)
    # Made, taken and removed under the folder's lock: nobody takes one that is about to go.
    with locked([target.parent], wait=True) as mine:
        if not mine:
            return None, place
        if os.path.islink(place):
            os.unlink(place)
        try:
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError:  # what a kill left of somebody else's
            return None, place
        try:
            take(descriptor, wait=False)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _HELD:
                return None, place
            raise OutputError(
                f"{target.parent}: another twofold is at work on {target.name} there; wait until it is done, "
                "or name another folder"
            ) from None
    return descriptor, place


def _release(descriptor: int, place: Path) -> None:
    with suppress(OSError), locked([place.parent], wait=True):
        _remove(place)
    os.close(descriptor)
