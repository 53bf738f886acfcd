"""Factorizations of a network's layers: everything that a plan chooses from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .calibrate import Calibration
from .calibration.shrink import SHARES, HeldOut, drawn
from .conv import ConvLayer, LayerStatistics, SecondPass
from .lowrank import Factorization, FitOptions, LayerFit
from .planning import Choice, Request
from .progress import track

#: Of the largest useful ranks, where fits are judged: a rank that a plan might choose.
_JUDGED = 2 / 3
#: A share must lower the squared error of a fit at least to this; differences below are those of the draw.
_GAIN = 0.98


@dataclass(frozen=True, eq=False)
class Factored:
    """Factorizations of layers.

    Attributes:
        layers: factorizations by layer name.
        shares: how far the covariances of layers were drawn towards simpler ones, where they were; see
            `calibration.shrink`.
    """

    layers: Mapping[str, Sequence[Factorization]]
    shares: Mapping[str, float] = field(default_factory=dict)

    def of(self, choice: Choice) -> Factorization:
        """The factorization that a choice names."""
        kind = (choice.scheme, choice.variant)
        return next(one for one in self.layers[choice.layer] if (one.scheme, one.variant) == kind)


def factorize(
    layers: Sequence[ConvLayer], wanted: Mapping[str, Sequence[Request]], options: FitOptions,
    calibration: Calibration | None, seen: dict[str, LayerStatistics],
) -> Factored:  # fmt: skip
    """Factorize layers.

    Args:
        layers: with their weights.
        wanted: by layer name, at least one for each.
        options: of the fits.
        calibration: what layers see; None for weights only.
        seen: statistics of layers; taken out as they are used, since they are large.
    """
    second_pass = None if calibration is None else calibration.second_pass
    held_out = HeldOut({}) if calibration is None else calibration.held_out_patches(layers)
    factored, shares = {}, {}
    for layer in track(layers, "factoring layers"):
        first, *others = wanted[layer.name]
        fit = _Fit(layer, first, options, second_pass)
        share, fitted, found = fit.best(seen.pop(layer.name, None), held_out)
        factored[layer.name] = [
            found, *(fitted.factorize(other.scheme, other.variant, other.max_ranks) for other in others)
        ]  # fmt: skip
        if share:
            shares[layer.name] = share
    return Factored(factored, shares)


@dataclass(frozen=True, eq=False)
class _Fit:
    """One request for a layer, under statistics that are drawn more or less far towards simpler ones."""

    layer: ConvLayer
    request: Request
    options: FitOptions
    second_pass: SecondPass | None

    def best(
        self, statistics: LayerStatistics | None, held_out: HeldOut
    ) -> tuple[float, LayerFit, Factorization]:
        """The share, what fits, and the factorization that loses least of what was held out."""
        if statistics is None or statistics.covariance is None or self.layer.name not in held_out.patches:
            return 0.0, *self._under(statistics, self.options)
        # Alternations change no choice that was seen (nsfw), and take longer than all the rest (HED).
        closed = replace(self.options, refine=0)
        chosen, under = 0.0, statistics
        least = self._loss(self._under(statistics, closed)[1], statistics, held_out)
        for share in SHARES:
            simpler = drawn(statistics, self.layer.geometry, share)
            loss = self._loss(self._under(simpler, closed)[1], statistics, held_out)
            if loss > _GAIN * least:
                break
            chosen, under, least = share, simpler, loss
        return chosen, *self._under(under, self.options)

    def _under(
        self, statistics: LayerStatistics | None, options: FitOptions
    ) -> tuple[LayerFit, Factorization]:
        fitted = LayerFit(self.layer, statistics, options, self.second_pass)
        request = self.request
        return fitted, fitted.factorize(request.scheme, request.variant, request.max_ranks)

    def _loss(self, found: Factorization, statistics: LayerStatistics, held_out: HeldOut) -> float:
        ranks = tuple(max(1, int(_JUDGED * rank)) for rank in found.max_ranks)
        return held_out.loss(self.layer, found.factors(ranks), statistics)
