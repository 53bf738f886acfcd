"""Fitting in the network's metric: errors of a layer's output count as its outputs feel them.

With G = E[J^T J] (see `calibration.gather`) an error d of the layer's output costs d^T G d in the outputs.
With M = G^(p/2) and its inverse,

    ||M (y - y')||^2 = ||(M W) x - (M W') x||^2,

so a layer with the weight M W and the bias M b is fitted by any scheme as it is, and M^-1 is put behind the
last factor. Full rank stays exact. Small eigenvalues of G are sampled badly, and what they let pass may
matter on other inputs: they are raised, and p may stay below 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from twofold.conv import Array, ConvLayer, FactorConv, Factors, LayerStatistics, SecondPass, Size
from twofold.lowrank.assemble import checked_weight
from twofold.lowrank.measure import as_stored
from twofold.lowrank.options import FitOptions
from twofold.lowrank.schemes import Factorization, scheme

#: Multiple of the mean eigenvalue that is added to all of them.
_DAMPING = 1e-3


class LayerFit:
    """One layer, ready to be decomposed by several schemes, in the network's metric where it is known."""

    def __init__(
        self, layer: ConvLayer, statistics: LayerStatistics | None = None,
        options: FitOptions | None = None, second_pass: SecondPass | None = None,
    ) -> None:  # fmt: skip
        """Weight the layer's outputs.

        Args:
            layer: the layer, with its weight.
            statistics: of its inputs; None for weights only.
            options: numerical options.
            second_pass: gathers what a fit needs where `statistics` holds no full covariance.
        """
        self._options = options or FitOptions()
        self._statistics, self._second_pass = statistics, second_pass
        self._original, self._layer, self._inverse = layer, layer, None
        weight = checked_weight(layer)
        self._dtype = np.promote_types(weight.dtype, np.float32)
        gradient = None if statistics is None else statistics.gradient
        if gradient is not None and self._options.metric_power:
            # What couples the outputs of two groups cannot be used: their factors are apart.
            own = np.kron(
                np.eye(layer.geometry.groups), np.ones((len(gradient) // layer.geometry.groups,) * 2)
            )
            metric, self._inverse = _roots(gradient * own, self._options.metric_power / 2)
            bias = None if layer.bias is None else metric @ layer.bias
            # 24 bits: what is rounded to half precision are the finished factors, not those in the metric.
            self._layer = replace(layer, weight=np.tensordot(metric, weight, axes=1), bias=bias, bits=24)

    def factorize(self, name: str, variant: str, max_ranks: Size | None = None) -> Factorization:
        """Decompose the layer by the scheme `name`; see `Scheme.factorize`."""
        found = scheme(name).factorize(
            self._layer, variant, self._statistics,
            max_ranks=max_ranks, options=self._options, second_pass=self._second_pass,
        )  # fmt: skip
        return found if self._inverse is None else InMetric(self._original, found, self._inverse, self._dtype)


@dataclass(frozen=True, eq=False)
class InMetric:
    """A factorization of a layer whose outputs were weighted, read as one of the layer itself.

    Attributes:
        layer: the layer itself.
        weighted: what was factorized.
        inverse: (C_out, C_out), takes the weighted outputs back.
        dtype: of the factors.
    """

    layer: ConvLayer
    weighted: Factorization
    inverse: Array
    dtype: np.dtype[np.floating]

    @property
    def scheme(self) -> str:
        """See `Factorization`."""
        return self.weighted.scheme

    @property
    def variant(self) -> str:
        """See `Factorization`."""
        return self.weighted.variant

    @property
    def max_ranks(self) -> Size:
        """See `Factorization`."""
        return self.weighted.max_ranks

    @property
    def ridge(self) -> float:
        """See `Factorization`."""
        return self.weighted.ridge

    @property
    def singular_values(self) -> None:
        """None: those of the weighted layer say nothing of the layer itself."""
        return None

    def energy_errors(self) -> Array:
        """Lost shares of the weighted outputs' variance."""
        return self.weighted.energy_errors()

    def energy_error(self, ranks: Size) -> float:
        """Lost share of the weighted outputs' variance."""
        return self.weighted.energy_error(ranks)

    def relative_error(self, ranks: Size) -> float:
        """Square root of `energy_error`."""
        return self.weighted.relative_error(ranks)

    def factors(self, ranks: Size) -> Factors:
        """See `Factorization`."""
        return self._back(self.weighted.factors(ranks))

    def trial_ranks(self) -> tuple[Size, ...] | None:
        """See `Factorization`."""
        return self.weighted.trial_ranks()

    def trial(self, ranks: Size) -> tuple[float, Factors]:
        """See `Factorization`."""
        error, found = self.weighted.trial(ranks)
        return error, self._back(found)

    def _back(self, found: Factors) -> Factors:
        *first, last = found.convs
        back = replace(
            last,
            weight=np.tensordot(self.inverse, last.weight, axes=1),
            bias=None if last.bias is None else self.inverse @ last.bias,
        )
        convs = tuple(self._cast(conv) for conv in (*first, back))
        return as_stored(self.layer, replace(found, convs=convs))

    def _cast(self, conv: FactorConv) -> FactorConv:
        bias = None if conv.bias is None else conv.bias.astype(self.dtype)
        return replace(conv, weight=conv.weight.astype(self.dtype), bias=bias)


def _roots(gradient: Array, power: float) -> tuple[Array, Array]:
    """G^power and its inverse, both symmetric."""
    values, vectors = np.linalg.eigh(gradient)
    values = np.maximum(values, 0) + _DAMPING * float(np.mean(values))
    return (vectors * values**power) @ vectors.T, (vectors * values**-power) @ vectors.T
