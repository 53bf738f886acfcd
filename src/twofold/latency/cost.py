"""Times of all candidates of a layer, from a few that were measured: the cost that a plan is made by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from ..conv import ConvLayer, Size, Skipped
from ..errors import PlanError
from ..lowrank.schemes import scheme
from ..planning import Candidate, Choice, Request
from ..planning.candidates import useful_ranks
from ..planning.workload import Workload

#: Ranks that are measured per scheme and variant, along each axis.
RANKS = {1: 4, 2: 3}
#: A candidate is offered only if it is predicted to be faster than its layer by this fraction: less is noise.
LEAST_GAIN = 0.03
#: Scheme and variant.
SchemeKey = tuple[str, str]


def probes(layer: ConvLayer, request: Request, block: int, workload: Workload) -> tuple[Size, ...]:
    """The ranks of a request that are measured, on the runtime's own steps.

    Args:
        layer: the layer.
        request: scheme, variant, and the largest ranks that will be read.
        block: channels that the runtime computes together.
        workload: counts MACs; of several ranks, those that cost more than the layer are left out.
    """
    useful = useful_ranks(layer, request.scheme, request.variant, workload)
    limits = [max(1, min(pair)) for pair in zip(useful, request.max_ranks, strict=True)]
    step = block_of(layer, block)
    axes = [_spread(limit, step, RANKS.get(len(limits), 2)) for limit in limits]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
    chain, own = scheme(request.scheme).chain, workload.layer_macs(layer)
    found = [tuple(int(rank) for rank in ranks) for ranks in grid]
    if len(limits) == 1:
        return tuple(found)
    return tuple(
        ranks for ranks in found
        if workload.macs(layer, chain(layer.geometry, request.variant, ranks)) <= own
    )  # fmt: skip


def block_of(layer: ConvLayer, block: int) -> int:
    """Steps of ranks, which count the channels of one group, where it is those of all that have steps."""
    return block // math.gcd(block, layer.geometry.groups)


def _spread(limit: int, block: int, count: int) -> NDArray[np.int64]:
    """So many ranks up to a limit, evenly spaced, multiples of `block` where that is possible."""
    if limit <= block:
        return np.array([limit])
    steps = np.linspace(block, limit, count)
    return np.unique(np.minimum(np.ceil(steps / block).astype(np.int64) * block, limit))


@dataclass(frozen=True, eq=False)
class Curve:
    """Seconds of one scheme and variant of one layer, by ranks.

    Attributes:
        points: ranks -> seconds, as measured.
        block: seconds change in steps of so many channels.
    """

    points: Mapping[Size, float]
    block: int

    def seconds(self, ranks: Size) -> float:
        """Seconds at some ranks.

        What was measured is given as it is. Between, one rank is interpolated linearly from step to step; the
        work of a stack with two is bilinear in them, and such a form is fitted.
        """
        if ranks in self.points:
            return self.points[ranks]
        stepped = tuple(-(-rank // self.block) * self.block for rank in ranks)
        if stepped in self.points:
            return self.points[stepped]
        if len(ranks) == 1:
            return self._interpolated(stepped[0])
        return float(self._features([stepped])[0] @ self._weights())

    def _interpolated(self, rank: int) -> float:
        at = sorted(self.points)
        ranks = np.array([point[0] for point in at], np.float64)
        seconds = np.array([self.points[point] for point in at])
        if len(at) > 1 and rank > ranks[-1]:  # the last step is an uneven one
            slope = (seconds[-1] - seconds[-2]) / (ranks[-1] - ranks[-2])
            return float(seconds[-1] + max(slope, 0.0) * (rank - ranks[-1]))
        return float(np.interp(rank, ranks, seconds))

    def _weights(self) -> NDArray[np.float64]:
        ranks, seconds = list(self.points), np.array(list(self.points.values()))
        # Relative deviations count, so that small stacks fit as well as large ones.
        weights: NDArray[np.float64] = nnls(self._features(ranks) / seconds[:, None], np.ones(len(seconds)))[
            0
        ]
        return weights

    @staticmethod
    def _features(ranks: Sequence[Size]) -> NDArray[np.float64]:
        rows = np.array(ranks, np.float64)
        return np.column_stack((np.ones(len(rows)), rows, np.prod(rows, axis=1)))


@dataclass(frozen=True, eq=False)
class LatencyCost:
    """A cost in seconds of the whole network; see `planning.Cost`.

    The network's time is what lies around its layers, `whole - factor * sum of layers`, plus `factor` times
    what they become. `factor` says how much of a gain of single layers the network as a whole shows.

    By itself a layer takes longer than in a network, where its input and output need no other layout (on
    OpenVINO HED's layers sum to 1.25 times the network). What replaces it takes as much longer, so that the
    gain is right, and what lies around the layers may be less than nothing.

    Attributes:
        own: seconds of every layer as it is.
        curves: of every layer, by scheme and variant.
        whole: seconds of the network.
        factor: see above.
        scales: by layer, what times from the table are multiplied with to be those of now.
    """

    own: Mapping[str, float]
    curves: Mapping[str, Mapping[SchemeKey, Curve]]
    whole: float
    factor: float = 1.0
    scales: Mapping[str, float] = field(default_factory=dict)
    name: str = field(default="latency", init=False)
    label: str = field(default="time", init=False)

    @property
    def base(self) -> float:
        """Seconds of all that is not one of the layers."""
        return self.whole - self.factor * sum(self.own.values())

    def of_layer(self, layer: ConvLayer | Skipped) -> float:
        """Seconds of a layer as it is; those of layers that stay are part of `base`."""
        return self.factor * self.own.get(layer.name, 0.0)

    def of_candidate(self, layer: ConvLayer, candidate: Candidate) -> float:
        """Seconds of what would replace it; the layer's own where the gain is within the noise."""
        seconds = self.layer_seconds(layer.name, candidate.scheme, candidate.variant, candidate.ranks)
        own = self.own[layer.name]
        return self.factor * (seconds if seconds < (1 - LEAST_GAIN) * own else own)

    def layer_seconds(self, layer: str, scheme_name: str, variant: str, ranks: Size) -> float:
        """Seconds of a stack by itself.

        Raises:
            PlanError: it was not measured.
        """
        curve = self.curves.get(layer, {}).get((scheme_name, variant))
        if curve is None or not curve.points:
            raise PlanError(f"{layer}: no times of scheme '{scheme_name}' are known")
        return curve.seconds(ranks)

    def ratio(self, choices: Sequence[Choice]) -> float:
        """Time of the network after / before, if these choices are made."""
        gained = sum(
            self.own[c.layer] - self.layer_seconds(c.layer, c.scheme, c.variant, c.ranks) for c in choices
        )
        return 1 - self.factor * gained / self.whole

    def corrected(self, factor: float) -> LatencyCost:
        """With another factor."""
        return replace(self, factor=factor)
