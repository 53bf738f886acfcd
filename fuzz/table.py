"""The table that a run prints: a row per reader, command or way to be stopped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields


@dataclass
class Row:
    """What a number of attacks of one kind did.

    Attributes:
        name: of the kind.
        inputs: attacks.
        accepted: that were read.
        rejected: with a message of one line.
        uncaught: that ended in an error nobody had thought of.
        killed: that ended a process by a signal.
        slow: that took more than 10 seconds of processor time.
        greedy: that took more than 10 times their size and 2 GB.
        lost: after which something was lost: a file half-written, a temporary left.
        peak: most bytes of memory of one attack.
        seconds: most processor time of one attack.
    """

    name: str
    inputs: int = 0
    accepted: int = 0
    rejected: int = 0
    uncaught: int = 0
    killed: int = 0
    slow: int = 0
    greedy: int = 0
    lost: int = 0
    peak: int = 0
    seconds: float = 0.0

    @property
    def harm(self) -> int:
        """Attacks that did what none may."""
        return self.uncaught + self.killed + self.slow + self.greedy + self.lost

    def add(self, other: Row) -> None:
        """Count another row's attacks, too."""
        for one in fields(self)[1:]:
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            both = max(mine, theirs) if one.name in ("peak", "seconds") else mine + theirs
            setattr(self, one.name, both)


def table(rows: Iterable[Row]) -> str:
    """The rows as text, and their sum."""
    rows = list(rows)
    total = Row("all")
    for row in rows:
        total.add(row)
    names = [one.name for one in fields(Row)]
    lines = [names] + [
        [
            row.name,
            *(str(getattr(row, name)) for name in names[1:-2]),
            f"{row.peak >> 20} MB",
            f"{row.seconds:.2f} s",
        ]
        for row in (*rows, total)
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
