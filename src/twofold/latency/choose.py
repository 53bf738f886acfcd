"""Which stopwatch a plan is made by, from what the user says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import OptionError
from ..planning import Budget
from .offline import read_table
from .runtimes import RUNTIMES, default_threads, runtime
from .stopwatch import LocalTimer, Stopwatch

#: Budgets that a plan by time can keep: of time, or of what may be lost at the least time.
_METRICS = ("latency", "error", "accuracy_drop")


@dataclass(frozen=True)
class RuntimeOptions:
    """What will run a network, where a plan is made by time.

    Attributes:
        name: of a runtime on this machine, as "onnxruntime".
        threads: that it may use; None for all cores.
        table: times that were measured on another device, instead of a runtime here.
    """

    name: str | None = None
    threads: int | None = None
    table: str | Path | None = None


def time_budget(speedup: float | None, latency: float | None) -> float | None:
    """The ratio of time after / before that either asks for.

    Raises:
        OptionError: both are given, or one that is no gain.
    """
    if speedup is not None and latency is not None:
        raise OptionError("speedup or latency: give one of them; a speedup of 2 is a latency of 0.5")
    if speedup is not None:
        if not 1 < speedup < float("inf"):
            raise OptionError(f"speedup: a number above 1, such as 2 for twice as fast, not {speedup:g}")
        return 1 / speedup
    if latency is not None and not 0 < latency < 1:
        raise OptionError(f"latency: time after / before, between 0 and 1, such as 0.5, not {latency:g}")
    return latency


def stopwatch(budget: Budget | None, options: RuntimeOptions) -> Stopwatch | None:
    """What tells times; None where the plan is not made by time.

    Args:
        budget: of the plan.
        options: what will run the network.

    Raises:
        OptionError: options that contradict each other; an unknown runtime.
        MissingExtraError: the runtime is not installed.
        FormatError: the table cannot be read.
    """
    if options.name is None and options.table is None:
        if budget is not None and budget.metric == "latency":
            raise OptionError(
                f"a budget of time needs a runtime ({', '.join(RUNTIMES)}), or a table of times that were "
                "measured elsewhere"
            )
        if options.threads is not None:
            raise OptionError("threads: are those of a runtime; name one")
        return None
    if budget is None or budget.metric not in _METRICS:
        given = "no budget" if budget is None else f"a budget of {budget.metric}"
        raise OptionError(
            f"a plan by time needs a budget of speedup, latency, error or accuracy drop, found {given}"
        )
    if options.table is not None:
        if options.name is not None or options.threads is not None:
            raise OptionError(
                "a table of times says itself where it holds; give no runtime or threads beside it"
            )
        return read_table(Path(options.table))
    assert options.name is not None
    return here(options.name, options.threads)


def here(runtime_name: str, threads: int | None = None) -> LocalTimer:
    """A runtime on this machine.

    Raises:
        OptionError: it is unknown, or threads are out of range.
        MissingExtraError: it is not installed.
    """
    if threads is not None and threads < 1:
        raise OptionError(f"threads: 1 or more, not {threads}")
    return LocalTimer(runtime(runtime_name), threads or default_threads())
