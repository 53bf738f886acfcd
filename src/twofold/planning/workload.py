"""Counting MACs and params of layers and of the stacks that may replace them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from twofold.conv import ConvGeometry, ConvLayer, Size, Skipped
from twofold.errors import ModelError

Counts = NDArray[np.int64]
#: Counts up to here stay exact in int64 and float64, and so do those of stacks that cost somewhat more.
_MOST = 2**53


@dataclass(frozen=True)
class Workload:
    """How MACs are counted.

    Attributes:
        per_position: count MACs per output position of each layer instead of per image: the way out where the
            input size of a layer that may be decomposed is not known. The ratio of one layer stays nearly
            exact (borders apart), but in the sum over layers every layer weighs as if all outputs had the
            same size.
    """

    per_position: bool = False

    @classmethod
    def of(cls, layers: Sequence[ConvLayer | Skipped]) -> Workload:
        """Count per image if the input sizes of all layers that may be decomposed are known.

        Where there are such layers, those that stay do not change the unit: they are left out of the sums
        where their MACs are not known, which every table says.

        Raises:
            ModelError: a layer costs more than can be counted.
        """
        for layer in layers:
            macs, params = layer.macs or 0, layer_params(layer)
            if max(macs, params) > _MOST:
                raise ModelError(
                    f"{layer.name}: {macs} multiply-accumulates and {params} weights are more than can be "
                    f"planned ({_MOST}); are its sizes and those of the inputs right?"
                )
        unsized = [
            not layer.input_sizes if isinstance(layer, ConvLayer) else layer.macs is None for layer in layers
        ]
        may = [one for one, layer in zip(unsized, layers, strict=True) if isinstance(layer, ConvLayer)]
        return cls(any(may or unsized))

    @property
    def unit(self) -> str:
        """What the MACs refer to: "image" or "output position"."""
        return "output position" if self.per_position else "image"

    def each(self, layer: ConvLayer, chain: tuple[ConvGeometry, ...]) -> tuple[int | Fraction, ...]:
        """MACs of each convolution of `chain` if it stood in the layer's place."""
        if not self.per_position:
            return layer.costs(chain)
        if any(geometry.semantics.per_input for geometry in chain):
            # These are counted per position of the chain's input, which each makes finer for the next.
            finer = [math.prod(geometry.stride) for geometry in chain]
            return tuple(geometry.params * math.prod(finer[:i]) for i, geometry in enumerate(chain))
        # A convolution runs once per position of its own output, which is as many times finer than the
        # chain's output as the later convolutions stride over.
        strides = [math.prod(geometry.stride) for geometry in chain]
        return tuple(geometry.params * math.prod(strides[i + 1 :]) for i, geometry in enumerate(chain))

    def macs(self, layer: ConvLayer, chain: tuple[ConvGeometry, ...]) -> int:
        """MACs if `chain` stood in the layer's place."""
        return round(sum(self.each(layer, chain)))

    def layer_macs(self, layer: ConvLayer | Skipped) -> int:
        """MACs of a layer as it is."""
        if isinstance(layer, ConvLayer):
            return self.macs(layer, (layer.geometry,))
        if self.per_position and layer.macs != 0:
            return _skipped_params(layer)
        return layer.macs or 0

    def grid(
        self, layer: ConvLayer, chain: Callable[[Size], tuple[ConvGeometry, ...]], axes: Sequence[Counts]
    ) -> tuple[Counts, Counts]:
        """MACs and params of a chain at every combination of ranks.

        Both are sums over the convolutions of a constant times the product of those ranks that their params
        grow with; which these are, and the constants, are read off the chain at the ranks 1 and 2.

        Args:
            layer: the layer.
            chain: the geometries of the stack at some ranks.
            axes: the ranks to combine, one array per rank.

        Returns:
            MACs and params, each with one axis per rank.
        """
        meshes = np.meshgrid(*axes, indexing="ij", sparse=True)
        shape = tuple(len(axis) for axis in axes)
        macs, params = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for term in _terms(self, chain, len(axes), layer.geometry, layer.input_sizes, layer.runs):
            area = np.ones((), np.int64)
            for ranks, grows in zip(meshes, term.grows, strict=True):
                area = area * ranks if grows else area
            macs += area * term.macs.numerator // term.macs.denominator
            params += term.params * area
        return macs, params


@dataclass(frozen=True)
class _Term:
    """What a convolution of a stack costs at rank 1, and the ranks that this grows with."""

    macs: int | Fraction
    params: int
    grows: tuple[bool, ...]


@lru_cache(maxsize=4096)  # plans ask several times, and networks repeat their layers
def _terms(
    workload: Workload, chain: Callable[[Size], tuple[ConvGeometry, ...]], count: int,
    geometry: ConvGeometry, sizes: tuple[Size, ...], runs: tuple[Fraction, ...],
) -> tuple[_Term, ...]:  # fmt: skip
    unit = chain((1,) * count)
    doubled = [chain(tuple(2 if i == axis else 1 for i in range(count))) for axis in range(count)]
    layer = ConvLayer("", geometry, None, input_sizes=sizes, runs=runs)
    return tuple(
        _Term(macs, one.params, tuple(larger[i].params > one.params for larger in doubled))
        for i, (one, macs) in enumerate(zip(unit, workload.each(layer, unit), strict=True))
    )


def _skipped_params(skipped: Skipped) -> int:
    if skipped.params or skipped.geometry is None:
        return skipped.params
    return skipped.geometry.params


def layer_params(layer: ConvLayer | Skipped) -> int:
    """Weights of a layer, bias not counted."""
    return layer.geometry.params if isinstance(layer, ConvLayer) else _skipped_params(layer)


def chain_params(chain: tuple[ConvGeometry, ...]) -> int:
    """Weights of a chain, bias not counted (the last convolution keeps the layer's own)."""
    return sum(geometry.params for geometry in chain)
