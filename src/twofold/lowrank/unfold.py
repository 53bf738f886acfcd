"""How a convolution's weight becomes a matrix, and how the factors of that matrix become convolutions.

A stack of two convolutions shares out the kernel's axes: some belong to the first convolution, the others to
the second, and each has size 1 along the other's axes. With the weight W[o, i, k...] unfolded to a matrix
with rows (i, axes of the first) and columns (o, axes of the second), the stack computes exactly the
convolution of the matrix product V H, where V (rows, r) is the first convolution and H (r, columns) the
second:

    y[o] = sum over i, a, b of W[o, i, a, b] x[i, a, b]
         = sum over k, b of H[k, (o, b)] * (sum over i, a of V[(i, a), k] x[i, a, b]).

The same holds of a transposed convolution, where each tap adds to an output position of its own: the first
makes the finer positions along its axes, the second those along the others.

Stride, pad and dilation of an axis go with the axis. The zeros that the layer would see in its padding along
an axis of the second convolution are there too, because the first has no bias: it turns zeros into zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from twofold.conv import Array, ConvGeometry, Size


@dataclass(frozen=True)
class Split:
    """Which axes of the kernel belong to the first of two convolutions, and which to the second."""

    first: tuple[int, ...]
    second: tuple[int, ...]

    def rows(self, geometry: ConvGeometry) -> int:
        """Rows of the unfolding: C_in times the kernel sizes of the first convolution."""
        return geometry.c_in * math.prod(geometry.kernel[a] for a in self.first)

    def columns(self, geometry: ConvGeometry) -> int:
        """Columns of the unfolding: C_out times the kernel sizes of the second convolution."""
        return geometry.c_out * self.taps(geometry)

    def taps(self, geometry: ConvGeometry) -> int:
        """Number of kernel positions of the second convolution."""
        return math.prod(geometry.kernel[a] for a in self.second)


def part(
    geometry: ConvGeometry, c_out: int, c_in: int, axes: tuple[int, ...], groups: int = 1
) -> ConvGeometry:
    """Geometry of one convolution of a stack: the layer's along `axes`, 1 with stride 1 along the others."""
    own = [axis in axes for axis in range(len(geometry.kernel))]
    return ConvGeometry(
        c_out,
        c_in,
        tuple(k if mine else 1 for k, mine in zip(geometry.kernel, own, strict=True)),
        tuple(s if mine else 1 for s, mine in zip(geometry.stride, own, strict=True)),
        tuple(p if mine else (0, 0) for p, mine in zip(geometry.pad, own, strict=True)),
        tuple(d if mine else 1 for d, mine in zip(geometry.dilation, own, strict=True)),
        groups,
        layer_type=geometry.semantics.factor(own),
        output_padding=tuple(p if mine else 0 for p, mine in zip(geometry.output_padding, own, strict=True)),
    )


def pair_chain(geometry: ConvGeometry, split: Split, rank: int) -> tuple[ConvGeometry, ...]:
    """Geometries of the two convolutions with `rank` channels between them."""
    return (
        part(geometry, rank, geometry.c_in, split.first),
        part(geometry, geometry.c_out, rank, split.second),
    )


def _order(split: Split) -> tuple[int, ...]:
    """Axes of the weight in the order of the unfolding: C_in, first axes, C_out, second axes."""
    return (1, *(2 + a for a in split.first), 0, *(2 + a for a in split.second))


def unfold(weight: Array, geometry: ConvGeometry, split: Split) -> Array:
    """Return the weight (C_out, C_in, *kernel) as a matrix (rows, columns); a copy where axes move."""
    return weight.transpose(_order(split)).reshape(split.rows(geometry), -1)


def transposed(weight: Array, geometry: ConvGeometry, split: Split) -> tuple[Array, ConvGeometry, Split]:
    """Exchange the two sides: the arguments whose unfolding is the transposed matrix; a view."""
    swapped = replace(geometry, c_out=geometry.c_in, c_in=geometry.c_out)
    return weight.swapaxes(0, 1), swapped, Split(split.second, split.first)


def unfold_chunks(
    weight: Array, geometry: ConvGeometry, split: Split, values: int = 1 << 23
) -> Iterator[tuple[slice, Array]]:
    """Yield the unfolding as blocks of columns, so that a large weight is never copied as a whole.

    Args:
        weight: (C_out, C_in, *kernel).
        geometry: its shape.
        split: how it is unfolded.
        values: about how many numbers a block holds.

    Yields:
        The slice of columns and the block (rows, columns of the slice), C-contiguous.
    """
    taps = split.taps(geometry)
    step = max(1, values // (split.rows(geometry) * taps))
    for start in range(0, geometry.c_out, step):
        stop = min(start + step, geometry.c_out)
        block = weight[start:stop].transpose(_order(split)).reshape(split.rows(geometry), -1)
        yield slice(start * taps, stop * taps), np.ascontiguousarray(block)


def fold(matrix: Array, geometry: ConvGeometry, split: Split) -> Array:
    """Undo `unfold`: a matrix (rows, columns) as a weight (C_out, C_in, *kernel)."""
    order = _order(split)
    shape = tuple(geometry.weight_shape[axis] for axis in order)
    return matrix.reshape(shape).transpose(np.argsort(order))


def first_weight(V: Array, geometry: ConvGeometry, split: Split) -> Array:
    """Return V (rows, r) as the weight (r, C_in, *kernel) of the first convolution."""
    kernel: Size = tuple(k if a in split.first else 1 for a, k in enumerate(geometry.kernel))
    return np.ascontiguousarray(V.T).reshape(V.shape[1], geometry.c_in, *kernel)


def second_weight(H: Array, geometry: ConvGeometry, split: Split) -> Array:
    """Return H (r, columns) as the weight (C_out, r, *kernel) of the second convolution."""
    kernel: Size = tuple(k if a in split.second else 1 for a, k in enumerate(geometry.kernel))
    moved = H.reshape(H.shape[0], geometry.c_out, -1).swapaxes(0, 1)
    return np.ascontiguousarray(moved).reshape(geometry.c_out, H.shape[0], *kernel)


def patch_strips(patch: Array, geometry: ConvGeometry, split: Split) -> Array:
    """View a patch (d,) as (rows, taps): what the first convolution sees at each tap of the second."""
    axes = (0, *(1 + a for a in split.first), *(1 + a for a in split.second))
    return patch.reshape(geometry.c_in, *geometry.kernel).transpose(axes).reshape(split.rows(geometry), -1)
