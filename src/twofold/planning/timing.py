"""Times that a plan predicts and that were measured; pairs are (before, after), in seconds."""

from __future__ import annotations

from dataclasses import dataclass

Pair = tuple[float, float]


@dataclass(frozen=True)
class Timing:
    """Time of a layer, or of the network.

    Attributes:
        predicted: from times of single layers at a few ranks.
        measured: both in turn in one run; None where they were not. Of a network the second is the first
            times the median of after / before.
        spread: half the distance of the quartiles of after / before, as measured.
    """

    predicted: Pair
    measured: Pair | None = None
    spread: float | None = None

    def __str__(self) -> str:
        text = f"predicted {_pair(self.predicted)}"
        if self.measured is None:
            return text
        spread = "" if self.spread is None else f" ± {self.spread:.3f}"
        return f"{text}, measured {_pair(self.measured)}{spread}"


@dataclass(frozen=True)
class NetworkTiming:
    """Time of the network on one runtime.

    Attributes:
        setting: runtime, version, device and threads, in words.
        batch: images per run.
        network: of the whole network.
        factor: fraction of the layers' gains that the network is taken to show.
    """

    setting: str
    batch: int
    network: Timing
    factor: float = 1.0

    def __str__(self) -> str:
        return f"time in {self.setting}, batch {self.batch}: {self.network}"


def milliseconds(pair: Pair) -> str:
    """A pair as people read it: 12.3 → 4.56 ms."""
    return f"{1e3 * pair[0]:.3g} → {1e3 * pair[1]:.3g} ms"


def _pair(pair: Pair) -> str:
    ratio = pair[1] / pair[0] if pair[0] else 1.0
    return f"{milliseconds(pair)} (ratio {ratio:.3f})"
