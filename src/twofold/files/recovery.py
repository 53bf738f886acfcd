"""What a killed process left in a folder: journals to carry out, litter to remove.

`atomic.py` says why this is right. Hidden files are named `.twofold-TOKEN-KIND`, with one token per commit.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OutputError
from .locks import abandoned, locked

_OURS = re.compile(r"\.twofold-[0-9a-f]{16}-(new\d+(\..*)?|old\d+|journal|journal\.part|lock)", re.DOTALL)
_JOURNAL = re.compile(r"\.twofold-[0-9a-f]{16}-journal")


def recover(folder: str | Path) -> tuple[Path, ...]:
    """Complete what a killed commit left undone in `folder`, and remove its hidden files.

    Call it before reading files that `commit` may have written. It costs one listing of the folder where
    there is nothing to do, and does nothing while a commit is at work there.

    Returns:
        The files that were put into place.

    Raises:
        OutputError: A decided commit cannot be completed: the folder is read-only, for instance.
    """
    folder = Path(os.path.realpath(folder))
    if not hidden_files(folder):
        return ()
    try:
        with locked([folder], wait=False) as mine:
            return recover_locked(folder) if mine else ()
    except OSError as error:
        raise OutputError(
            f"{folder}: files there were written by a twofold that was stopped half-way, and putting "
            f"the rest into place fails: {error.strerror or error}"
        ) from error


def recover_locked(folder: Path) -> tuple[Path, ...]:
    """Carry out decided renames of dead commits in `folder`, then remove their files; its lock is held."""
    done: list[Path] = []
    waiting: set[str] = set()
    hidden = hidden_files(folder)
    for name in hidden:
        if not _JOURNAL.fullmatch(name):
            continue
        journal = Journal.read(folder / name)
        if os.path.lexists(folder / journal.decided_by):
            for new, target in journal.renames:
                if os.path.lexists(folder / new):
                    os.replace(folder / new, folder / target)
                    done.append(folder / target)
        if journal.decided_by == name and any(os.path.lexists(folder / other) for other in journal.needed_by):
            waiting.add(name)  # another folder's part still waits for this decision
    if done:
        sync_folder(folder)
    for name in hidden:
        claim = name.endswith("-lock")
        if name not in waiting and not (claim and not abandoned(folder / name)):
            with suppress(OSError):
                os.unlink(folder / name)
    return tuple(done)


def hidden_files(folder: Path) -> list[str]:
    try:
        return sorted(filter(_OURS.fullmatch, os.listdir(folder)))
    except OSError:
        return []


@dataclass(frozen=True)
class Journal:
    """The renames of one commit in one folder.

    Attributes:
        decided_by: the journal whose existence decides, as a path from this one's folder.
        needed_by: journals in other folders that this one decides for.
        renames: (hidden name, target's name), both in this folder.
    """

    decided_by: str
    needed_by: tuple[str, ...]
    renames: tuple[tuple[str, str], ...]

    def write(self, path: Path) -> None:
        """Write the journal to `path`, so that it is there as a whole or not at all."""
        part = Path(f"{path}.part")
        content = {"decided_by": self.decided_by, "needed_by": self.needed_by, "renames": self.renames}
        with part.open("x") as stream:
            json.dump(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
        sync_folder(path.parent)

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Read a journal; one that is damaged, or reaches out of its folder, has no renames."""
        token = path.name.removesuffix("journal")
        try:
            content: Any = json.loads(path.read_text())
            renames = tuple((str(new), str(target)) for new, target in content["renames"])
            journal = cls(str(content["decided_by"]), tuple(map(str, content["needed_by"])), renames)
            for name in (
                journal.decided_by,
                *journal.needed_by,
                *(name for pair in renames for name in pair),
            ):
                if b"\0" in os.fsencode(name):  # which raises for other names that no file has
                    return cls("", (), ())
            if not all(
                _JOURNAL.fullmatch(Path(name).name) for name in (journal.decided_by, *journal.needed_by)
            ):
                return cls("", (), ())
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return cls("", (), ())
        for new, target in renames:
            plain = os.path.basename(target) == target and target not in ("", os.curdir, os.pardir)
            if not (plain and _OURS.fullmatch(new) and new.startswith(f"{token}new")):
                return cls("", (), ())
        return journal


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
