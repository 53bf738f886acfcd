"""Reading the file of a net's definition."""

from __future__ import annotations

from pathlib import Path

from ...errors import FormatError, OptionError
from ...files.source import Source, read_source
from .prototxt import Document, parse


def read_definition(path: Path, caffemodel: str | Path | None) -> tuple[Document, Source]:
    """A definition and the file that it is in.

    Args:
        path: the prototxt.
        caffemodel: what was given as the weights.

    Raises:
        FormatError: the file cannot be read, or is no prototxt.
        OptionError: definition and weights are given in the wrong order.
    """
    try:
        source = read_source(path)
    except OSError as error:
        raise FormatError(f"{path}: cannot read the definition: {error.strerror or error}") from error
    content = source.content or b""
    try:
        return parse(content, str(path)), source
    except FormatError as error:
        if _looks_binary(content):
            if caffemodel is not None and not _looks_binary(_head(Path(caffemodel))):
                raise OptionError(
                    "the files are in the wrong order: the definition (prototxt) comes first, then the "
                    f"weights; give {caffemodel} {path}"
                ) from error
            raise FormatError(
                f"{path}: not a prototxt but a binary file; the definition comes first"
            ) from error
        raise


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(4096)
    except OSError:
        return b"\0"


def _looks_binary(source: bytes) -> bool:
    return b"\0" in source[:4096]
