"""Text on the terminal: control characters that come from files are shown, not carried out.

Names of layers and paths may hold escape sequences, line ends, or marks that reverse the direction of text.
Everything that the command line prints goes through here; files and JSON keep the true text.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from .errors import OutputError

#: C0 and C1 controls, DEL, line and paragraph separators, marks of direction, and what has no width.
_CONTROL = (
    "\\x00-\\x1f\\x7f-\\x9f\\xad\\u061c\\u180e\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb"
    "\\U000e0000-\\U000e007f"
)
_ANY = re.compile(f"[{_CONTROL}]")
_BUT_LINE_ENDS = re.compile(f"(?!\\n)[{_CONTROL}]")


def ready() -> None:
    """Prepare stdout and stderr: names may hold what an encoding lacks, and both may be closed.

    A closed one becomes /dev/null: else the next file that is opened would get its number, and with it
    whatever libraries print.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for good
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def visible(text: str) -> str:
    """Text in which control characters are written as escapes: backslash x1b for an escape."""
    return _ANY.sub(_escape, text)


def visible_lines(text: str) -> str:
    """The same, but line ends stay: for text of several lines whose parts went through `visible`."""
    return _BUT_LINE_ENDS.sub(_escape, text)


def one_line(text: str) -> str:
    """A message as a single line: line ends and the indents behind them become one space."""
    return visible(re.sub(r"\s*[\r\n]\s*", " ", text.strip()))


def paths_text(paths: Iterable[str | Path]) -> str:
    """Paths as a list for people, each in one line."""
    return ", ".join(visible(str(path)) for path in paths)


def echo(text: object) -> None:
    """Print a result to stdout.

    Raises:
        OutputError: stdout takes no more, as on a full disk; a pipe that closed raises BrokenPipeError.
    """
    try:
        print(_encodable(sys.stdout, visible_lines(str(text))), flush=True)  # noqa: T201 - the one place for results
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        # What is left in the buffer would fail again when the process ends.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(
            f"stdout: cannot write the results: {error.strerror}; files that were written are complete"
        ) from error


def say(text: str) -> None:
    """Print a line to stderr, where all goes that is no result; nothing is said where stderr is closed."""
    _write(sys.stderr, one_line(text))


def say_lines(text: str) -> None:
    """Print text of several lines to stderr, as a page of help or a table of the log."""
    _write(sys.stderr, visible_lines(text))


def _write(stream: TextIO | None, text: str) -> None:
    # Print takes stdout where there is no stream; a full disk behind stderr must not end the work.
    if stream is not None:
        with suppress(OSError):
            print(_encodable(stream, text), file=stream, flush=True)


def _encodable(stream: TextIO | None, text: str) -> str:
    """Text with escapes for what the encoding lacks; programs that call twofold own their streams."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
