"""The scheme of a 1 x 1, a depthwise and a 1 x 1 convolution: a sum of separable terms, see `separable`.

Terms of different ranks are not nested, so every rank is a fit of its own. A few of them, the anchors, show
how the error falls with the rank; the others are predicted by a curve through them, log error over log rank,
until they are fitted themselves. Every fit begins at a short one of its rank, the draft, which begins at the
first anchor, whatever was fitted before: terms of least energy are dropped, or others are added for what is
left. How the loss falls in a draft predicts what the fit will lose.

Over the memory limit all this is done to a model of the covariance, see `strips`. Only where the factors of a
rank are asked for another pass over the data fits the last convolution, and tells the error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log2

import numpy as np
from numpy.typing import NDArray

from twofold.conv import Array, ConvGeometry, ConvLayer, FactorConv, Factors, Size
from twofold.errors import OptionError
from twofold.lowrank.assemble import checked_weight, corrected_bias, output_dtype, pair_factors
from twofold.lowrank.measure import as_stored
from twofold.lowrank.problem import Problem
from twofold.lowrank.protocols import Factorization, KnownErrors
from twofold.lowrank.regression import no_second_pass, regress_seen
from twofold.lowrank.separable import Covariance, DenseCovariance, KroneckerCovariance, Solved, TermProblem
from twofold.lowrank.spectra import one_thread
from twofold.lowrank.strips import StripCovariance
from twofold.lowrank.unfold import Split, part

#: Shares of a layer's weights that the anchors keep; the first begins at none, drafts begin there.
ANCHORS = (0.12, 0.25, 0.5)
#: Above this many values of a patch, the last anchor would cost more than all else.
_LARGE = 2400
#: Evaluations of the first anchor, which begins at none, of a draft, which begins there, and of a fit to the
#: end, which begins at a draft: so many, and so many more for each alternation that the user asks for.
_ANEW, _DRAFT, _WARM, _MORE = 45, 12, 30, 15
#: The loss falls like a power of the number of evaluations, more slowly with time by this share; no more is
#: expected of it than this.
_SLOWER, _MOST = 0.75, 0.2
#: Log error over log rank, where one fit alone is known; beyond the fits it is between these two.
_SLOPE, _STEEPEST, _FLATTEST = -2.5, -6.0, -1.0


def full_rank(geometry: ConvGeometry) -> int:
    """Rank at which a sum of terms gives any weight: terms that are one-hot along two of the three modes."""
    taps = _taps(geometry)
    return min(geometry.c_in * taps, geometry.c_out * taps, geometry.c_in * geometry.c_out)


def depthwise_chain(geometry: ConvGeometry, rank: int) -> tuple[ConvGeometry, ...]:
    """Geometries of the three convolutions; stride, pad and dilation lie on the depthwise one."""
    return (
        part(geometry, rank, geometry.c_in, ()),
        part(geometry, rank, rank, _axes(geometry), groups=rank),
        part(geometry, geometry.c_out, rank, ()),
    )


@dataclass(frozen=True, eq=False)
class TermFit:
    """Terms at one rank.

    Attributes:
        solved: terms with their last convolution.
        error: lost fraction of the energy.
        expected: what a fit to the end may lose.
    """

    solved: Solved
    error: float
    expected: float


@dataclass(frozen=True, eq=False)
class DepthwiseFits:
    """The fits of one layer, made as they are asked for.

    Attributes:
        scheme: registered name.
        limit: largest rank that can be read.
        layer: the layer.
        mean: (d,), mean of its patches; None without statistics.
        problem: of the terms.
        refine: see `FitOptions`.
        over: over the memory limit, the layer and what its inputs look like; None below it, where only the
            covariance that all schemes share is held.
        fits: what was fitted to the end, by rank.
        drafts: what was not, by rank.
        seen: over the memory limit, fits with the last convolution as another pass has it, by rank.
    """

    scheme: str
    limit: int
    layer: ConvLayer
    mean: Array | None
    problem: TermProblem
    refine: int = 0
    over: Problem | None = None
    fits: dict[int, TermFit] = field(default_factory=dict)
    drafts: dict[int, TermFit] = field(default_factory=dict)
    seen: dict[int, TermFit] = field(default_factory=dict)

    def energy_errors(self) -> Array:
        """Measured for the ranks that were fitted, an estimate for the others."""
        if self.problem.energy > 0:
            for rank in self._anchors():
                self._draft(rank)
        return error_curve(self.layer.geometry, self.limit, self.known().errors())

    def known(self) -> KnownErrors:
        """Energy errors as far as they are known; none where all errors vanish."""
        if not self.problem.energy > 0:
            return KnownErrors()
        return KnownErrors(
            {(rank,): fit.expected for rank, fit in self.drafts.items()},
            {(rank,): fit.error for rank, fit in (self.fits | self.seen).items()},
        )

    def trial(self, ranks: Size) -> tuple[float, Factors]:
        found = self._draft(ranks[0])
        return found.error, self._stack(found.solved)

    def build(self, ranks: Size) -> Factors:
        (rank,) = ranks
        fit = self._fit(rank)
        if self.over is not None and rank != full_rank(self.layer.geometry):
            if rank not in self.seen:
                self.seen[rank] = self._again(self.over, fit.solved)
            fit = self.seen[rank]
        return self._stack(fit.solved)

    def trial_ranks(self) -> tuple[Size, ...]:
        return tuple((rank,) for rank in self._anchors())

    @property
    def _to_the_end(self) -> int:
        return _evaluations(self.refine)

    def _anchors(self) -> tuple[int, ...]:
        geometry = self.layer.geometry
        fractions = ANCHORS[: len(ANCHORS) - (geometry.c_in * _taps(geometry) > _LARGE)]
        ranks = (max(1, min(self.limit, int(_rank(geometry, fraction)))) for fraction in fractions)
        return tuple(dict.fromkeys(ranks))

    def _draft(self, rank: int) -> TermFit:
        """A short fit; it tells what is lost at other ranks, and is enough to look at the effect of it."""
        first, *_ = self._anchors()
        if rank not in self.drafts:
            begin = None if rank == first else self._draft(first)
            self.drafts[rank] = self._made(rank, begin, _ANEW if begin is None else _DRAFT, draft=True)
        return self.drafts[rank]

    def _fit(self, rank: int) -> TermFit:
        """The fit at a rank, the same whatever was fitted before."""
        if rank not in self.fits:
            self.fits[rank] = self._made(rank, self._draft(rank), self._to_the_end)
        return self.fits[rank]

    def _made(self, rank: int, begin: TermFit | None, evaluations: int, *, draft: bool = False) -> TermFit:
        if rank == full_rank(self.layer.geometry):
            return TermFit(self.problem.exact(), 0.0, 0.0)
        if not self.problem.energy > 0:
            return TermFit(self.problem.solve(self.problem.start(rank)), 0.0, 0.0)
        # Many steps on matrices of some hundred rows: threads that wait for one another cost more than they
        # bring, twice to six times the time on two cores, and far more beside other programs.
        with one_thread():
            terms = self.problem.start(rank) if begin is None else self.problem.moved(begin.solved, rank)
            terms, history = self.problem.improve(terms, evaluations)
            solved = self.problem.solve(terms)
        self.problem.release()
        error = min(solved.lost / self.problem.energy, 1.0)
        goes_on = draft and len(history) >= evaluations
        return TermFit(solved, error, error * (_gain(history, self._to_the_end) if goes_on else 1.0))

    def _again(self, given: Problem, solved: Solved) -> TermFit:
        """The last convolution as another pass over the data has it."""
        if given.second_pass is None:
            raise OptionError(no_second_pass(self.layer))
        split, Z, H0 = Split(_axes(self.layer.geometry), ()), solved.terms.filters, solved.outputs.T
        pair = pair_factors("channel", self.layer, split, Z, H0, self.mean)
        found = regress_seen(given, split, Z, H0, given.second_pass(self.layer, pair))
        explained = float(found.energies().sum())
        lost = found.residual / max(explained + found.residual, 1e-300)
        outputs = found.solve(Z.shape[1]).T
        return TermFit(Solved(solved.terms, outputs, solved.variances, found.residual), lost, lost)

    def _stack(self, solved: Solved) -> Factors:
        channels = self.problem.channel_variances(solved.terms)
        return as_stored(self.layer, stack(self.scheme, self.layer, solved, channels, self.mean))


def work(geometry: ConvGeometry, refine: int) -> tuple[float, float]:
    """See `Scheme.work`: evaluations, each mainly a product of the covariance and the filters."""
    d = geometry.params / geometry.c_out

    def evaluation(fraction: float) -> float:
        rank = _rank(geometry, fraction)
        return 2 * rank * d * (d + rank + 4 * geometry.c_out)

    first, *others = ANCHORS
    drafts = _DRAFT * sum(map(evaluation, others[: len(others) - (d > _LARGE)]))
    return _ANEW * evaluation(first) + drafts, (2 * _DRAFT + _evaluations(refine)) * evaluation(1 / 3)


def _evaluations(refine: int) -> int:
    """Of a fit to the end."""
    return _WARM + refine * _MORE


def _rank(geometry: ConvGeometry, fraction: float) -> float:
    """At which the stack has a fraction of the layer's parameters."""
    return fraction * geometry.params / sum(conv.params for conv in depthwise_chain(geometry, 1))


def fit_terms(given: Problem, scheme: str, rank: int) -> Factorization:
    """Prepare the fits of a layer: to its weight, or to its outputs on the inputs that are described.

    Raises:
        ModelError: weights are missing or not finite, the inputs never vary, or statistics do not fit.
    """
    over = given if given.over_the_limit else None
    fits = DepthwiseFits(
        scheme, rank, given.layer, given.mean, term_problem(given), given.options.refine, over
    )
    ridge = 0.0 if given.statistics is None else given.options.ridge
    return Factorization(
        scheme, "", given.layer.name, (rank,), fits.energy_errors, fits.build, fits.trial, fits.trial_ranks(),
        ridge, known=fits.known,
    )  # fmt: skip


def error_curve(geometry: ConvGeometry, limit: int, known: Mapping[Size, float]) -> Array:
    """Energy errors at the ranks 0..limit from those at some ranks; see `Scheme.error_curve`."""
    if not known:
        return np.zeros(limit + 1)
    measured = {rank: error for (rank,), error in known.items()}
    curve = np.ones(limit + 1)
    curve[1:] = np.minimum(_curve(np.arange(1, limit + 1), measured), 1.0)
    curve[list(measured)] = list(measured.values())
    if limit == full_rank(geometry):
        curve[-1] = 0.0
    return curve


def term_problem(given: Problem) -> TermProblem:
    """The layer as a sum of terms is fitted to it."""
    geometry = given.layer.geometry
    weight = given.weight.reshape(geometry.c_out, geometry.c_in, -1)
    covariance: Covariance
    if given.statistics is None:
        covariance = KroneckerCovariance(np.eye(geometry.c_in), np.eye(weight.shape[2]))
    else:
        shift = given.options.ridge * given.live_variance
        if given.seen.covariance is None:
            covariance = StripCovariance.of(given.seen, geometry, shift)
        else:
            covariance = DenseCovariance(given.held, shift, geometry.c_in)
    return TermProblem(given.layer.name, weight, covariance)


def stack(scheme: str, layer: ConvLayer, solved: Solved, channels: Array, mean: Array | None) -> Factors:
    """Build the three convolutions.

    The two free scales of each term make all channels between the convolutions vary alike, so that one scale
    of int8 suits all of them; what is left of a term's size is in the last convolution. One scale over all
    terms on either side of the depthwise convolution then gives the three weights one norm.

    Args:
        scheme: its name.
        layer: the layer.
        solved: terms with their last convolution.
        channels: (r,), variance of what the first convolution gives.
        mean: (d,), mean of the patches; None without statistics.
    """
    geometry, terms, dtype = layer.geometry, solved.terms, output_dtype(layer)
    shift = None
    if mean is not None:
        weight = checked_weight(layer).reshape(geometry.c_out, -1)
        shift = weight @ mean - solved.outputs @ (terms.filters.T @ mean)
    first, second = (np.sqrt(_positive(variance)) for variance in (channels, solved.variances))
    V, K, U = terms.V / first, terms.K * (first / second), solved.outputs * second
    norms = [float(np.linalg.norm(array)) for array in (V, K, U)]
    if min(norms) > 0:
        common = np.prod(norms) ** (1 / 3)
        V, K, U = (array * (common / norm) for array, norm in zip((V, K, U), norms, strict=True))
    ones = (1,) * len(geometry.kernel)
    rank = V.shape[1]
    shapes = ((rank, geometry.c_in, *ones), (rank, 1, *geometry.kernel), (geometry.c_out, rank, *ones))
    biases = (None, None, corrected_bias(layer, shift))
    convs = tuple(
        FactorConv(shape, np.ascontiguousarray(array, dtype=dtype).reshape(size), bias)
        for shape, array, size, bias in zip(
            depthwise_chain(geometry, rank), (V.T, K.T, U), shapes, biases, strict=True
        )
    )
    return Factors(scheme, (rank,), convs)


def _gain(history: Sequence[float], evaluations: int) -> float:
    """What more evaluations are expected to leave of a loss, by how it fell in the last half of a draft."""
    half, end = history[len(history) // 2 - 1], history[-1]
    if not 0 < end < half or evaluations <= len(history):
        return 1.0
    return max(float((end / half) ** (_SLOWER * log2(evaluations / len(history)))), _MOST)


def _positive(variances: Array) -> Array:
    """Variances, those that vanish beside the others replaced by their mean."""
    live = variances > 1e-20 * max(float(variances.max()), 1e-300)
    return np.where(live, variances, float(variances.mean()) or 1.0)


def _curve(ranks: NDArray[np.integer], measured: dict[int, float]) -> Array:
    """Errors at all ranks from those at some: linear in the logarithms."""
    known = sorted(rank for rank, error in measured.items() if error > 0)
    if not known:
        return np.zeros(len(ranks))
    at, errors = np.log(known), np.log([measured[rank] for rank in known])
    errors = np.minimum.accumulate(errors)
    x = np.log(ranks)
    if len(known) == 1:
        return np.asarray(np.exp(errors[0] + _SLOPE * (x - at[0])))
    slopes = np.clip(np.diff(errors) / np.diff(at), _STEEPEST, _FLATTEST)
    inside = np.interp(x, at, errors)
    below = errors[0] + slopes[0] * np.minimum(x - at[0], 0)
    above = errors[-1] + slopes[-1] * np.maximum(x - at[-1], 0)
    return np.asarray(np.exp(np.where(x < at[0], below, np.where(x > at[-1], above, inside))))


def _taps(geometry: ConvGeometry) -> int:
    return geometry.params // (geometry.c_out * geometry.c_in)


def _axes(geometry: ConvGeometry) -> tuple[int, ...]:
    return tuple(range(len(geometry.kernel)))
