"""Running moments of a layer's inputs, gathered batch by batch in bounded memory.

**Moments.** Patches p are shifted by the mean s of the first chunk, and sums of p - s and of (p - s)(p - s)^T
are kept in float64; chunks are multiplied in float32. With m = mean(p - s), small because s is close to the
mean,

    mean(p) = s + m,    cov(p) = mean((p - s)(p - s)^T) - m m^T,

where the subtraction cancels nothing of weight (Chan, Golub and LeVeque, 1983, section 2: the shifted data
algorithm).

**Positions.** Of every image at most `positions` output positions are looked at, drawn without replacement by
a generator with the given seed; the same inputs in the same order give the same positions in a second pass.

**Order.** Inside, patches are (*kernel, C_in), so that a tap is one contiguous copy of channels; results are
in the weight's order (C_in, *kernel).
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from twofold.conv import Array, ConvGeometry, ConvLayer, Factors, FactorStatistics, LayerStatistics
from twofold.device import SumOfProducts, product
from twofold.errors import InputError, OptionError
from twofold.lowrank.measure import composed

Indices = NDArray[np.intp]
_CHUNK_BYTES = 64 << 20
#: Buffers that are kept for the next layer: a pass that compares two networks takes two at a time.
_KEPT = 2


@dataclass(frozen=True)
class StatisticsOptions:
    """How statistics are gathered.

    Attributes:
        memory: bytes that one layer's covariance may take while it is gathered; layers that need more (see
            `covariance_bytes`) keep strips only. None for no limit.
        positions: largest number of output positions looked at in each image.
        seed: of the draw of positions.
        strips: bytes that strips may take (see `strips_bytes`); layers that need more keep variances only.
            None for no limit.
    """

    memory: int | None = None
    positions: int = 1024
    seed: int = 0
    strips: int | None = None

    def __post_init__(self) -> None:
        if self.positions < 1:
            raise OptionError(f"positions per image must be 1 or more, got {self.positions}")


def patch_size(geometry: ConvGeometry) -> int:
    """Number of values in a patch, of one group: C_in / groups times the kernel's taps."""
    return geometry.params // geometry.c_out


def covariance_bytes(geometry: ConvGeometry) -> int:
    """Peak bytes of gathering a layer's full covariance: float64 sum and result, one float32 product."""
    return 20 * geometry.groups * patch_size(geometry) ** 2


def strips_bytes(geometry: ConvGeometry) -> int:
    """Peak bytes of gathering a layer's strips: float64 sums and results, one float32 product."""
    channels = geometry.c_in // geometry.groups
    return 20 * geometry.groups * sum((channels * k) ** 2 for k in geometry.kernel)


class _Buffers:
    """Memory for patches, lent while they are cut: layers are looked at one after the other."""

    def __init__(self) -> None:
        self._free: list[Array] = []
        self._lock = Lock()

    @contextmanager
    def lent(self, shape: tuple[int, ...]) -> Iterator[Array]:
        """Within the context an array of float32, with whatever stands in it."""
        size = math.prod(shape)
        with self._lock:
            fitting = [place for place, one in enumerate(self._free) if one.size >= size]
            flat = self._free.pop(fitting[0]) if fitting else None
        if flat is None:
            flat = np.empty(max(size, _CHUNK_BYTES // 4), np.float32)
        try:
            yield flat[:size].reshape(shape)
        finally:
            with self._lock:
                self._free = [*self._free, flat][-_KEPT:]


_BUFFERS = _Buffers()


class PatchSampler:
    """Cuts the patches that a convolution sees, zeros of the padding included, in chunks of bounded size."""

    def __init__(self, geometry: ConvGeometry, options: StatisticsOptions) -> None:
        if geometry.groups != 1:
            raise OptionError(
                f"statistics of grouped convolutions are not gathered (groups = {geometry.groups})"
            )
        self.geometry = geometry
        self._options = options
        self._rng = np.random.default_rng(options.seed)
        rows = _CHUNK_BYTES // (4 * patch_size(geometry))
        self._chunk = min(max(rows, 256), 16384), math.prod(geometry.kernel), geometry.c_in

    def chunks(self, x: Array) -> Iterator[Array]:
        """Yield patches (rows, taps, C_in), float32, of a batch.

        The array is reused by the next chunk, and by another sampler after the last one.

        Args:
            x: (N, C_in, *size).

        Raises:
            InputError: the batch does not fit the geometry.
        """
        g = self.geometry
        if x.ndim != 2 + len(g.kernel) or x.shape[1] != g.c_in:
            raise InputError(
                f"a batch of shape (N, {g.c_in}, size of {len(g.kernel)} axes) is needed, got {x.shape}"
            )
        with _BUFFERS.lent(self._chunk) as buffer:
            filled = 0
            for image in x:
                flat, places, taps = self._places(image)
                start = 0
                while start < len(places):
                    count = min(len(places) - start, len(buffer) - filled)
                    rows = buffer[filled : filled + count]
                    for tap, offset in enumerate(taps):
                        rows[:, tap] = flat[places[start : start + count] + offset]
                    start, filled = start + count, filled + count
                    if filled == len(buffer):
                        yield buffer
                        filled = 0
            if filled:
                yield buffer[:filled]

    def _places(self, image: Array) -> tuple[Array, Indices, list[int]]:
        """The padded image as rows of channels, rows where patches start, offsets of the taps in rows."""
        g = self.geometry
        channels_last = np.moveaxis(image.astype(np.float32, copy=False), 0, -1)
        padded, steps, taps = g.semantics.patches(channels_last, g)
        size = padded.shape[:-1]
        strides = [math.prod(size[a + 1 :]) for a in range(len(size))]
        out = g.output_size(image.shape[1:])
        total = math.prod(out)
        index = np.arange(total)
        if total > self._options.positions:
            index = np.sort(self._rng.choice(total, self._options.positions, replace=False))
        places: Indices = np.zeros(len(index), dtype=np.intp)
        for at, step, stride in zip(
            np.unravel_index(index, out) if total else (), steps, strides, strict=False
        ):
            places += at * step * stride
        offsets = [sum(at * stride for at, stride in zip(tap, strides, strict=True)) for tap in taps]
        return padded.reshape(-1, g.c_in), places, offsets


class StatisticsAccumulator:
    """Gathers the `LayerStatistics` of one layer.

    A law that tests check: the result equals mean and covariance of all patches, cut by brute force.
    """

    def __init__(self, geometry: ConvGeometry, options: StatisticsOptions | None = None) -> None:
        options = options or StatisticsOptions()
        self._sampler = PatchSampler(geometry, options)
        self._geometry = geometry
        d = patch_size(geometry)
        #: Whether the full covariance is gathered; False where it would take more than the memory limit.
        self.full = options.memory is None or covariance_bytes(geometry) <= options.memory
        self.count = 0
        self._shift: Array | None = None
        self._sum = np.zeros(d)
        self._squares = SumOfProducts(*((d, d) if self.full else (0, 0)))
        axes = [] if self.full else [k * geometry.c_in for k in geometry.kernel]
        self._strips = [SumOfProducts(n, n) for n in axes]

    def update(self, x: Array) -> None:
        """Look at a batch of the layer's inputs.

        Args:
            x: (N, C_in, *size), before padding.

        Raises:
            InputError: the batch does not fit the geometry.
        """
        for patches in self._sampler.chunks(x):
            X = patches.reshape(len(patches), -1)
            with np.errstate(invalid="ignore", over="ignore"):  # not finite: said by whoever uses the result
                if self._shift is None:
                    self._shift = X.mean(axis=0)
                X -= self._shift
                self._sum += X.sum(axis=0, dtype=np.float64)
                if self.full:
                    self._squares.add(X, X)
                else:
                    self._add_strips(X)
            self.count += len(X)

    def _add_strips(self, X: Array) -> None:
        kernel = self._geometry.kernel
        view = X.reshape(len(X), *kernel, -1)
        for axis, total in enumerate(self._strips):
            for strip in _strips(view, axis):
                total.add(strip, strip)

    def result(self) -> LayerStatistics:
        """Return the moments of everything that was seen.

        Raises:
            InputError: nothing was seen.
        """
        if self._shift is None:
            raise InputError("no patch was seen: there were no inputs, or they are smaller than the kernel")
        g, n = self._geometry, self.count
        m = self._sum / n
        with np.errstate(invalid="ignore", over="ignore"):  # not finite: said by whoever uses the result
            return self._moments(g, n, m)

    def _moments(self, g: ConvGeometry, n: int, m: Array) -> LayerStatistics:
        assert self._shift is not None
        mean = channels_first(self._shift + m, g)
        if self.full:
            centred = self._squares.total() / n
            centred -= np.outer(m, m)
            covariance = channels_first(centred, g)
            return LayerStatistics(n, mean, covariance, strips_of(covariance, g))
        view = m.reshape(1, *g.kernel, g.c_in)
        strips = []
        for axis, total in enumerate(self._strips):
            strip = total.total() / n - sum(np.outer(part, part) for (part,) in _strips(view, axis))
            order = _permutation((g.kernel[axis],), g.c_in)
            strips.append(strip[np.ix_(order, order)])
        return LayerStatistics(n, mean, None, tuple(strips))


def _strips(view: Array, axis: int) -> Iterator[Array]:
    """Yield, for every position of the other axes, the values along one: (rows, kernel[axis] * C_in)."""
    moved = np.moveaxis(view, 1 + axis, -2)
    for at in np.ndindex(*moved.shape[1:-2]):
        yield moved[(slice(None), *at)].reshape(len(view), -1)


def _permutation(kernel: tuple[int, ...], c_in: int) -> Indices:
    """Where each value of a patch (C_in, *kernel) stands in a patch (*kernel, C_in)."""
    return np.arange(math.prod(kernel) * c_in, dtype=np.intp).reshape(-1, c_in).T.ravel()


def channels_first(moments: Array, geometry: ConvGeometry) -> Array:
    """Moments of patches (*kernel, C_in) as those of patches (C_in, *kernel)."""
    order = _permutation(geometry.kernel, geometry.c_in)
    moved: Array = moments[order] if moments.ndim == 1 else moments[np.ix_(order, order)]
    return moved


def strips_of(covariance: Array, geometry: ConvGeometry) -> tuple[Array, ...]:
    """Return the strips of a full covariance (d, d): see `LayerStatistics`."""
    shape = (geometry.c_in, *geometry.kernel)
    tensor = covariance.reshape(shape * 2)
    letters = string.ascii_letters[: len(shape)]
    strips = []
    for axis, k in enumerate(geometry.kernel):
        kept = letters[0] + letters[1 + axis]
        columns = "".join(letter.upper() if letter in kept else letter for letter in letters)
        summed = np.einsum(f"{letters}{columns}->{kept}{kept.upper()}", tensor)
        strips.append(np.asarray(summed).reshape(geometry.c_in * k, geometry.c_in * k))
    return tuple(strips)


class FactorAccumulator:
    """Gathers the `FactorStatistics` of a pair in a second pass over the data: a `SecondPass`."""

    def __init__(self, layer: ConvLayer, pair: Factors, options: StatisticsOptions | None = None) -> None:
        """Prepare for the pair's first factor and for what the pair leaves of the layer.

        Args:
            layer: the layer, with its weight.
            pair: two convolutions or more; all before the last count as the first.
            options: as in the first pass.
        """
        if layer.weight is None or len(pair.convs) < 2:
            raise AssertionError("Bug: a second pass needs a layer's weight and a stack of convolutions")
        g = layer.geometry
        self._sampler = PatchSampler(g, options or StatisticsOptions())
        # Draws the same positions of other inputs of the same size.
        self._twin = PatchSampler(g, options or StatisticsOptions())
        first = composed(replace(pair, convs=pair.convs[:-1]))
        axes = range(len(g.kernel))
        self._inner = [a for a in axes if first.shape[2 + a] == g.kernel[a]]
        self._outer = [a for a in axes if a not in self._inner]
        self._first = np.moveaxis(first, 1, -1).reshape(len(first), -1).T.astype(np.float32)
        self._layer, self._left = (
            np.moveaxis(weight, 1, -1).reshape(g.c_out, -1).T.astype(np.float32)
            for weight in (layer.weight, layer.weight - composed(pair))
        )
        r = len(first) * math.prod(g.kernel[a] for a in self._outer)
        self.count = 0
        self._shifts: tuple[Array, Array] | None = None
        self._sums = np.zeros(r), np.zeros(g.c_out)
        self._squares, self._cross, self._energy = SumOfProducts(r, r), SumOfProducts(r, g.c_out), 0.0

    def update(self, x: Array, original: Array | None = None) -> None:
        """Look at a batch of the layer's inputs.

        Args:
            x: (N, C_in, *size), what the pair gets.
            original: what the layer gets; None for the same.
        """
        kernel = self._sampler.geometry.kernel
        originals = itertools.repeat(None) if original is None else self._twin.chunks(original)
        for patches, before in zip(self._sampler.chunks(x), originals, strict=False):
            X = patches.reshape(len(patches), -1)
            view = patches.reshape(len(X), *kernel, -1)
            order = (0, *(1 + a for a in self._outer), *(1 + a for a in self._inner), view.ndim - 1)
            outputs = product(view.transpose(order).reshape(-1, len(self._first)), self._first)
            z = outputs.reshape(len(X), -1, self._first.shape[1]).swapaxes(1, 2).reshape(len(X), -1)
            rest = product(X, self._left)
            if before is not None:
                # y - H z = W x - W' x' = W (x - x') + (W - W') x'
                rest += product(before.reshape(X.shape) - X, self._layer)
            if self._shifts is None:
                self._shifts = z.mean(axis=0), rest.mean(axis=0)
            z = z - self._shifts[0]
            rest -= self._shifts[1]
            for total, part in zip(self._sums, (z, rest), strict=True):
                np.add(total, part.sum(axis=0, dtype=np.float64), out=total)
            self._squares.add(z, z)
            self._cross.add(z, rest)
            self._energy += float(np.sum(rest**2, dtype=np.float64))
            self.count += len(X)

    def result(self) -> FactorStatistics:
        """Return the moments of everything that was seen.

        Raises:
            InputError: nothing was seen.
        """
        if not self.count:
            raise InputError("no patch was seen: there were no inputs, or they are smaller than the kernel")
        assert self._shifts is not None
        z, rest = (total / self.count for total in self._sums)
        return FactorStatistics(
            self.count,
            self._squares.total() / self.count - np.outer(z, z),
            self._cross.total() / self.count - np.outer(z, rest),
            np.asarray(self._energy / self.count - rest @ rest),
            self._shifts[0] + z,
            self._shifts[1] + rest,
        )
