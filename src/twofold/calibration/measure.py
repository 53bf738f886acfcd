"""How far outputs are from what they were: the number that a plan keeps small."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, OptionError, TwofoldError, option, remedy
from .runner import Outputs

#: A quality of the network that the user measures: outputs of all samples, by name, to a number.
Metric = Callable[[Mapping[str, NDArray[np.float32]]], float]


#: Relative errors of the outputs from which they want a look, are far from the original's, and are lost: at
#: 0.7 half the variance of the outputs is error.
NOTABLE, DOUBTFUL, LOST = 0.1, 0.3, 0.7


def verdict(error: float) -> str:
    """A relative error of the outputs in a word: "good", "look" or "lost"."""
    return "good" if error < NOTABLE else "look" if error < LOST else "lost"


def quality_warning(error: float) -> str | None:
    """What a user should be told of a relative error of the outputs; None where it is small.

    Law: says something from `DOUBTFUL` on, and something stronger from `LOST` on.
    """
    if error >= LOST:
        return (
            f"the outputs are lost: their error is {error:.2f} of what they vary, where a constant in their "
            "place has 1.00"
        )
    if error >= DOUBTFUL:
        return f"the outputs are far from the original's: their error is {error:.2f} of what they vary"
    return None


class Measure(Protocol):
    """Collects the outputs of the original and of changed networks, batch by batch."""

    def add(self, key: Hashable, reference: Outputs, changed: Outputs) -> None:
        """Take in one batch of the network `key`, and the same batch of the original."""

    def error(self, key: Hashable) -> float:
        """Error of the network `key` over all its batches; 0 where nothing changed."""


class OutputErrorMetric:
    """The relative error of the outputs: per output ||changed - reference|| / ||reference - mean||.

    Norms run over all samples and values, the mean is one number per output; several outputs are joined as
    the root of the mean of their squares. 1 is what an output is worth that always gives the mean.
    """

    def __init__(self) -> None:
        self._sums: dict[Hashable, dict[str, NDArray[np.float64]]] = {}

    def add(self, key: Hashable, reference: Outputs, changed: Outputs) -> None:
        """See `Measure`."""
        sums = self._sums.setdefault(key, {})
        for name, ref in reference.items():
            if ref.shape != changed[name].shape:
                raise InputError(
                    f"the size of output {name!r} depends on the values: {list(ref.shape)} before and "
                    f"{list(changed[name].shape)} after; name what is computed before it: {option('targets')}"
                )
            if ref.size:
                self._add(sums, name, ref, changed[name])

    @staticmethod
    def _add(
        sums: dict[str, NDArray[np.float64]], name: str, ref: NDArray[np.float32], other: NDArray[np.float32]
    ) -> None:
        with np.errstate(invalid="ignore", over="ignore"):  # said in `error`
            exact = ref.astype(np.float64)
            lost = other - exact
            # Shifted by a value of the output itself, so that little cancels where its mean is large.
            shift = float(exact.flat[0]) if name not in sums else float(sums[name][4])
            moved = exact - shift
            parts = [(lost**2).sum(), (moved**2).sum(), moved.sum(), exact.size]
            sums.setdefault(name, np.array([0, 0, 0, 0, shift], np.float64))[:4] += parts

    def error(self, key: Hashable) -> float:
        """See `Measure`."""
        squares = [self._squared(name, *sums) for name, sums in self._sums[key].items()]
        if not squares:
            raise InputError(
                "the protected outputs are empty on the calibration inputs, so there is no error to measure; "
                f"name what is computed before them: {option('targets')}"
            )
        return math.sqrt(sum(squares) / len(squares))

    def sums(self) -> dict[tuple[Hashable, str], NDArray[np.float64]]:
        """All that was collected, by network and output: copies that `restore` takes."""
        return {(key, name): one.copy() for key, sums in self._sums.items() for name, one in sums.items()}

    def restore(self, sums: Mapping[tuple[Hashable, str], NDArray[np.float64]]) -> None:
        """Go on from what another one had collected."""
        for (key, name), one in sums.items():
            self._sums.setdefault(key, {})[name] = one.copy()

    def by_output(self, key: Hashable) -> dict[str, float]:
        """The error of every output by itself."""
        return {name: math.sqrt(self._squared(name, *sums)) for name, sums in self._sums[key].items()}

    def variances(self, key: Hashable) -> dict[str, float]:
        """The variance of every reference output, per value."""
        return {
            name: float(squares - total * total / count) / float(count)
            for name, (_, squares, total, count, _) in self._sums[key].items()
        }

    @staticmethod
    def _squared(name: str, lost: float, squares: float, total: float, count: float, _: float) -> float:
        if not (math.isfinite(lost) and math.isfinite(squares)):
            raise InputError(
                f"output {name!r} has values that are not finite on the calibration inputs; look at their "
                "range (mean and scale)" + remedy(", or use weights only ({})", "no_data=True")
            )
        variance = squares - total * total / count
        if variance <= 0:  # an output that never varies has nothing to be compared with
            return 0.0 if lost == 0 else lost / count
        return float(lost / variance)


def number_of(what: str, function: Callable[..., Any], given: Any) -> float:
    """What a function of the user's gives, as a number.

    Raises:
        OptionError: it raises.
        InputError: it gives something else; says what.
    """
    try:
        found = function(given)
    except TwofoldError:
        raise
    except Exception as error:  # the user's own code, whatever it meets
        told = f"{type(error).__name__}: {error}".rstrip(": ")
        raise OptionError(f"{what} fails: {told}; mend the function that was given") from error
    try:
        number = math.nan if isinstance(found, (str, bytes)) else float(found)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{what} gave {str(found)[:60]!r}; it must give a finite number")
    return number


class MetricChange:
    """How far a user's metric moves from its value for the original network."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._outputs: dict[Hashable, tuple[list[Outputs], list[Outputs]]] = {}

    def add(self, key: Hashable, reference: Outputs, changed: Outputs) -> None:
        """See `Measure`."""
        held = self._outputs.setdefault(key, ([], []))
        held[0].append(reference)
        held[1].append(changed)

    def error(self, key: Hashable) -> float:
        """See `Measure`."""
        before, after = (
            number_of("the metric", self._metric, _joined(parts)) for parts in self._outputs[key]
        )
        return abs(after - before)


def _joined(parts: list[Outputs]) -> Outputs:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
