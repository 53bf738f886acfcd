"""Factorizations of a network's layers: everything that a plan chooses from."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ..calibration.shrink import SHRINKAGES, Holdout, drawn
from ..conv import ConvLayer, Factors, LayerStatistics, SecondPass
from ..lowrank import Factorization, FitOptions, LayerFit, scheme
from ..planning import Choice, Request
from .abreast import abreast
from .cache import RunCache
from .calibrate import Calibration
from .recalled import RecalledFits, share_stacks
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
        cache: results of runs, and which process makes them.
        looked_at: layers that are fitted to what they are given.
    """

    layers: Mapping[str, Sequence[Factorization]]
    shrinkages: Mapping[str, float] = field(default_factory=dict)
    cache: RunCache = field(default_factory=RunCache)
    looked_at: Sequence[ConvLayer] = ()

    def stacks(self, choices: Sequence[Choice]) -> dict[str, Factors]:
        """The stacks that choices name, by layer."""
        share_stacks(self.cache, [(self.of(one), one.ranks) for one in choices], final=True)
        ordered = choices[::-1]  # the last layers are mostly the largest

        def one(choice: Choice) -> Factors:
            return self.of(choice).factors(choice.ranks)

        found = dict(
            zip(
                (choice.layer for choice in ordered),
                abreast(one, ordered, "computing factors", self.looked_at),
                strict=True,
            )
        )
        return {choice.layer: found[choice.layer] for choice in choices}

    def draft(self, choices: Sequence[Choice]) -> bool:
        """Fit shortly what choices name, where only estimates are known of it; whether there was any."""
        unknown = [(found, one) for one in choices if not (found := self.of(one)).knows(one.ranks)]
        share_stacks(self.cache, [(found, one.ranks) for found, one in unknown], final=False)

        def one(pair: tuple[Factorization, Choice]) -> None:
            found, choice = pair
            found.trial(choice.ranks)

        deque(abreast(one, unknown[::-1], "estimating errors", self.looked_at), maxlen=0)
        return bool(unknown)

    def of(self, choice: Choice) -> Factorization:
        """The factorization that a choice names."""
        split = (choice.scheme, choice.variant)
        return next(one for one in self.layers[choice.layer] if (one.scheme, one.variant) == split)


def factorize(
    layers: Sequence[ConvLayer], wanted: Mapping[str, Sequence[Request]], options: FitOptions,
    calibration: Calibration | None, seen: LayerSource, cache: RunCache,
) -> Factored:  # fmt: skip
    """Factorize layers, each in the process that owns it.

    Args:
        layers: with their weights.
        wanted: by layer name, at least one for each.
        options: of the fits.
        calibration: inputs and what runs them; None for weights only.
        seen: statistics of layers; taken out as they are used, since they are large.
        cache: results of runs, and which process makes them.
    """
    second_pass = None if calibration is None else calibration.second_pass
    held_out = calibration.holdout if calibration is not None and calibration.has_holdout else None
    # What is fitted to weights alone is quick, and not kept; several processes share it all the same.
    fits = {
        layer.name: RecalledFits(layer, wanted[layer.name])
        if calibration is None and not cache.ranks.several
        else RecalledFits.of(layer, wanted[layer.name], options, seen.keys, held_out, cache)
        for layer in layers
    }
    made: dict[str, tuple[float, list[Factorization]]] = {}

    def make(names: Sequence[str]) -> None:
        missing = [layer for layer in layers if layer.name in names]
        holdout = {} if calibration is None else calibration.holdout_patches(missing)

        def one(layer: ConvLayer) -> tuple[float, list[Factorization]]:
            fit = _Fit(layer, wanted[layer.name], options, second_pass)
            shrinkage, fitted = fit.best(seen.take(layer.name), holdout.pop(layer.name, None))
            return shrinkage, fits[layer.name].keep(shrinkage, fitted)

        missing = sorted(missing, key=lambda layer: -layer.geometry.params)
        found = abreast(one, missing, "factoring layers", _with_covariances(missing, calibration))
        made.update(zip((layer.name for layer in missing), found, strict=True))

    cache.share("fits", {name: (one.key,) for name, one in fits.items()}, make)
    # What another process made is read; what nobody can hand on is made by everybody.
    make([name for name, one in fits.items() if name not in made and one.stored is None])
    for layer in layers:
        stored = fits[layer.name].stored if layer.name not in made else None
        if stored is not None:
            fit = _Fit(layer, wanted[layer.name], options, second_pass)
            again = partial(fit.again, partial(seen.take, layer.name), stored[0])
            made[layer.name] = stored[0], fits[layer.name].recalled(again)
    return Factored(
        {layer.name: made[layer.name][1] for layer in layers},
        {layer.name: made[layer.name][0] for layer in layers if made[layer.name][0]},
        cache,
        _with_covariances(layers, calibration),
    )


def _with_covariances(layers: Sequence[ConvLayer], calibration: Calibration | None) -> Sequence[ConvLayer]:
    """The layers, where they are fitted to what they are given: fits to weights alone share their threads."""
    return layers if calibration is not None else ()


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
