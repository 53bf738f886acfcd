"""What cannot be written is found before the work: one place that asks the system, for every command."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import OptionError, OutputError, option
from .locks import claimed, locked
from .recovery import recover, recover_locked
from .signals import unwinding

#: Bytes of a name and of a path where the system does not say.
_NAME_MAX, _PATH_MAX = 255, 4096
#: Bytes that the names of hidden files beside a target take.
_HIDDEN = 96


def output_path(given: str | os.PathLike[str], what: str = "the output") -> Path:
    """A path that was given for something to write.

    Raises:
        OptionError: it is empty, which `Path` takes for the working directory, or has a zero byte.
    """
    text = os.fspath(given)
    if not text or "\0" in text:
        found = "holds a zero byte" if text else "is empty"
        raise OptionError(
            f"{what}: the path {text!r} {found}; name a file or folder ('.' is the working one)"
        )
    return Path(text)


def reject_existing(files: Collection[Path]) -> None:
    """Reject early what `commit` would reject after the work, whatever the new content will be.

    Raises:
        OutputError: Some of the files exist.
    """
    existing = [path for path in files if _exists(path)]
    if existing:
        names = ", ".join(map(str, existing))
        raise OutputError(f"{names}: exists already and is not overwritten without {option('force=True')}")


def is_missing(path: Path) -> bool:
    """Whether there is no file yet where one is to be read or else written.

    Raises:
        OutputError: the system does not even look there.
    """
    return not _exists(path)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error


def preflight(files: Collection[Path], *, force: bool = True, sizes: Sequence[int] = ()) -> None:
    """Ask whether files can be written, before the work that they come from.

    Args:
        files: what will be written; folders may be missing.
        force: files that exist are no obstacle.
        sizes: how many bytes single files may have, as far as that is known.

    Raises:
        OutputError: a name is too long, a folder cannot be written, something else is in a file's place, the
            disk has too little space, or files exist and `force` is false; nothing was changed.
    """
    places: dict[Path, Path] = {}  # existing folder -> the first file that goes there
    for path in files:
        try:
            target = Path(os.path.realpath(path))
            reject_irregular(path, target)
            folder = _existing(target.parent)
            _reject_long(target, folder)
            places.setdefault(folder, path)
        except (OSError, ValueError) as error:
            raise unwritable(path, error) from error
    if not force:
        reject_existing(files)
    for folder, path in places.items():
        try:
            _try(folder, max(sizes, default=0))
            free = shutil.disk_usage(folder).free
            if sum(sizes) > free:
                raise OutputError(
                    f"{path}: too little space: up to {_megabytes(sum(sizes))} will be written, and "
                    f"{_megabytes(free)} are free there; make room, or name another folder"
                )
        except OSError as error:
            raise unwritable(path, error) from error


@contextmanager
def reserved(files: Collection[Path], *, force: bool = True, sizes: Sequence[int] = ()) -> Iterator[None]:
    """Preflight, and keep other processes from the same files until the work is done.

    Folders that are missing are made, and removed again where nothing came into them.

    Raises:
        OutputError: as `preflight`, or another process is at work on one of the files.
    """
    # Of the processes of torchrun only the first writes: a folder that another made would not be removed, and
    # one that another looks at may be removed meanwhile.
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    preflight(files, force=force, sizes=sizes)
    with unwinding(), ExitStack() as stack:
        for path in files:
            target = Path(os.path.realpath(path))
            try:
                _make(target.parent, stack)
                recover(target.parent)
                stack.enter_context(claimed(target))
            except OSError as error:
                raise unwritable(path, error) from error
        yield


def _make(folder: Path, stack: ExitStack) -> None:
    missing = [folder, *folder.parents]
    missing = missing[: missing.index(_existing(folder))]
    for path in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(path)
            stack.callback(_remove_empty, path)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    while not folder.is_dir():
        if os.path.lexists(folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        folder = folder.parent
    return folder


def reject_irregular(given: Path, target: Path) -> None:
    """Reject to write over what is no file.

    Raises:
        OutputError: there is a folder, a device or a pipe.
    """
    if target.exists() and not target.is_file():
        what = "a folder" if target.is_dir() else "not a regular file"
        raise OutputError(f"{given}: cannot write there, it is {what}")


def _reject_long(target: Path, existing: Path) -> None:
    """Reject names that the system will, also in folders that are missing, where it cannot be asked."""
    longest = _NAME_MAX
    with suppress(OSError, AttributeError, ValueError):
        longest = os.pathconf(existing, "PC_NAME_MAX")
    for name in target.relative_to(existing).parts:
        if len(os.fsencode(name)) > longest:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if len(os.fsencode(target)) + _HIDDEN > _PATH_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def _try(folder: Path, size: int) -> None:
    """Make a file in a folder, as large as one will be, and remove it.

    A kill leaves it there. The folder may be above the one that is written, into which alone a commit looks,
    so what an earlier kill left is removed here.
    """
    path = folder / f".twofold-{secrets.token_hex(8)}-new0"
    # Without the lock a recovery there takes the file for litter while it is in use.
    with locked([folder], wait=True) as mine:
        for one in mine:
            recover_locked(one)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if size:
                os.ftruncate(
                    descriptor, size
                )  # takes no space, but knows limits of a process and of old disks
        finally:
            os.close(descriptor)
            os.unlink(path)


def unwritable(path: object, error: OSError | ValueError) -> OutputError:
    """What a system says against writing, as one line."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return OutputError(f"{path}: cannot write: {reason}; nothing was changed")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.3g} MB" if size < 1e12 else f"{size / 1e12:.3g} TB"
