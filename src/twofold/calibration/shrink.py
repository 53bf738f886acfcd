"""Covariances of few samples, drawn towards what few samples can tell.

The covariance S of a layer's patches comes from positions that are not independent: those of one image look
alike. Fits to it believe that what these images do not show never comes. So it may be drawn towards a
simpler covariance of the same trace, whose fewer parameters are better known,

    (1 - a) S + a C x K,

where C (C_in x C_in) and K (taps x taps) are the covariances of channels and of taps, each averaged over the
other, and x is the Kronecker product; where a kernel has one tap, towards the multiple of the identity. How
far, no formula told for the networks that were tried: what the shrinkages of Ledoit and Wolf (2004) gain in
the last layers of a classifier they lose in the first ones and in detectors. Patches of held-out samples
tell it, layer by layer: see `Holdout`.

Vectors, which fully connected layers see, have no taps. Their covariance is drawn towards the multiple of the
identity by the shrinkage that is best in the mean square for n normal vectors (Chen, Wiesel, Eldar and Hero,
2010, "Shrinkage algorithms for MMSE covariance estimation", equation 23, "oracle approximating").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..conv import Array, ConvGeometry, ConvLayer, Factors, LayerStatistics
from ..lowrank.measure import composed
from ..progress import track
from .inputs import Inputs
from .runner import Runner
from .statistics import PatchSampler, StatisticsOptions, strips_of

#: Shares of the simpler covariance, tried in this order while they help.
SHRINKAGES = (0.1, 0.25, 0.5)
#: Patches of a layer that judge its fit.
_PATCHES = 2048


@dataclass(frozen=True, eq=False)
class Holdout:
    """What a layer sees in samples that no fit has seen.

    Attributes:
        patches: (rows, taps * C_in), channels running fastest.
    """

    patches: NDArray[np.float32]

    @classmethod
    def gather(
        cls, runner: Runner, layers: Sequence[ConvLayer], inputs: Inputs, seed: int
    ) -> dict[str, Holdout]:
        """Look at convolutions without groups; by layer name.

        Args:
            runner: runs the model.
            layers: layers that the protected outputs depend on.
            inputs: the samples.
            seed: of the draw of positions.
        """
        of_layers = ((layer, layer.geometry) for layer in layers)
        layers = [layer for layer, g in of_layers if g.groups == 1 and g.semantics.spatial]
        options = StatisticsOptions(positions=math.ceil(_PATCHES / inputs.count), seed=seed)
        samplers = {layer.name: PatchSampler(layer.geometry, options) for layer in layers}
        parts: dict[str, list[NDArray[np.float32]]] = {layer.name: [] for layer in layers}
        for batch in track(inputs if layers else (), "looking at held-out samples"):
            for seen in runner.record_inputs(layers, batch):
                for chunk in samplers[seen.layer].chunks(seen.inputs):
                    parts[seen.layer].append(chunk.reshape(len(chunk), -1).copy())
        return {name: cls(np.concatenate(chunks)) for name, chunks in parts.items() if chunks}

    def loss(self, layer: ConvLayer, factors: Factors, statistics: LayerStatistics) -> float:
        """The squared error of a stack, its bias corrected, in the metric of the layer's outputs."""
        assert layer.weight is not None
        left = np.moveaxis(layer.weight - composed(factors), 1, -1).reshape(len(layer.weight), -1)
        taps = math.prod(layer.geometry.kernel)
        mean = statistics.mean.reshape(-1, taps).T.ravel()
        lost = (self.patches - mean.astype(np.float32)) @ left.T.astype(np.float32)
        second = lost.T @ lost
        gradient = statistics.gradient
        return float(np.trace(second) if gradient is None else np.vdot(gradient, second))


def drawn(statistics: LayerStatistics, geometry: ConvGeometry, shrinkage: float) -> LayerStatistics:
    """The statistics of a layer without groups, its full covariance drawn towards the simpler one."""
    assert statistics.covariance is not None
    S, taps = statistics.covariance, math.prod(geometry.kernel)
    blocks = S.reshape(-1, taps, len(S) // taps, taps)
    C, K = np.einsum("aibi->ab", blocks), np.einsum("aiaj->ij", blocks)
    if not np.trace(K) > 0:
        return statistics
    if taps == 1:
        C = np.eye(len(C))
    covariance = (1 - shrinkage) * S
    view = covariance.reshape(blocks.shape)
    for i, j in np.ndindex(taps, taps):
        view[:, i, :, j] += shrinkage * K[i, j] / np.trace(C) * C
    return replace(statistics, covariance=covariance, strips=strips_of(covariance, geometry))


def shrunk(statistics: LayerStatistics) -> LayerStatistics:
    """The statistics of a layer that sees vectors, drawn towards the identity; as they are without S."""
    S = statistics.covariance
    if S is None:
        return statistics
    whole = np.stack([_towards_identity(part, statistics.count) for part in S.reshape(-1, *S.shape[-2:])])
    whole = whole.reshape(S.shape)
    return replace(statistics, covariance=whole, strips=(whole,))


def _towards_identity(S: Array, n: int) -> Array:
    d, trace = len(S), float(np.trace(S))
    if not trace > 0:
        return S
    amount = shrinkage(n, d, trace, float(np.sum(S**2)))
    found = (1 - amount) * S
    found.flat[:: d + 1] += amount * trace / d
    return np.asarray(found)


def shrinkage(n: float, d: int, trace: float, squares: float) -> float:
    """The shrinkage of the identity that is best for a d x d covariance of n normal vectors: tr S, tr S^2."""
    spread = (n + 1 - 2 / d) * (squares - trace**2 / d)
    return min(1.0, ((1 - 2 / d) * squares + trace**2) / spread) if spread > 0 else 1.0
