"""HDF5 files, opened so that they show what is in them and nothing else of the machine.

A link, a dataset or a virtual dataset of an HDF5 file may name any other file, which the library opens
without a word when it is read.

Needs h5py. Source: HDF5 file format specification 3.0, IV.A.2.h (external files), VII (links).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import FormatError, MissingExtraError


def h5py_for(feature: str, extra: str) -> Any:
    """The module h5py.

    Args:
        feature: that needs it.
        extra: of twofold that installs it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import h5py  # noqa: PLC0415 - optional
    except ImportError as error:
        raise MissingExtraError(feature, "h5py", extra) from error
    return h5py


def open_hdf5(h5py: Any, path: Path) -> Any:
    """Open an HDF5 file to read it; what h5py raises over a damaged one passes.

    Args:
        h5py: the module.
        path: of the file.

    Raises:
        FormatError: some of its data are in another file.
    """
    file = h5py.File(path, "r")
    try:
        # Links of links: every object that has a name is seen, and nothing is opened through a link outwards.
        links: list[tuple[bytes, int]] = []
        file.id.links.visit(lambda name, info: links.append((name, info.type)), info=True)
        for name, link_type in links:
            _reject_outside(h5py, file, name, link_type)
    except BaseException:
        file.close()
        raise
    return file


def _reject_outside(h5py: Any, file: Any, name: bytes, link_type: int) -> None:
    links = h5py.h5l
    if link_type == links.TYPE_SOFT:  # a name within the file, which is visited itself
        return
    if link_type != links.TYPE_HARD:
        target = file.id.links.get_val(name)[0] if link_type == links.TYPE_EXTERNAL else b"something outside"
        raise _outside(file, name, "is a link to", target)
    found = h5py.h5o.open(file.id, name)
    if not isinstance(found, h5py.h5d.DatasetID):
        return
    layout = found.get_create_plist()
    if layout.get_external_count():
        raise _outside(file, name, "keeps its values in", layout.get_external(0)[0])
    if layout.get_layout() == h5py.h5d.VIRTUAL:
        sources = [layout.get_virtual_filename(index) for index in range(layout.get_virtual_count())]
        raise _outside(file, name, "is a view of", sources[0] if sources else b"nothing")


def _outside(file: Any, name: bytes, what: str, target: bytes | str) -> FormatError:
    if isinstance(target, bytes):
        target = target.decode("utf-8", "surrogateescape")
    return FormatError(
        f"{file.filename}: {name.decode('utf-8', 'surrogateescape')!r} {what} {target!r}; only data that are "
        "in the file itself are read: copy them into it"
    )
