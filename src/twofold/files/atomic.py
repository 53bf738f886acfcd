"""Several files that appear together or not at all, whatever happens in between.

How. Every file is written under a hidden name in its target's folder, flushed, and checked. One file is then
renamed into place, which is atomic. For several files a journal that lists the renames is put into the
folder, by a rename itself; it is the point where the commit is decided:

- before it exists, the targets are untouched, and hidden files are litter;
- while it exists, each new content has exactly one place, its hidden name or its target, so that the renames
  which are still open can be carried out at any moment and any number of times (`recover`);
- an error that Python survives undoes the renames by renaming back, then removes the journal: the last step
  is again the one that decides.

Folders that take part in one commit have a journal each, of their own files only, and the first folder's
decides for all. A journal names no file outside its folder, so a downloaded folder cannot make `recover`
touch others. A lock on the folder keeps two processes from taking each other's hidden files for litter.

What is not covered: someone who reads the targets during the renames of a living commit may see one file new
and the other old.
"""

from __future__ import annotations

import filecmp
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import OutputError
from .locks import locked
from .preflight import reject_existing, reject_irregular, unwritable
from .recovery import Journal, recover, recover_locked, sync_folder
from .signals import Stopped, unwinding

__all__ = ["commit", "hidden_file", "recover"]

Write = Callable[[BinaryIO], None]

_BINARY = getattr(os, "O_BINARY", 0)  # Windows would translate line ends


def commit(
    files: Mapping[Path, Write],
    *,
    force: bool,
    check: Callable[[Mapping[Path, Path]], None] | None = None,
) -> None:
    """Write all files or none.

    Folders that are missing are made, and removed again if the commit fails. A target that is a symbolic link
    stays one: the file that it points to is exchanged. An exchanged file keeps its permissions, and whoever
    has the old one open or mapped keeps seeing it, so a result may be written over its own input.
    SIGTERM and SIGHUP end the process only after the hidden files are gone, where they would end it at once.

    Args:
        files: target -> what writes its content into a stream, which can also be read and sought.
        force: exchange files that exist with another content; those that exist with the same are no obstacle.
        check: gets target -> where its content is now, before anything is in place; what it raises stops the
            commit. It must not commit to the same folders itself.

    Raises:
        OutputError: Files exist with another content and `force` is false, or the system rejects; the targets
            are as they were.
    """
    made: list[Path] = []
    with unwinding():
        try:
            slots = _slots(files)
            folders = sorted({slot.target.parent for slot in slots})
            for folder in folders:
                _make_folder(folder, made)
            with locked(folders, wait=True) as mine:
                for folder in mine:
                    recover_locked(folder)
                for slot in slots:
                    reject_irregular(slot.given, slot.target)
                _Transaction(slots, force=force).run(check)
        except BaseException as error:
            for folder in reversed(made):
                with suppress(OSError):  # someone put something there
                    folder.rmdir()
            if isinstance(error, OSError):
                raise unwritable(error.filename or ", ".join(map(str, files)), error) from error
            raise


@dataclass(frozen=True)
class _Slot:
    """One file of a commit: the name the caller gave, its target, and its two hidden names."""

    given: Path
    target: Path
    new: Path
    old: Path
    write: Write


def _slots(files: Mapping[Path, Write]) -> list[_Slot]:
    token = secrets.token_hex(8)
    slots: list[_Slot] = []
    for index, (given, write) in enumerate(files.items()):
        target = Path(os.path.realpath(given))
        if any(slot.target == target for slot in slots):
            raise OutputError(f"{given}: two results cannot be the same file")
        suffix = target.suffix if len(target.suffix) <= 32 else ""  # readers may go by it
        hidden = target.parent / f".twofold-{token}"
        slots.append(
            _Slot(given, target, Path(f"{hidden}-new{index}{suffix}"), Path(f"{hidden}-old{index}"), write)
        )
    return slots


def _same_content(slot: _Slot) -> bool:
    """Whether the target is there already, byte for byte."""
    if not slot.target.exists() or slot.target.stat().st_size != slot.new.stat().st_size:
        return False
    return filecmp.cmp(slot.target, slot.new, shallow=False)


@contextmanager
def hidden_file(folder: Path, content: bytes, suffix: str) -> Iterator[Path]:
    """A file for the `check` of a commit to that folder, which removes it; after a kill the next one does."""
    path = folder / f".twofold-{secrets.token_hex(8)}-new0{suffix}"
    try:
        with path.open("xb") as stream:
            stream.write(content)
        yield path
    finally:
        with suppress(OSError):
            os.unlink(path)


class _Transaction:
    """Writes, checks and moves the files of one commit; the caller holds the folders' locks."""

    def __init__(self, slots: Sequence[_Slot], *, force: bool) -> None:
        self._slots = slots
        self._force = force
        self._folders = list(dict.fromkeys(slot.target.parent for slot in slots))
        token = slots[0].new.name.split("-")[1] if slots else ""
        self._journals = [folder / f".twofold-{token}-journal" for folder in self._folders]

    def run(self, check: Callable[[Mapping[Path, Path]], None] | None) -> None:
        try:
            for slot in self._slots:
                self._fill(slot)
            if not self._force:
                reject_existing(
                    [slot.given for slot in self._slots if slot.target.exists() and not _same_content(slot)]
                )
            if check is not None:
                check({slot.given: slot.new for slot in self._slots})
            if len(self._slots) == 1:
                os.replace(self._slots[0].new, self._slots[0].target)
                sync_folder(self._folders[0])
            elif self._slots:
                self._move_all()
            self._sweep()
        except BaseException:
            try:
                self._undo()
            except (KeyboardInterrupt, Stopped):
                self._undo()  # it goes by what it finds, so it can be begun again
                raise
            raise

    @staticmethod
    def _fill(slot: _Slot) -> None:
        try:
            descriptor = os.open(slot.new, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
            with os.fdopen(descriptor, "w+b") as stream:
                if slot.target.exists() and hasattr(os, "fchmod"):
                    os.fchmod(descriptor, stat.S_IMODE(slot.target.stat().st_mode))
                slot.write(stream)
                stream.flush()
                os.fsync(descriptor)
        except OSError as error:
            error.filename = str(slot.given)  # not the hidden name
            raise

    def _move_all(self) -> None:
        # The first folder's journal decides, so it comes last, and goes first.
        for journal in reversed(self._journals):
            self._journal(journal).write(journal)
        for slot in self._slots:
            _keep_old(slot)
            os.replace(slot.new, slot.target)
        for folder in self._folders:
            sync_folder(folder)
        os.unlink(self._journals[0])

    def _journal(self, path: Path) -> Journal:
        folder, first = path.parent, self._journals[0]
        needed_by = self._journals[1:] if path == first else []
        return Journal(
            os.path.relpath(first, folder),
            tuple(os.path.relpath(other, folder) for other in needed_by),
            tuple((s.new.name, s.target.name) for s in self._slots if s.target.parent == folder),
        )

    def _undo(self) -> None:
        """Give the targets their old content, whatever had been done; what the file system says counts.

        If this fails too, the deciding journal stays, and `recover` completes the commit instead.
        """
        if self._journals and self._journals[0].exists():
            try:
                self._move_back()
            except OSError as error:
                names = ", ".join(str(slot.given) for slot in self._slots)
                raise OutputError(
                    f"{names}: stopped half-way, and undoing it fails too: {error.strerror or error}; "
                    "the next load or save in that folder completes it"
                ) from error
        self._sweep()

    def _move_back(self) -> None:
        for slot in self._slots:
            if not slot.new.exists():
                os.replace(slot.target, slot.new)
            if slot.old.exists() and not slot.target.exists():
                os.replace(slot.old, slot.target)
        for folder in self._folders:
            sync_folder(folder)
        os.unlink(self._journals[0])

    def _sweep(self) -> None:
        """Remove hidden files; without the deciding journal they mean nothing."""
        hidden = [path for slot in self._slots for path in (slot.new, slot.old)]
        for path in (*self._journals, *(Path(f"{j}.part") for j in self._journals), *hidden):
            with suppress(OSError):
                os.unlink(path)


def _keep_old(slot: _Slot) -> None:
    """Give the old content a second name, so that the target is never missing; without links, rename it."""
    if not slot.target.exists():
        return
    try:
        os.link(slot.target, slot.old)
    except OSError:
        os.replace(slot.target, slot.old)


def _make_folder(folder: Path, made: list[Path]) -> None:
    """Make `folder` and its parents; `made` gets those that were missing."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        made.append(path)
        try:
            os.mkdir(path)
        except FileExistsError:
            made.pop()
