"""What the system can say, in one line: which file, what was tried, how much was needed, what to do.

Readers put `reading(path, what)` around their work: whatever an operating system, a decoder or NumPy raises
over a bad file becomes one `TwofoldError`. The command line asks `explain` about what none of them caught, as
memory that runs out in the middle of the work. Errors that neither knows are bugs, and stay what they are.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import FormatError, MissingExtraError, OptionError, TwofoldError

#: What decoders raise over damaged content, whichever library they belong to.
DAMAGED: tuple[type[Exception], ...] = (
    ValueError,  # NumPy, json, struct sizes, NUL in paths; UnicodeError is one
    EOFError,
    RecursionError,
    OverflowError,
    SyntaxError,  # NumPy's header of an array is a Python literal
    tokenize.TokenError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,  # zipfile: a compression that it lacks
)

#: Remedies of what the system rejects; the rest speaks for itself.
_REMEDIES = {
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.ENOSPC: "free some space, or name another place",
    errno.EDQUOT: "free some space, or name another place",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ENOMEM: "free memory, or allow more (ulimit -v)",
    errno.EIO: "check the disk",
    errno.ELOOP: "mend the link",
}
#: Bytes that each library of linear algebra takes for each of its threads, for both that are there, and
#: what else a command needs at least.
_BUFFERS, _LEAST = 2 * (32 << 20), 128 << 20
#: errno of a file that cannot be there.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_OUT_OF_MEMORY = re.compile(
    r"bad[ _]alloc|can't allocate memory|cannot allocate memory|failed to allocate|unable to allocate"
    r"|out of memory|invalid buffer size|buffer size .* too big|failed to map segment",
    re.IGNORECASE,
)
#: What gets smaller memory: only what every command can be told.
_LESS_MEMORY = "give smaller or fewer inputs, free memory, or allow more (ulimit -v)"


def status(path: str | Path) -> os.stat_result | None:
    """The status of a file or folder; None where there is none.

    Raises:
        FormatError: the system does not say: a folder on the way may not be entered, links form a circle.
    """
    try:
        return os.stat(path)
    except ValueError:  # a NUL, or a lone surrogate, which no file's name has
        return None
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise FormatError(f"{path}: cannot be looked at: {reason(error)}") from error


def exists(path: str | Path) -> bool:
    """Whether there is something of that name; raises as `status`."""
    return status(path) is not None


def is_file(path: str | Path) -> bool:
    """Whether there is a regular file of that name; raises as `status`."""
    found = status(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_dir(path: str | Path) -> bool:
    """Whether there is a folder of that name; raises as `status`."""
    found = status(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def real(path: str | Path) -> Path:
    """The path without links and relative parts.

    Raises:
        FormatError: it is relative, and the working directory was removed; or no path at all.
    """
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        place = f"{path}, in the working directory" if isinstance(error, OSError) else path
        raise FormatError(f"{place}: {reason(error)}") from error


def working_folder() -> Path:
    """The working directory.

    Raises:
        FormatError: it was removed.
    """
    try:
        return Path.cwd()
    except OSError as error:
        raise FormatError(f"the working directory: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What an error of the system or a library says, as one clause with the remedy where one is known."""
    if isinstance(error, OSError):
        if _without_folder(error):
            return "it was removed; change to another one"
        text = error.strerror or str(error) or type(error).__name__
        remedy = _REMEDIES.get(error.errno or 0)
        return f"{text}; {remedy}" if remedy else text
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        return f"memory runs out{_amount(error)}; {_LESS_MEMORY}"
    return _plain(error)


def explain(error: BaseException) -> str | None:
    """A line for an error that the system, not this program, is to blame for; None for all others."""
    if isinstance(error, MissingExtraError):  # what is missing may be there, and too large
        why = error.__cause__ or error.__context__
        return explain(why) if isinstance(why, ImportError) else None
    if isinstance(error, OSError):
        place = error.filename if error.filename2 is None else error.filename2
        return f"{os.fsdecode(place)}: {reason(error)}" if isinstance(place, (str, bytes)) else reason(error)
    if isinstance(error, MemoryError):
        return reason(error)
    # PyTorch and ONNX Runtime raise errors of their own, or RuntimeError, where memory runs out.
    foreign = type(error).__module__.startswith("onnxruntime")
    if foreign or isinstance(error, (RuntimeError, ValueError, ImportError)):
        return reason(error) if _OUT_OF_MEMORY.search(str(error)) else None
    return None


def take_room() -> None:
    """Under a limit on memory (ulimit -v) take what linear algebra needs, before any work.

    OpenBLAS asks for its buffers when it is first used. Where the system has none for it, it asks again and
    again: a command would never end.

    Raises:
        OptionError: the limit leaves too little.
    """
    limit, left = _memory_left()
    if left is None:
        return
    import numpy as np  # noqa: PLC0415 - only under a limit; the first page of help needs neither
    import scipy.linalg  # noqa: PLC0415
    from threadpoolctl import threadpool_info, threadpool_limits  # noqa: PLC0415

    threads = max((int(pool["num_threads"]) for pool in threadpool_info()), default=1)
    if left < _LEAST + threads * _BUFFERS:
        threadpool_limits(1)
    needed = _LEAST + _BUFFERS
    _, left = _memory_left()
    if left is not None and left < needed:
        raise OptionError(
            f"memory is limited to {limit >> 20} MiB, of which {left >> 20} MiB are left to work with, and "
            f"{needed >> 20} MiB are needed at least; allow more (ulimit -v)"
        )
    square = np.eye(256)
    scipy.linalg.eigh(square @ square)


def _memory_left() -> tuple[int, int | None]:
    """The limit on this process's memory and what of it is left, in bytes; None where there is no limit."""
    try:
        import resource  # noqa: PLC0415 - not on Windows

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError):
        return 0, None
    return limit, None if limit == resource.RLIM_INFINITY else limit - taken


@contextmanager
def reading(
    path: object, what: str, remedy: str = "", *, error: type[TwofoldError] = FormatError
) -> Iterator[None]:
    """Turn what can go wrong while a file is read into one line that names it.

    Args:
        path: of the file.
        what: it is to be, with its article: "a plan", "an array".
        remedy: what to do about a damaged one.
        error: that is raised.

    Raises:
        error: of the system, a decoder or NumPy; errors of twofold pass.
    """
    try:
        yield
    except OSError as one:
        # h5py, lmdb and zipfile raise OSErrors without a number over damaged content.
        if one.errno is None:
            raise error(f"{path}: is not {what}, or is damaged: {_plain(one)}{_and(remedy)}") from one
        raise error(f"{path}: cannot read {what}: {reason(one)}") from one
    except MemoryError as one:
        raise error(f"{path}: cannot read {what}: {reason(one)}") from one
    except DAMAGED as one:
        raise error(f"{path}: is not {what}, or is damaged: {reason(one)}{_and(remedy)}") from one


def _and(remedy: str) -> str:
    return f"; {remedy}" if remedy else ""


def _plain(error: BaseException) -> str:
    """The message of a library, in one line of bearable length; its class where it has none."""
    text = " ".join(str(error).split())
    return f"{text[:240]} ..." if len(text) > 250 else text or type(error).__name__


def _amount(error: BaseException) -> str:
    """How much was wanted, where the message says so: NumPy gives units, PyTorch bytes."""
    text = str(error)
    units = re.search(r"allocate ([0-9.]+ [KMGTPEZ]?i?B)\b", text)
    if units:
        shape = re.search(r"array with shape (\([^)]*\))", text)
        return f" ({units[1]} for an array of {shape[1]})" if shape else f" ({units[1]})"
    count = re.search(r"(?:allocate|size:?|allocating)\D{0,60}?([0-9]{4,})", text)
    return f" ({int(count[1]) / 2**30:.2f} GiB in one piece)" if count else ""


def _without_folder(error: OSError) -> bool:
    if error.errno != errno.ENOENT or error.filename is not None:
        return False
    try:
        os.getcwd()
    except OSError:
        return True
    return False
