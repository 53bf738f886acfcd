"""What was measured: times of stacks on one runtime, kept on disk between runs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from ..codec import from_plain, strict_json
from ..errors import FormatError, OutputError
from ..formats.base import commit
from ..system import exists, reading
from .clock import Time
from .runtimes import Runtime

_SCHEMA = 1
#: Moves the folder of the tables.
CACHE_VARIABLE = "TWOFOLD_LATENCY_CACHE"


@dataclass(frozen=True)
class Setting:
    """Where times hold.

    Attributes:
        runtime: name of the runtime.
        version: of its library.
        device: name of the CPU or GPU.
        threads: that it uses.
    """

    runtime: str
    version: str
    device: str
    threads: int

    @classmethod
    def of(cls, runtime: Runtime, threads: int) -> Setting:
        """That of a runtime here."""
        return cls(runtime.name, runtime.version, runtime.device, threads)

    def __str__(self) -> str:
        return f"{self.runtime} {self.version}, {self.device}, {self.threads} thread(s)"


@dataclass(frozen=True)
class _Document:
    """A table as its file has it."""

    twofold_latency: int
    setting: Setting
    times: Mapping[str, Time]


@dataclass(frozen=True)
class Table:
    """Times of stacks in one setting.

    Attributes:
        setting: where they hold.
        times: by `Stack.key`.
    """

    setting: Setting
    times: Mapping[str, Time] = field(default_factory=dict)

    def with_times(self, times: Mapping[str, Time]) -> Table:
        """The table with more times, or newer ones."""
        return Table(self.setting, {**self.times, **times})


def cache_folder() -> Path:
    """Where tables are kept."""
    import platformdirs  # noqa: PLC0415 - planning by MACs loads with numpy and scipy alone

    moved = os.environ.get(CACHE_VARIABLE)
    return Path(moved) if moved else platformdirs.user_cache_path("twofold") / "latency"


def path_of(setting: Setting) -> Path:
    """The file of a table."""
    digest = hashlib.sha256(json.dumps(asdict(setting)).encode()).hexdigest()[:12]
    return cache_folder() / f"{setting.runtime}-{setting.threads}-{digest}.json"


def load(setting: Setting) -> Table:
    """The table of a setting; empty where nothing was measured.

    Raises:
        FormatError: its file is damaged.
    """
    path = path_of(setting)
    return read(path) if exists(path) else Table(setting)


def read(path: Path) -> Table:
    """Read a table.

    Raises:
        FormatError: the file cannot be read or is no table.
    """
    remedy = "remove it, and times are measured anew"
    with reading(path, "a table of times", remedy):
        text = path.read_text(encoding="utf-8")
    try:
        document = from_plain(_Document, strict_json(text, "table of times"), "the table")
    except FormatError as error:
        raise FormatError(f"{path}: {error}; {remedy}") from error
    if document.twofold_latency != _SCHEMA:
        raise FormatError(f"{path}: has another layout; {remedy}")
    for key, time in document.times.items():
        if not (0 <= time.low <= time.median <= time.high and time.median and time.rounds > 0):
            raise FormatError(f"{path}: {key!r}: {time} is no time; {remedy}")
    return Table(document.setting, document.times)


def save(table: Table) -> None:
    """Add the times of a table to those on disk; a folder that cannot be written is no obstacle."""
    path = path_of(table.setting)

    def write(stream: BinaryIO) -> None:
        # Read only now that the folder is locked: what other processes have saved meanwhile stays.
        merged = load(table.setting).with_times(table.times)
        document = {
            "twofold_latency": _SCHEMA,
            "setting": asdict(table.setting),
            "times": {key: asdict(merged.times[key]) for key in sorted(merged.times)},
        }
        stream.write((json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())

    try:
        commit({path: write}, force=True)
    except OutputError:
        return  # the next run measures again


def saved() -> Iterable[Table]:
    """All tables on disk, by file name."""
    return [read(path) for path in sorted(cache_folder().glob("*.json"))]


def forget(runtime: str | None = None) -> tuple[Path, ...]:
    """Remove the tables of a runtime, or all, damaged ones too; gives their files.

    Raises:
        OutputError: a file cannot be removed.
    """
    pattern = "*.json" if runtime is None else f"{runtime}-[0-9]*.json"
    paths = tuple(sorted(cache_folder().glob(pattern)))
    try:
        for path in paths:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be removed ({error.strerror})") from error
    return paths
