"""What knows how long things take: a runtime that is here, or a table that was filled elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import PlanError
from ..progress import track
from ..ranks import Ranks
from .clock import Effort, Time, interleaved
from .nets import opened
from .runtimes import Run, Runtime
from .stacks import Stack
from .table import Setting, Table, load, save

#: Whole networks deserve more patience than single layers: a machine may be slow for a second.
_WHOLE = Effort(seconds=10.0, least=7, most=301, longest=20.0)


#: Stacks of a layer that are open at a time, the layer as it is counted: what each holds of memory (HED's 10
#: GB in ncnn, where all of a layer's were) need not be there for all. All layers as they are stand open once,
#: beside the network.
_OPEN = 8


@dataclass(frozen=True)
class Pair:
    """Two networks, timed in turn.

    Attributes:
        first: the original's time.
        second: the other's.
        ratio: of the second to the first within a round.
    """

    first: Time
    second: Time
    ratio: Time


@dataclass(frozen=True)
class NetworkTime:
    """A network, and some of its layers by themselves.

    Attributes:
        seconds: of the network; None where this cannot be known.
        layers: seconds of stacks by key, run in turn with it; none where they were timed another day.
    """

    seconds: float | None
    layers: Mapping[str, float] = field(default_factory=dict)


class Stopwatch(Protocol):
    """Tells how long stacks and networks take."""

    @property
    def setting(self) -> Setting:
        """Where the times hold."""

    @property
    def block(self) -> int:
        """Channels that are computed together there."""

    def seconds(self, groups: Sequence[Sequence[Stack]], *, anew: bool = False) -> Mapping[str, Time]:
        """Times of stacks, by key.

        Args:
            groups: the stacks that compete with each other; the first of each is the layer as it is.
            anew: measure even what is known: of many times that are a little off, the best is one that is too
                short.

        Raises:
            PlanError: a time is not known and cannot be measured.
        """

    def network(self, model: Any, layers: Sequence[Stack]) -> NetworkTime:
        """A network in turn with its layers as they are, where it can be run.

        Args:
            model: the network.
            layers: its layers as stacks of one.
        """

    def pair(self, model: Any, other: Any) -> Pair | None:
        """Two networks in turn; None where they cannot be run."""


@dataclass(eq=False)
class LocalTimer:
    """Measures on this machine, and keeps what it measured.

    Attributes:
        runtime: what runs.
        threads: that it may use.
        effort: per layer.
    """

    runtime: Runtime
    threads: int
    effort: Effort = field(default_factory=Effort)
    _table: Table | None = None

    @property
    def setting(self) -> Setting:
        """See `Stopwatch.setting`."""
        return Setting.of(self.runtime, self.threads)

    @property
    def block(self) -> int:
        """See `Stopwatch.block`."""
        return self.runtime.block

    def seconds(self, groups: Sequence[Sequence[Stack]], *, anew: bool = False) -> Mapping[str, Time]:
        """See `Stopwatch.seconds`; measures what is not in the table yet."""
        table = self._table or load(self.setting)
        known = {} if anew else table.times
        missing = [group for group in groups if any(stack.key not in known for stack in group)]
        # Layers of one shape are one.
        missing = list({tuple(stack.key for stack in group): group for group in missing}.values())
        try:
            with self.runtime.running(self.threads):
                for group in track(missing, f"timing layers in {self.runtime.label}"):
                    first, *others = {stack.key: stack for stack in group}.values()
                    for part in _parts(
                        [first, *(one for one in others if anew or one.key not in table.times)]
                    ):
                        effort = self.effort.times(len(part) / len(group))
                        table = table.with_times(self._measured(part, table, anew, effort))
        finally:
            self._table = table
            if missing:
                save(table)
        return table.times

    def _measured(self, group: Sequence[Stack], table: Table, anew: bool, effort: Effort) -> dict[str, Time]:
        """Times of the stacks of a group that are missing, or of all.

        Where the layer itself has a time already, the new ones are put in proportion to it, as if all had
        been measured in one go.
        """
        unique = {stack.key: stack for stack in group}
        wanted = {key: stack for key, stack in unique.items() if anew or key not in table.times}
        first = group[0]
        together = {first.key: first, **wanted}
        with self.runtime.running(self.threads):
            runs: list[Run] = [self.runtime.stack(stack, self.threads) for stack in together.values()]
            samples = interleaved(runs, effort)
        times = dict(zip(together, map(Time.of, samples), strict=True))
        if first.key not in table.times:
            return times
        drift = table.times[first.key].median / times.pop(first.key).median
        return {key: time.scaled(drift) for key, time in times.items()}

    def network(self, model: Any, layers: Sequence[Stack]) -> NetworkTime:
        """See `Stopwatch.network`.

        What lies around the layers is what the network takes beyond them. Timed in turn, a machine that is
        slower now than it was for one of both makes nothing of it.
        """
        unique = {stack.key: stack for stack in layers}
        with opened(self.runtime, self.threads, model) as (whole,):
            runs = [whole, *(self.runtime.stack(stack, self.threads) for stack in unique.values())]
            first, *others = (Time.of(one).median for one in interleaved(runs, _WHOLE))
        return NetworkTime(first, dict(zip(unique, others, strict=True)))

    def pair(self, model: Any, other: Any) -> Pair:
        """See `Stopwatch.pair`."""
        with opened(self.runtime, self.threads, model, other) as runs:
            first, second = interleaved(runs, _WHOLE)
        ratios = [b / a for a, b in zip(first, second, strict=True)]
        return Pair(Time.of(first), Time.of(second), Time.of(ratios))


@dataclass(frozen=True, eq=False)
class FirstTimer:
    """What the first of several processes measures, told to all; the others wait meanwhile.

    Attributes:
        timer: measures, and keeps.
        ranks: the processes.
    """

    timer: Stopwatch
    ranks: Ranks

    @property
    def setting(self) -> Setting:
        """See `Stopwatch.setting`."""
        return self.ranks.from_first("the runtime", lambda: self.timer.setting)

    @property
    def block(self) -> int:
        """See `Stopwatch.block`."""
        return self.ranks.from_first("the runtime's block", lambda: self.timer.block)

    def seconds(self, groups: Sequence[Sequence[Stack]], *, anew: bool = False) -> Mapping[str, Time]:
        """See `Stopwatch.seconds`."""
        return self.ranks.from_first("times of layers", lambda: dict(self.timer.seconds(groups, anew=anew)))

    def network(self, model: Any, layers: Sequence[Stack]) -> NetworkTime:
        """See `Stopwatch.network`."""
        return self.ranks.from_first("times of the network", lambda: self.timer.network(model, layers))

    def pair(self, model: Any, other: Any) -> Pair | None:
        """See `Stopwatch.pair`."""
        return self.ranks.from_first("times of both networks", lambda: self.timer.pair(model, other))


def _parts(group: Sequence[Stack]) -> list[list[Stack]]:
    """A group as groups that are not too large, each with the layer as it is."""
    first, *others = group
    step = _OPEN - 1
    return [[first, *others[start : start + step]] for start in range(0, max(len(others), 1), step)]


@dataclass(frozen=True, eq=False)
class TableTimer:
    """Reads a table that was filled on another device.

    Attributes:
        setting: what the table says of the device.
        block: its channel block.
        times: by key of the stack.
        seconds_of_network: None where the table does not say.
        source: the table's file, for messages.
    """

    setting: Setting
    block: int
    times: Mapping[str, Time]
    seconds_of_network: float | None
    source: str

    def seconds(self, groups: Sequence[Sequence[Stack]], *, anew: bool = False) -> Mapping[str, Time]:
        """See `Stopwatch.seconds`."""
        for group in groups:
            for stack in group:
                if stack.key not in self.times:
                    raise PlanError(
                        f"{self.source}: has no time of {stack.key}; write the models to time anew "
                        "(twofold latency export) for this network, its input sizes and these schemes"
                    )
        return self.times

    def network(self, model: Any, layers: Sequence[Stack]) -> NetworkTime:
        """See `Stopwatch.network`."""
        return NetworkTime(self.seconds_of_network)

    def pair(self, model: Any, other: Any) -> Pair | None:
        """See `Stopwatch.pair`."""
        return None
