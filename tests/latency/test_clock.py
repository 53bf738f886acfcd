"""Timing with a clock that only moves when something runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from twofold.latency import clock
from twofold.latency.clock import Effort, Time, interleaved


class Simulated:
    """A clock, and things that take a given time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def runs(self, name: str, *seconds: float) -> Callable[[], None]:
        """A thing that takes so long in its first run, its second, ...; then always the last."""
        left = list(seconds)

        def run() -> None:
            self.order.append(name)
            self.now += left.pop(0) if left[1:] else left[0]

        return run


@pytest.fixture
def time(monkeypatch) -> Simulated:
    simulated = Simulated()
    monkeypatch.setattr(clock, "time", simulated)
    return simulated


def test_every_round_runs_everything_once(time):
    a, b = time.runs("a", 0.003), time.runs("b", 0.006)
    samples = interleaved([a, b], Effort(0, 4, 9))
    assert time.order[-8:] == ["a", "b"] * 4
    assert samples == [pytest.approx([0.003] * 4), pytest.approx([0.006] * 4)]


def test_the_first_run_warms_up_and_does_not_count(time):
    (samples,) = interleaved([time.runs("a", 5.0, 0.004)], Effort(0, 3, 3))
    assert samples == pytest.approx([0.004] * 3)


def test_short_runs_are_repeated_and_their_time_is_that_of_one(time):
    # One slow run before the rounds must not pass for the usual.
    (samples,) = interleaved([time.runs("a", 1.0, 1e-4, 0.1, 1e-4)], Effort(0, 3, 3))
    assert samples == pytest.approx([1e-4] * 3)
    assert len(time.order) >= 3 * 20


def test_time_stops_the_rounds_between_least_and_most(time):
    def rounds(effort: Effort) -> int:
        return len(interleaved([time.runs("a", 0.02)], effort)[0])

    assert rounds(Effort(0.05, 1, 50)) == 3
    assert rounds(Effort(0.05, 7, 50)) == 7
    assert rounds(Effort(10.0, 1, 3)) == 3


@pytest.mark.parametrize(("seconds", "runs"), [(4.0, 1 + 1 + 6), (40.0, 1 + 1 + 3), (0.9, 1 + 3 + 7)])
def test_runs_of_seconds_are_few(time, seconds, runs):
    # A warm run, trials up to the first of a second, and rounds: at least 7 within 20 s, else 3.
    interleaved([time.runs("a", seconds)], Effort(5.0, 7, 50, longest=20.0))
    assert len(time.order) == runs


def test_summaries():
    found = Time.of([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (found.low, found.median, found.high, found.rounds) == (2.0, 3.0, 4.0, 5)
    assert found.spread == pytest.approx(1 / 3)
    assert found.scaled(2).median == 6.0
