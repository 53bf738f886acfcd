"""Fitting in the network's metric: errors of a layer's output count as its outputs feel them.

With G = E[J^T J] (see `calibration.gather`) an error d of the layer's output costs d^T G d in the outputs.
With M = G^(p/2) and its inverse,

    ||M (y - y')||^2 = ||(M W) x - (M W') x||^2,

so a layer with the weight M W and the bias M b is fitted by any scheme as it is, and M^-1 is put behind the
last factor. Full rank stays exact. Small eigenvalues of G are sampled badly, and what they let pass may
matter on other inputs: they are raised, and p may stay below 1.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import partial

import numpy as np

from twofold.conv import Array, ConvLayer, FactorConv, Factors, LayerStatistics, SecondPass, Size
from twofold.lowrank.assemble import checked_weight, output_dtype
from twofold.lowrank.grouped import Problems
from twofold.lowrank.measure import as_stored
from twofold.lowrank.options import FitOptions
from twofold.lowrank.protocols import Factorization
from twofold.lowrank.schemes import scheme

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
        options = options or FitOptions()
        self._original, self._inverse = layer, None
        weight = checked_weight(layer)
        gradient = None if statistics is None else statistics.gradient
        if gradient is not None and options.metric_power:
            groups = layer.geometry.groups
            if groups > 1:  # what couples the outputs of two groups cannot be used: their factors are apart
                gradient = gradient * np.kron(np.eye(groups), np.ones((len(gradient) // groups,) * 2))
            metric, self._inverse = _roots(gradient, options.metric_power / 2)
            bias = None if layer.bias is None else metric @ layer.bias
            # 24 bits: what is rounded to half precision are the finished factors, not those in the metric.
            layer = replace(layer, weight=np.tensordot(metric, weight, axes=1), bias=bias, bits=24)
        self._problems = Problems(layer, statistics, options, second_pass)

    def under(self, statistics: LayerStatistics) -> LayerFit:
        """The same layer in the same metric, under other statistics of its inputs."""
        other = copy(self)
        other._problems = replace(self._problems, statistics=statistics)
        return other

    def factorize(self, name: str, variant: str, max_ranks: Size | None = None) -> Factorization:
        """Decompose the layer by the scheme `name`; see `OverGroups.factorize`.

        Where outputs were weighted, errors are lost fractions of the weighted outputs' variance.
        """
        found = scheme(name).fit(self._problems, variant, max_ranks)
        return found if self._inverse is None else found.then(partial(_back, self._original, self._inverse))


def _back(layer: ConvLayer, inverse: Array, found: Factors) -> Factors:
    """A stack that gives weighted outputs as one of the layer itself.

    Args:
        layer: the layer itself.
        inverse: (C_out, C_out), takes the weighted outputs back.
        found: the stack.
    """
    dtype = output_dtype(layer)

    def cast(conv: FactorConv) -> FactorConv:
        bias = None if conv.bias is None else conv.bias.astype(dtype)
        return replace(conv, weight=conv.weight.astype(dtype), bias=bias)

    *first, last = found.convs
    back = replace(
        last,
        weight=np.tensordot(inverse, last.weight, axes=1),
        bias=None if last.bias is None else inverse @ last.bias,
    )
    return as_stored(layer, replace(found, convs=tuple(map(cast, (*first, back)))))


def _roots(gradient: Array, power: float) -> tuple[Array, Array]:
    """G^power and its inverse, both symmetric."""
    values, vectors = np.linalg.eigh(gradient)
    values = np.maximum(values, 0) + _DAMPING * float(np.mean(values))
    return (vectors * values**power) @ vectors.T, (vectors * values**-power) @ vectors.T
