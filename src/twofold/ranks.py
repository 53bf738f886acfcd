"""The processes of one run that are no training, as `torchrun` starts them; one alone needs no other.

All run the same program on the same inputs, and meet in the same order. Work is split into whole pieces (the
statistics and fits of a layer, the trials of one, an error), never inside of a sum: every number comes from
one process, which computes it as a process alone does, so that results are the same bits for any number of
processes.

The first to fail says why, and the others, who lose it, are silent; of one that was killed the first says so
who misses it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from .errors import LostError, MissingExtraError, OptionError, PlanError, RankError, TwofoldError
from .files.signals import Stopped, unwinding
from .progress import LINES, QUIET
from .terminal import say

T = TypeVar("T")

#: Seconds in which the system must show that a lost process is gone; and where a signal ends this one.
_GONE, _STOPPED = 10.0, 1.0
#: Errors that all processes have where one has them.
_ALIKE = (OptionError, PlanError)


class Meeting(Protocol):
    """How processes reach each other: `distributed.Meeting`."""

    def exchange(self, value: Any) -> list[Any]:
        """The values that all processes give, in the order of their numbers.

        Raises:
            LostError: one is gone.
        """

    def first_to_fail(self, reason: str) -> str | None:
        """Give the others a reason to end; where one was given before, that."""

    def missing(self, patience: float) -> str:
        """In words, who has ended without one; "" where all are there after so many seconds."""


@dataclass(frozen=True, eq=False)
class Ranks:
    """The processes of a run.

    Attributes:
        rank: number of this one, from 0.
        size: number of all.
        meeting: how they reach each other; None for one alone.
    """

    rank: int = 0
    size: int = 1
    meeting: Meeting | None = None
    _shared: list[BaseException] = field(default_factory=list)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    def gather(self, what: str, value: T) -> list[T]:
        """The values that all processes give, in the order of their numbers; they must pickle.

        Args:
            what: is exchanged; the same in all processes.
            value: of this one.

        Raises:
            RankError: another process has failed, or does something else.
        """
        return [value] if self.meeting is None else self._exchange(what, value, None)

    def from_first(self, what: str, make: Callable[[], T]) -> T:
        """What the first process makes; the others wait for it, and fail as it does."""
        return self.each(what, [make])[0]

    def each(self, what: str, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """The results of tasks, which the processes take in turn; the first of their errors, in all of them.

        Args:
            what: the tasks are.
            tasks: the same in all processes.

        Raises:
            TwofoldError: one that a task raises.
        """
        if self.meeting is None:
            return [task() for task in tasks]
        own: dict[int, tuple[Any, TwofoldError | None]] = {}
        for number in range(self.rank, len(tasks), self.size):
            try:
                own[number] = (tasks[number](), None)
            except TwofoldError as error:
                own[number] = (None, error)
        plain = {
            number: (value, None if error is None else _parts(error))
            for number, (value, error) in own.items()
        }
        parts = self.gather(what, plain)
        found = [parts[number % self.size][number] for number in range(len(tasks))]
        for number, (_, problem) in enumerate(found):
            if problem is not None:
                kind, text = problem
                raise self._known(_made(kind, text)) from (own[number][1] if number in own else None)
        return [value for value, _ in found]

    def collect(self, what: str, make: Callable[[], T]) -> list[T]:
        """What the processes make, each its part; where some fail, all do.

        Raises:
            TwofoldError: the first that a process raises; where not all raise the same, it says which.
        """
        if self.meeting is None:
            return [make()]
        value, problem = None, None
        try:
            value = make()
        except RankError:
            raise
        except TwofoldError as error:
            problem = error
        return self._exchange(what, value, problem)

    def agreed(self, what: str, make: Callable[[], T]) -> T:
        """What each process makes, as all do; raises as `collect`."""
        found: list[T] = []
        self.collect(what, lambda: found.append(make()))
        return found[0]

    def same(self, what: str, value: object) -> None:
        """Reject processes that differ in what must be the same for all.

        Raises:
            RankError: one does.
        """
        values = self.gather(what, value)
        other = next((rank for rank, one in enumerate(values) if one != values[0]), None)
        if other is not None:
            raise self._known(
                RankError(
                    f"{self.name(other)} has another {what} than rank 0; every process needs the same files "
                    "and options"
                )
            )

    def split(self, costs: Mapping[str, float]) -> dict[str, int]:
        """Which process does what, so that each has about as much: the dearest first, each to who has least.

        Args:
            costs: by name.
        """
        loads, found = [0.0] * self.size, dict[str, int]()
        for name in sorted(costs, key=lambda one: -costs[one]):
            found[name] = min(range(self.size), key=loads.__getitem__)
            loads[found[name]] += costs[name]
        return found

    def name(self, rank: int) -> str:
        """A process in words."""
        return f"rank {rank} of {self.size} processes"

    def is_shared(self, error: BaseException) -> bool:
        """Whether all processes raise this error."""
        return any(one is error for one in self._shared)

    def _known(self, error: TwofoldError) -> TwofoldError:
        self._shared.append(error)
        return error

    def _exchange(self, what: str, value: Any, problem: TwofoldError | None) -> list[Any]:
        assert self.meeting is not None
        found = self.meeting.exchange((what, value, problem and _parts(problem)))
        failed = {rank: parts for rank, (_, _, parts) in enumerate(found) if parts is not None}
        if failed:
            rank, (kind, text) = next(iter(failed.items()))
            everywhere = len(failed) == self.size and len(set(failed.values())) == 1
            error = _made(kind, text if everywhere else f"{self.name(rank)}: {text}")
            raise self._known(error) from problem
        if len({one for one, _, _ in found}) > 1:
            other = next(rank for rank, (one, _, _) in enumerate(found) if one != what)
            raise RankError(
                f"{self.name(other)} is at {found[other][0]}, this one at {what}; every process needs the "
                "same files and options"
            )
        return [one for _, one, _ in found]


_here: ContextVar[Ranks] = ContextVar("ranks", default=Ranks())  # noqa: B039 - no process changes that of one
#: What this process puts before the line that says why it ends; None where another one says it.
_voice: ContextVar[str | None] = ContextVar("voice", default="")


def here() -> Ranks:
    """The processes of the run that this one is in."""
    return _here.get()


def speak(text: str) -> None:
    """Say why the command ends, where no other process does."""
    if (before := _voice.get()) is not None:
        say(f"twofold: {before}{text}")


@contextmanager
def joined() -> Iterator[Ranks]:
    """Within the context this process is one of those that `torchrun` started, or alone.

    A context inside of another is the same one. Only the first process says what it does.

    Raises:
        RankError: another process has failed.
        MissingExtraError: there are several, and PyTorch is not installed.
    """
    if _here.get().several or not _is_one_of_several():
        yield _here.get()
        return
    try:
        from .distributed import meeting  # noqa: PLC0415 - one process alone needs no PyTorch
    except ImportError as error:
        raise MissingExtraError("the work of several processes", "PyTorch", "torch") from error

    with unwinding(), meeting() as (rank, size, found):
        ranks = Ranks(rank, size, found)
        before, quiet = _here.set(ranks), QUIET.set(QUIET.get() or not ranks.first)
        try:
            yield ranks
            ranks.gather("the end", None)
        except GeneratorExit:
            raise
        except BaseException as error:
            _ended(ranks, found, error)
            raise
        finally:
            QUIET.reset(quiet)
            _here.reset(before)


def _is_one_of_several() -> bool:
    """Whether this process is one of several that `torchrun` or a process group has."""
    size = os.environ.get("WORLD_SIZE", "")
    if size.isdecimal() and int(size) > 1:
        return True
    loaded = sys.modules.get("torch.distributed")
    return bool(loaded and loaded.is_available() and loaded.is_initialized() and loaded.get_world_size() > 1)


def _ended(ranks: Ranks, meeting: Meeting, error: BaseException) -> None:
    """Settle who says why: this process, or one that did so before.

    Raises:
        RankError: another one is the reason.
        Stopped: a signal ends this one.
    """
    if isinstance(error, (LostError, Stopped)):
        told = meeting.first_to_fail("another process has ended")
        if told is None and (gone := _missing(meeting, error)):
            told = (
                f"{gone} ended in the middle, killed by the system or somebody; the same command goes on "
                "from what is cached"
            )
            if LINES.get():  # at once: the signal by which `torchrun` ends the others may come any moment
                say(f"twofold: {told}")
        _voice.set(None)
        if isinstance(error, LostError):
            raise RankError(told or "another process has ended") from error
        return
    # Options are those of all, and plans follow from what all know.
    shared = ranks.is_shared(error) or isinstance(error, _ALIKE) or not isinstance(error, Exception)
    before = "" if shared else f"{ranks.name(ranks.rank)}: "
    told = meeting.first_to_fail(f"{before}{str(error) or type(error).__name__}")
    _voice.set(before if told is None else None)


def _missing(meeting: Meeting, error: BaseException) -> str:
    """Who is gone; `torchrun` knows it, too, and may send its signal meanwhile."""
    try:
        # A signal of somebody else's means that nobody is.
        return meeting.missing(_GONE if isinstance(error, LostError) else _STOPPED)
    except Stopped:
        return meeting.missing(_STOPPED)


def _parts(error: TwofoldError) -> tuple[type[TwofoldError], str]:
    return type(error), str(error)


def _made(kind: type[TwofoldError], text: str) -> TwofoldError:
    """An error of a kind, whatever its class is made of."""
    error = kind.__new__(kind, text)
    error.args = (text,)
    return error
