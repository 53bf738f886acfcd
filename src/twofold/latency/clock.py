"""Timing several things in turn, so that the drift of a machine hits all alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

#: One round at least lasts so long; shorter things run several times in it.
_SHORTEST = 2e-3
#: Runs that tell how often.
_TRIALS = 3
#: Seconds of a trial that tells enough: nothing so long is repeated within a round.
_LONG = 1.0
_MOST_REPEATS = 200
#: Rounds that quartiles need.
_FEWEST = 3


@dataclass(frozen=True)
class Time:
    """How long a thing takes.

    Attributes:
        median: seconds of a run.
        low: first quartile.
        high: third quartile.
        rounds: number of samples.
    """

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Time:
        """Summarise samples in seconds."""
        low, median, high = np.quantile(samples, (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high), len(samples))

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles over the median."""
        return (self.high - self.low) / (2 * self.median) if self.median else 0.0

    def scaled(self, factor: float) -> Time:
        """The same in other units, or on another day."""
        return Time(self.median * factor, self.low * factor, self.high * factor, self.rounds)


@dataclass(frozen=True)
class Effort:
    """How long to time.

    Attributes:
        seconds: after so many no further round is begun.
        least: rounds at least.
        most: rounds at most.
        longest: after so many seconds three rounds do: a net that takes seconds a run, or a machine that
            others use, must not make `least` rounds take minutes.
    """

    seconds: float = 3.0
    least: int = 7
    most: int = 25
    longest: float = math.inf

    def times(self, fraction: float) -> Effort:
        """The same rounds at least, in a fraction of the time."""
        return replace(self, seconds=self.seconds * fraction)


def interleaved(runs: Sequence[Callable[[], object]], effort: Effort = Effort()) -> list[list[float]]:
    """Run all once in every round.

    Args:
        runs: what to time; the first run of each warms it up and does not count.
        effort: how long.

    Returns:
        Seconds of each run, per thing and round; rounds stand side by side.
    """
    repeats = []
    for run in runs:
        run()
        repeats.append(int(min(max(np.ceil(_SHORTEST / _taken(run)), 1), _MOST_REPEATS)))
    samples: list[list[float]] = [[] for _ in runs]
    begun = time.perf_counter()
    for count in range(effort.most):
        spent = time.perf_counter() - begun
        least = effort.least if spent <= effort.longest else _FEWEST
        if count >= least and spent > effort.seconds:
            break
        for run, times, taken_by in zip(runs, repeats, samples, strict=True):
            taken_by.append(seconds_of(run, times))
    return samples


def _taken(run: Callable[[], object]) -> float:
    """Seconds of a run, roughly: the shortest of some trials."""
    shortest = math.inf
    for _ in range(_TRIALS):
        shortest = min(shortest, seconds_of(run, 1))
        if shortest > _LONG:
            break
    return max(shortest, 1e-9)


@runtime_checkable
class TimesItself(Protocol):
    """A run in another process, whose clock is there."""

    def seconds(self, times: int) -> float:
        """Run so many times; seconds of one, on average."""


def seconds_of(run: Callable[[], object], times: int) -> float:
    """Seconds of a run, as the mean of some."""
    if isinstance(run, TimesItself):
        return run.seconds(times)
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times
