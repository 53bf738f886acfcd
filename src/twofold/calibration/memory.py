"""How much memory may be used, and which layers get a full covariance of it."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ..conv import ConvLayer
from ..errors import InputError, UsageError, option
from .statistics import covariance_bytes, patch_size

#: Share of the free memory that covariances may take where the user names no limit; the rest is for the
#: network, whose activations are of the same order.
SHARE = 0.5
#: glibc's `mallopt`: the numbers of its parameters, what they are while memory is kept, and after. A
#: threshold that was set once moves no more by itself, so that it is left where it moves to in any process
#: with large arrays.
_TRIM, _PAD, _MMAP_THRESHOLD, _MMAPS = -1, -2, -3, -4
_KEPT = {_MMAPS: 0, _TRIM: 2**31 - 1, _PAD: 64 << 20}
_LEFT = {_MMAPS: 1 << 16, _MMAP_THRESHOLD: 32 << 20, _TRIM: 64 << 20, _PAD: 128 << 10}
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_bytes(text: str) -> int:
    """Read "2G", "512M" or "1500000" as bytes; K, M, G, T are powers of 1024.

    Raises:
        UsageError: it is no amount.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?\s*", text, flags=re.IGNORECASE)
    size = float(match[1]) * _UNITS[match[2].lower()] if match is not None else 0.0
    if not 1 <= size < 2**63:
        raise UsageError(f"memory: {text!r} is no amount of memory; write 2G, 512M or a number of bytes")
    return int(size)


def free_memory() -> int:
    """Bytes that this process may still take: what the system has available, or its control group allows."""
    free = [8 << 30]  # where the system does not tell
    try:
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
        free = [int(kib) << 10 for kib in re.findall(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)]
        limit, used = (
            Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current")
        )
        free += [int(limit) - int(used)] if limit != "max" else []
    except (OSError, ValueError):
        if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
            free += [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return max(min(free), 0)


def peak_memory() -> int:
    """Bytes of memory that this process has held at most so far; 0 where the system does not tell."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def check_room(source: object, memory: int | None, size: int) -> None:
    """Reject inputs that are too large, before memory is taken for them.

    Args:
        source: what they come from, for messages.
        memory: bytes that they may take; None for a fraction of what is free.
        size: bytes that they take.

    Raises:
        InputError: these are too many.
    """
    allowed = int(SHARE * free_memory()) if memory is None else memory
    if size > allowed:
        raise InputError(
            f"{source}: samples take {_bytes_text(size)}, and {_bytes_text(allowed)} may be used for them; "
            f"take fewer ({option('limit')})"
            + ("" if memory is None else f", or allow more ({option('memory')})")
        )


def _bytes_text(size: int) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 2048:
            return f"{size:.0f} {unit}"
        size = size / 1024  # type: ignore[assignment]
    return f"{size:.0f} TiB"


def share_out(layers: Iterable[ConvLayer], memory: int) -> frozenset[str]:
    """Names of the layers whose full covariance is gathered within `memory` bytes; small ones come first.

    All sums live at once; on top comes what one layer needs while it is updated and read.
    """
    full: list[str] = []
    kept = 0
    for layer in sorted(layers, key=lambda one: patch_size(one.geometry)):
        own = 8 * layer.geometry.groups * patch_size(layer.geometry) ** 2
        if kept + covariance_bytes(layer.geometry) > memory:
            break
        kept += own
        full.append(layer.name)
    return frozenset(full)


@contextmanager
def memory_kept() -> Iterator[None]:
    """Within the context memory that is freed stays with the process, where the C library is glibc.

    The activations of a network are tens of megabytes each. By default every one is asked of the system and
    given back, and the system clears page after page: 15 to 25 % of the time of HED on a CPU, more of that of
    its depthwise stacks. Arrays that other threads than the main one make are still asked of the system.
    Settings of the user's (MALLOC_..., GLIBC_TUNABLES) are left alone.
    """
    set_option = _mallopt()
    if set_option is None:
        yield
        return
    with _LOCK:
        _DEPTH.append(None)
        if len(_DEPTH) == 1:
            _set(set_option, _KEPT)
    try:
        yield
    finally:
        with _LOCK:
            _DEPTH.pop()
            if not _DEPTH:
                _set(set_option, _LEFT)
                ctypes.CDLL(None).malloc_trim(0)


_LOCK, _DEPTH = threading.Lock(), list[None]()


def _set(set_option: Any, values: dict[int, int]) -> None:
    for name, value in values.items():
        set_option(name, value)


@cache
def _mallopt() -> Any:
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return None
    try:
        library = ctypes.CDLL(None)
        return library.mallopt if library.malloc_trim and hasattr(library, "gnu_get_libc_version") else None
    except (AttributeError, OSError, TypeError):  # musl, macOS; Windows
        return None
