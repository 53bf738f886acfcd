"""LMDB files, read as files: page by page, every number checked before it is followed.

The library maps a database into memory and trusts what it finds there, so a file that is damaged, or gets
shorter while it is open, ends the process without a word (SIGBUS, SIGSEGV, an assertion). Reading needs a
small part of the format: two meta pages, of which the later one counts, name the root of a tree; branch pages
name pages below them; leaf pages hold keys in order, with their values or the first page of a large one.

Source: LMDB 0.9, `mdb.c` (MDB_page, MDB_meta, MDB_db, MDB_node) of a machine with 64 bits.
"""

from __future__ import annotations

import os
import struct
import threading
import weakref
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError
from ...system import is_dir, reason

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_PAGE = struct.Struct("=QHHHH")  # number, pad, flags, lower, upper; of a large value the last two are one
_META = struct.Struct("=IIQQ 48s IHHQQQQQ QQ")  # with the table of free pages, and the main one
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE, _FIXED = 0x01, 0x02, 0x04, 0x08, 0x20
_NODE = struct.Struct("=HHHH")  # low and high half of the value's size, flags, the key's size
_BIG, _TABLE, _DUPLICATES = 0x01, 0x02, 0x04
_NONE = 2**64 - 1
_DEEPEST = 32  # LMDB's own limit


class LmdbFile:
    """The values of a database's main table, by the number of their key.

    Attributes:
        count: number of values.
    """

    def __init__(self, path: Path, where: str) -> None:
        """Open a database and find its leaves.

        Args:
            path: the file, or its folder.
            where: what asks for it, for messages.

        Raises:
            InputError: it cannot be read, is truncated or damaged.
        """
        self._where, self._named, self._lock = where, path, threading.Lock()
        try:
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
            self._file = os.open(path / "data.mdb" if is_dir(path) else path, flags)
            weakref.finalize(self, os.close, self._file)
            self._size = os.fstat(self._file).st_size
        except OSError as error:
            raise self._error(reason(error)) from error
        root, self.count = self._read_meta()
        self._leaves: list[int] = []
        self._ends: list[int] = []  # keys up to and with those of each leaf
        total = 0
        for page, keys in self._walk(root):
            total += keys
            self._leaves.append(page)
            self._ends.append(total)
        if total != self.count:
            raise self._error(f"its pages hold {total} keys, and it says {self.count}")
        self._last: tuple[int, bytes] = (-1, b"")

    def read(self, index: int) -> bytes:
        """The value of key number `index`, in their order.

        Raises:
            InputError: it is damaged, or the file has got shorter.
        """
        leaf = bisect_right(self._ends, index)
        number = self._leaves[leaf]
        if self._last[0] != number:
            self._last = number, self._page(number, _LEAF)
        before = self._ends[leaf - 1] if leaf else 0
        return self._value(self._last[1], number, index - before)

    def _error(self, what: str) -> InputError:
        return InputError(f"{self._where}: its source {self._named} cannot be read as LMDB: {what}")

    def _bytes(self, start: int, length: int) -> bytes:
        if start + length > self._size:
            raise self._error(f"it ends at byte {self._size}, before byte {start + length}; it is cut off")
        try:
            with self._lock:
                os.lseek(self._file, start, os.SEEK_SET)
                found = os.read(self._file, length)
        except OSError as error:
            raise self._error(reason(error)) from error
        if len(found) != length:
            raise self._error("it got shorter while it was in use")
        return found

    def _read_meta(self) -> tuple[int, int]:
        """Root page and number of keys of the main table, as the last transaction left them."""
        metas = []
        self._page_size = 0
        for number in (0, 1):
            head = self._bytes(number * self._page_size, _PAGE.size + _META.size)
            _, _, flags, _, _ = _PAGE.unpack_from(head)
            magic, version, _, _, free, *table, last, transaction = _META.unpack_from(head, _PAGE.size)
            if not flags & _META_PAGE or magic != _MAGIC:
                raise self._error("it does not begin as one")
            if version != _VERSION:
                raise self._error(f"version {version} of the format; version {_VERSION} is read")
            (size,) = struct.unpack_from("=I", free)
            if not 256 <= size <= 1 << 16 or size & (size - 1) or (number and size != self._page_size):
                raise self._error(f"pages of {size} bytes")
            self._page_size = size
            metas.append((transaction, last, table))
        _, self._last_page, (_, flags, depth, *_, count, root) = max(metas, key=lambda meta: meta[0])
        if flags & _DUPLICATES or depth > _DEEPEST:
            raise self._error("it holds several values for a key, or is damaged; Caffe writes one for each")
        needed = (self._last_page + 1) * self._page_size
        if needed > self._size:
            raise self._error(f"it is cut off: {self._size} of {needed} bytes are there")
        return root, count

    def _page(self, number: int, types: int) -> bytes:
        """A page of one of the types (bits of its flags), with its keys within it."""
        if not 2 <= number <= self._last_page:
            raise self._error(f"page {number} does not exist; it is damaged")
        page = self._bytes(number * self._page_size, self._page_size)
        own, _, flags, lower, _ = _PAGE.unpack_from(page)
        keyed = flags & (_BRANCH | _LEAF)
        fits = not keyed or (not flags & _FIXED and _PAGE.size <= lower <= self._page_size)
        if own != number or not flags & types or not fits:
            raise self._error(f"page {number} is damaged")
        return page

    def _walk(self, root: int) -> Iterator[tuple[int, int]]:
        """The leaves in the order of their keys, each with the number of these."""
        waiting, seen = ([] if root == _NONE else [root]), 0
        while waiting:
            number, seen = waiting.pop(), seen + 1
            if seen > self._last_page:
                raise self._error("its pages go round in a circle; it is damaged")
            page = self._page(number, _BRANCH | _LEAF)
            _, _, flags, lower, _ = _PAGE.unpack_from(page)
            keys = (lower - _PAGE.size) // 2
            if flags & _LEAF:
                yield number, keys
                continue
            nodes = [_NODE.unpack_from(page, self._node(page, number, key)) for key in range(keys)]
            waiting += [low | high << 16 | flags << 32 for low, high, flags, _ in reversed(nodes)]

    def _node(self, page: bytes, number: int, key: int) -> int:
        """Where a page has the node of a key."""
        (offset,) = struct.unpack_from("=H", page, _PAGE.size + 2 * key)
        if not _PAGE.size <= offset <= self._page_size - _NODE.size:
            raise self._error(f"page {number} is damaged")
        return int(offset)

    def _value(self, page: bytes, number: int, key: int) -> bytes:
        offset = self._node(page, number, key)
        low, high, flags, key_size = _NODE.unpack_from(page, offset)
        size, start = low | high << 16, offset + _NODE.size + key_size
        if flags & (_TABLE | _DUPLICATES):
            raise self._error("a key stands for a table; Caffe writes one value for each")
        length = 8 if flags & _BIG else size
        if start + length > self._page_size:
            raise self._error(f"page {number} is damaged")
        if not flags & _BIG:
            return page[start : start + size]
        (first,) = struct.unpack_from("=Q", page, start)
        self._page(first, _OVERFLOW)
        return self._bytes(first * self._page_size + _PAGE.size, size)
