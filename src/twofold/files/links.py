"""Where the data of a model may lie: in its folder, whatever links say.

A model comes from anywhere, and what it names is read, and copied into what is written. So a name that leads
out of the model's folder is rejected: absolute, through "..", or by a link. One kind of link is common and
harmless: model hubs keep files in `blobs/`, and link to them from `snapshots/REVISION/`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..errors import FormatError, option
from ..system import is_file, reason

_FOLLOW: ContextVar[bool] = ContextVar("follow_links", default=False)


def follow_links(follow: bool) -> None:
    """Say for what is loaded from now on whether links may lead out of a model's folder."""
    _FOLLOW.set(follow)


@contextmanager
def following_links(follow: bool) -> Iterator[None]:
    """Within the context links may lead out of a model's folder."""
    before = _FOLLOW.set(follow or _FOLLOW.get())
    try:
        yield
    finally:
        _FOLLOW.reset(before)


def data_file(model: Path, location: str, tensor: str) -> Path:
    """The file, without links, that a model means by the location of a tensor's data.

    Raises:
        FormatError: it is missing, no regular file, or outside the model's folder.
    """
    inside = PurePosixPath(location)
    if (
        not location
        or inside.is_absolute()
        or ".." in inside.parts
        or "\\" in location
        or PureWindowsPath(location).drive
    ):
        raise FormatError(
            f"{model}: tensor {tensor!r} has its data in {location!r}, outside the model's folder; "
            "such files are not read"
        )
    try:
        folder = Path(os.path.realpath(model.parent))
        file = Path(os.path.realpath(folder / inside))
    except (OSError, ValueError) as error:
        raise FormatError(f"{model}: its data file {location!r}: {reason(error)}") from error
    if not is_file(file):
        raise FormatError(
            f"{model}: its data file {location!r} is missing; put it beside the model, in {model.parent}"
        )
    if not _FOLLOW.get() and not any(file.is_relative_to(place) for place in (folder, *_stores(folder))):
        raise FormatError(
            f"{model}: its data file {location!r} is a link to {file}, outside the model's folder; copy it "
            f"there, or allow it with {option('follow_links=True')}"
        )
    return file


def _stores(folder: Path) -> Iterator[Path]:
    """The store of a model hub, where the folder is one of its snapshots: NAME/snapshots/REVISION/..."""
    for above in folder.parents:
        if above.name == "snapshots":
            yield above.parent / "blobs"
