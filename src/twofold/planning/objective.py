"""What a plan minimises: the summed squared error that each candidate adds to the network's output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from twofold.errors import PlanError, option
from twofold.planning.candidates import Candidate

Vector = NDArray[np.float64]


class Objective(Protocol):
    """Predicts what candidates do to the network's output.

    Errors of different layers are taken as uncorrelated, so that their squares add up.
    """

    @property
    def measured(self) -> bool:
        """Whether the root of the sum is an error of the network's output, or only good to compare by."""

    def squared_errors(self, candidates: Sequence[Candidate]) -> Vector:
        """Squared output error of the network with each candidate of one layer alone swapped in."""


@dataclass(frozen=True)
class EqualWeights:
    """Every layer's lost fraction of energy counts the same: the default where nothing was measured.

    A layer whose output has the relative error d hands on a signal with about that relative error: later
    layers scale signal and error alike. With no measurement there is no reason to prefer a layer.
    `benchmarks/calibrated.py` compares it with AMCT's rank rule on HED, at the same MACs.
    """

    measured: bool = False

    def squared_errors(self, candidates: Sequence[Candidate]) -> Vector:
        """Energy errors as they are."""
        return np.array([c.energy_error for c in candidates], np.float64)


@dataclass(frozen=True)
class Curve:
    """Measured effect of one layer on the network's output.

    Attributes:
        points: pairs (energy error of the layer, squared relative error of the network's output), as measured
            with a few candidates swapped in alone; in any order.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise PlanError("a sensitivity curve needs at least one measured point")
        if not np.isfinite(self.points).all() or np.min(self.points) < 0:
            raise PlanError(
                f"a sensitivity curve needs finite errors that are not negative, got {self.points}"
            )

    def squared_errors(self, energy_errors: Vector) -> Vector:
        """Squared output error at each energy error of the layer.

        The gain (output error / layer error) varies slowly, by the nonlinearities behind the layer: it is
        interpolated over the logarithm of the layer's error, constant beyond the ends. The result is made
        to rise with the layer's error, so that noise in the measurement never prefers the worse candidate.
        """
        measured = sorted((e, s / e) for e, s in self.points if e > 0)
        if not measured:
            return np.zeros_like(energy_errors)
        at, gains = np.array(measured).T
        tiny = np.finfo(np.float64).tiny
        order = np.argsort(energy_errors, kind="stable")
        values = energy_errors * np.interp(np.log(np.maximum(energy_errors, tiny)), np.log(at), gains)
        rising: Vector = np.empty_like(values)
        rising[order] = np.maximum.accumulate(values[order])
        return rising


@dataclass(frozen=True)
class MeasuredSensitivity:
    """The effect of each layer as measured on calibration inputs.

    Attributes:
        curves: one per layer name.
    """

    curves: Mapping[str, Curve]
    measured: bool = True

    @classmethod
    def from_gains(cls, gains: Mapping[str, float]) -> MeasuredSensitivity:
        """Build from one number per layer: squared output error per energy error of the layer."""
        return cls({name: Curve(((1.0, gain),)) for name, gain in gains.items()})

    def squared_errors(self, candidates: Sequence[Candidate]) -> Vector:
        """Squared output errors, read from the layer's curve.

        Raises:
            PlanError: the layer was not measured.
        """
        names = {c.layer for c in candidates}
        missing = sorted(names - self.curves.keys())
        if missing:
            raise PlanError(
                f"no sensitivity was measured for {', '.join(missing)}; "
                f"measure it or leave it out ({option('skip')})"
            )
        energy = np.array([c.energy_error for c in candidates], np.float64)
        values = np.zeros_like(energy)
        for name in names:
            rows = np.array([c.layer == name for c in candidates])
            values[rows] = self.curves[name].squared_errors(energy[rows])
        return values
