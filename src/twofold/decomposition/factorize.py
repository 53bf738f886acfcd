"""Factorizations of a network's layers: everything that a plan chooses from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ..calibration.shrink import SHRINKAGES, Holdout, drawn
from ..conv import ConvLayer, LayerStatistics, SecondPass
from ..lowrank import Factorization, FitOptions, LayerFit, scheme
from ..planning import Choice, Request
from ..progress import track
from .calibrate import Calibration
from .recalled import RecalledFits
from .statistics import LayerSource

#: Of the largest useful ranks, where fits are judged: a rank that a plan might choose.
_JUDGED = 2 / 3
#: A shrinkage must lower the squared error of a fit at least to this; differences below are those of the
#: draw.
_GAIN = 0.98


@dataclass(frozen=True, eq=False)
class Factored:
    """Factorizations of layers.

    Attributes:
        layers: factorizations by layer name.
        shrinkages: shrinkage of the covariances of layers towards simpler ones, where there is any; see
            `calibration.shrink`.
    """

    layers: Mapping[str, Sequence[Factorization]]
    shrinkages: Mapping[str, float] = field(default_factory=dict)

    def of(self, choice: Choice) -> Factorization:
        """The factorization that a choice names."""
        split = (choice.scheme, choice.variant)
        return next(one for one in self.layers[choice.layer] if (one.scheme, one.variant) == split)


def factorize(
    layers: Sequence[ConvLayer], wanted: Mapping[str, Sequence[Request]], options: FitOptions,
    calibration: Calibration | None, seen: LayerSource,
) -> Factored:  # fmt: skip
    """Factorize layers.

    Args:
        layers: with their weights.
        wanted: by layer name, at least one for each.
        options: of the fits.
        calibration: inputs and what runs them; None for weights only.
        seen: statistics of layers; taken out as they are used, since they are large.
    """
    second_pass = None if calibration is None else calibration.second_pass
    fits = {
        layer.name: RecalledFits.of(layer, wanted[layer.name], options, calibration, seen.keys)
        for layer in layers
    }
    fitted_anew = [layer for layer in layers if fits[layer.name].stored is None]
    holdout = {} if calibration is None else calibration.holdout_patches(fitted_anew)
    factored, shrinkages = {}, {}
    for layer in track(layers, "factoring layers"):
        kept = fits[layer.name]
        fit = _Fit(layer, wanted[layer.name], options, second_pass)
        if kept.stored is None:
            shrinkage, fitted = fit.best(seen.take(layer.name), holdout.pop(layer.name, None))
            factored[layer.name] = kept.keep(shrinkage, fitted)
        else:
            shrinkage, _ = kept.stored
            again = partial(fit.again, partial(seen.take, layer.name), shrinkage)
            factored[layer.name] = kept.recalled(again)
        if shrinkage:
            shrinkages[layer.name] = shrinkage
    return Factored(factored, shrinkages)


def _judge(layer: ConvLayer, requests: Sequence[Request]) -> Request:
    """What is fitted under several covariances to choose among them: a scheme that is fitted at once."""
    closed = (one for one in requests if scheme(one.scheme).nested)
    return next(closed, None) or Request("channel", "", (max(1, layer.geometry.c_out // 2),))


def _without_strips(requests: Sequence[Request]) -> Sequence[Request]:
    """What can be fitted where covariances along an axis do not fit into memory; all where nothing can.

    That they do not is known once the layer was looked at, so that other schemes were to compete.
    """
    return [one for one in requests if scheme(one.scheme).outputs_suffice] or requests


@dataclass(frozen=True, eq=False)
class _Fit:
    """What is wanted of a layer, under statistics that are drawn more or less far towards simpler ones."""

    layer: ConvLayer
    requests: Sequence[Request]
    options: FitOptions
    second_pass: SecondPass | None

    def best(
        self, statistics: LayerStatistics | None, holdout: Holdout | None
    ) -> tuple[float, list[Factorization]]:
        """The shrinkage of which the fit loses least of what was held out, and what is wanted under it."""
        fitted = LayerFit(self.layer, statistics, self.options, self.second_pass)
        if statistics is not None and statistics.strips[0].ndim == 1:
            return 0.0, [_made(fitted, one) for one in _without_strips(self.requests)]
        if statistics is None or statistics.covariance is None or holdout is None:
            return 0.0, self._all(fitted, {})
        judge = _judge(self.layer, self.requests)
        found = _made(fitted, judge)
        ranks = tuple(max(1, int(_JUDGED * rank)) for rank in found.max_ranks)

        def loss(found: Factorization) -> float:
            # Alternations change no choice that was seen (nsfw), and take longer than all the rest (HED).
            return holdout.loss(self.layer, found.trial(ranks)[1], statistics)

        chosen, known, least = 0.0, {judge: found}, loss(found)
        for shrinkage in SHRINKAGES:
            simpler = fitted.under(drawn(statistics, self.layer.geometry, shrinkage))
            lost = loss(_made(simpler, replace(judge, max_ranks=ranks)))
            if lost > _GAIN * least:
                break
            chosen, fitted, known, least = shrinkage, simpler, {}, lost
        return chosen, self._all(fitted, known)

    def again(self, statistics: Callable[[], LayerStatistics | None], shrinkage: float) -> LayerFit:
        """The layer as `best` fitted it, once the shrinkage is known."""
        given = statistics()
        fitted = LayerFit(self.layer, given, self.options, self.second_pass)
        if given is None or not shrinkage:
            return fitted
        return fitted.under(drawn(given, self.layer.geometry, shrinkage))

    def _all(self, fitted: LayerFit, known: Mapping[Request, Factorization]) -> list[Factorization]:
        return [known.get(one) or _made(fitted, one) for one in self.requests]


def _made(fitted: LayerFit, request: Request) -> Factorization:
    return fitted.factorize(request.scheme, request.variant, request.max_ranks)
