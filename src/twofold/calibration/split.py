"""Inputs to fit on and inputs to measure on: those that are alike stay on one side.

Frames of one clip, crops of one photograph and inputs that are given twice are no new inputs for a network
that was fitted to the others of their kind, and show too small an error. What is alike mostly comes one after
the other, so that inputs differ less from the next than from any: then whole runs of them are held out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .inputs import Inputs, evenly

#: Fewer samples than this are used for both, fitting and measuring.
_FEWEST_TO_SPLIT = 16
#: Share of the samples that fits never see: on them sensitivities and errors are measured.
_HOLDOUT_FRACTION = 1 / 8
#: Whole runs take about this share at most.
_LARGEST_FRACTION = 1 / 3
#: Errors that fewer samples told are off by a factor of two at times; so many inputs give enough of them.
FEW_HOLDOUT = 4
ENOUGH = math.floor((FEW_HOLDOUT - 1) / _HOLDOUT_FRACTION) + 1
#: Values of all inputs, over the samples that are measured on: 8 images of 3 x 320 x 320.
_MEASURED_VALUES = 8 * 3 * 320 * 320
_MOST_MEASURED = 64
#: Neighbours are alike where they differ by less than this share of what any two do, and by less than in any
#: of so many other orders, which tell what chance makes of such inputs.
_ALIKE = 0.6
_FEWEST_ORDERS, _MOST_ORDERS = 32, 256
#: Samples in all of them: of many, chance seldom makes so little.
_ORDERED = 2**17
#: Runs reach further than samples that differ by less than this share.
_APART = 3 / 4
#: Distances that are tried.
_LAGS = 128
#: Values per axis of the small picture that samples are compared by.
_PICTURE = 4
_SERIES = 16
#: A feature that varies less, by its largest value, is a constant.
_CONSTANT = 1e-6
#: Features of a view that are looked at.
_MOST_FEATURES = 256


@dataclass(frozen=True, eq=False)
class Split:
    """What is fitted to, and what is measured on.

    Attributes:
        fitted: samples to fit on.
        holdout: samples to measure on; some of `fitted` where there are few.
        groups: numbers of samples of `holdout`, in its order, that are alike; all are 1 where none are.
    """

    fitted: Inputs
    holdout: Inputs
    groups: tuple[int, ...]


def split(inputs: Inputs) -> Split:
    """Hold out an eighth of the samples, spread evenly over all, and with each all that are alike.

    Of large samples fewer are held out.
    """
    most = min(max(_MEASURED_VALUES // max(inputs.values_per_sample, 1), 4), _MOST_MEASURED)
    first = _first_of_same(inputs)
    distinct = np.unique(first)
    if len(distinct) < _FEWEST_TO_SPLIT:
        few = inputs.take(slice(0, most))
        return Split(inputs, few, (1,) * few.count)
    apart = inputs if len(distinct) == inputs.count else inputs.take(distinct.tolist())
    runs = _held_out(apart, distinct // _crops(inputs), most)
    fitted = inputs.take(np.flatnonzero(~np.isin(first, distinct[np.concatenate(runs)])).tolist())
    if len(distinct) < inputs.count:
        fitted = fitted.noted(
            f"{inputs.count - len(distinct)} of {inputs.count} inputs are given a second time: what is held "
            "out is nowhere fitted to"
        )
    longest = max(map(len, runs))
    if longest > 1:
        held_out = f"{len(runs)} such runs are" if len(runs) > 1 else "one such run is"
        fitted = fitted.noted(
            f"inputs that follow each other are alike, up to {longest} in a row, as frames of a clip or "
            f"crops of a photograph are: {held_out} held out"
        )
    share = max(most // len(runs), 1)
    runs = [run[evenly(min(share, len(run)), len(run))] for run in runs]
    return Split(fitted, inputs.take(distinct[np.concatenate(runs)].tolist()), tuple(map(len, runs)))


def _held_out(inputs: Inputs, images: NDArray[np.intp], most: int) -> list[NDArray[np.intp]]:
    """Positions of what is held out, by runs of samples that are alike.

    Args:
        inputs: samples.
        images: what each is a crop of.
        most: so many are wanted at most; runs are whole all the same.
    """
    count = inputs.count
    wanted = min(math.ceil(count * _HOLDOUT_FRACTION), most)
    if inputs.provenance.source_type == "synthetic":
        return [np.array([row]) for row in evenly(wanted, count)]
    features = _telling(inputs)
    room = math.floor(count * _LARGEST_FRACTION)
    length = min(max(_run(features), _crops(inputs)), room)
    if length == 1:
        return [np.array([row]) for row in evenly(wanted, count)]
    # A run begins where samples differ most from those before, and never within the crops of an image.
    half = max(length // 2, 1)
    sums = np.concatenate([np.zeros((1, features.shape[1])), np.cumsum(features, axis=0)])
    rows = np.arange(1, count)
    first, last = np.maximum(rows - half, 0), np.minimum(rows + half, count)
    before, after = (
        (sums[stop] - sums[start]) / (stop - start)[:, None] for start, stop in ((first, rows), (rows, last))
    )
    steps = np.concatenate([[np.inf], np.sum((before - after) ** 2, axis=1), [np.inf]])
    if _crops(inputs) > 1:
        steps[1:-1][images[1:] == images[:-1]] = -1
    runs = min(max(round(wanted / length), 2), room // length)
    found = []
    least = max(half, min(math.ceil(wanted / runs), length))
    for middle in evenly(runs, count):
        start = _largest(steps, middle - length, middle + half)
        found.append(np.arange(start, _largest(steps, start + least, start + length + half)))
    if _crops(inputs) > room:  # an image of its own has more: one is held out, where there is another
        (whole,) = np.nonzero(images == images[count // 2])
        found = [whole] if len(whole) <= count / 2 else found
    return found


def _largest(values: NDArray[np.float64], first: int, last: int) -> int:
    """Position of the largest value among those from `first` to `last`."""
    first = max(first, 0)
    return first + int(np.argmax(values[first : last + 1]))


def _crops(inputs: Inputs) -> int:
    """How many samples in a row twofold has cut of one image."""
    crops = inputs.provenance.options.get("crops", 1)
    return crops if isinstance(crops, int) else 1


def _first_of_same(inputs: Inputs) -> NDArray[np.intp]:
    """For every sample the position of the first that is the same."""
    first: dict[bytes, int] = {}
    return np.array(
        [
            first.setdefault(
                hashlib.sha256(
                    b"".join(array[row].tobytes() for array in inputs.arrays.values())
                ).digest(), row,
            )
            for row in range(inputs.count)
        ],
        np.intp,
    )  # fmt: skip


def _telling(inputs: Inputs) -> NDArray[np.float64]:
    """Features (N, features) of samples that differ less from one sample to the next than from any to any.

    Source: von Neumann, "Distribution of the ratio of the mean square successive difference to the variance"
    (1941); here the ratio is halved, so that it is 1 where the order says nothing.
    """
    rng = np.random.default_rng(0)
    number = min(max(_ORDERED // inputs.count, _FEWEST_ORDERS), _MOST_ORDERS)
    orders = [rng.permutation(inputs.count) for _ in range(number)]
    found = [np.empty((inputs.count, 0))]
    for view in _features(inputs):
        ratio = _difference(view, 1)
        by_chance = np.stack([_difference(view[order], 1) for order in orders])
        all_tell = ratio.mean() < min(_ALIKE, by_chance.mean(axis=1).min())
        found.append(view[:, all_tell | (ratio < min(_ALIKE, by_chance.min()))])
    return np.concatenate(found, axis=1)


def _run(features: NDArray[np.float64]) -> int:
    """How many samples in a row are alike; half of all where they never differ as any two do.

    In runs of n the share of pairs that are of two runs grows with their distance, to all at n.
    """
    if not features.size:
        return 1
    half = len(features) // 2
    lags = np.unique(np.geomspace(1, half - 1, _LAGS).astype(int)).tolist()
    apart = (lag for lag in lags if _difference(features, lag).mean() >= _APART)
    return min(math.ceil(next(apart, half) / _APART), half)


def _difference(features: NDArray[np.float64], lag: int) -> NDArray[np.float64]:
    """By feature, the mean square difference of samples that are `lag` apart, by that of any two.

    Features have a variance of 1. The last samples are followed by the first, so that all count alike.
    """
    found: NDArray[np.float64] = np.mean((np.roll(features, -lag, axis=0) - features) ** 2, axis=0) / 2
    return found


def _features(inputs: Inputs) -> Iterator[NDArray[np.float64]]:
    """Two views of the samples, (N, features): a small picture, and how large and how rough values are."""
    parts = [_views(batch.values()) for batch in inputs]
    for view in zip(*parts, strict=True):
        every = np.concatenate(view)
        deviation = every.std(axis=0)
        (kept,) = np.nonzero(deviation > _CONSTANT * np.abs(every).max(axis=0))
        if len(kept):
            kept = kept[evenly(min(_MOST_FEATURES, len(kept)), len(kept))]
            yield every[:, kept] / deviation[kept]


def _views(arrays: Iterable[NDArray[np.float32]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both views of a batch."""
    pictures, sizes = [], []
    for array in arrays:
        if not array.size:
            continue
        channels = np.asarray(array if array.ndim > 2 else array[:, None], np.float64)  # (N, C, *axes)
        axes = tuple(range(2, channels.ndim))
        cells = channels
        for axis in axes:
            most = _SERIES if channels.ndim == 3 else _PICTURE
            starts = np.unique(np.linspace(0, channels.shape[axis], most, endpoint=False).astype(int))
            cells = np.add.reduceat(cells, starts, axis=axis)
        steps = [np.abs(np.diff(channels, axis=axis)) for axis in axes if channels.shape[axis] > 1]
        pictures.append(cells)
        sizes += [channels.mean(axes), channels.std(axes), *(one.mean(axes) for one in steps)]
    pictures_, sizes_ = (
        np.concatenate([one.reshape(len(one), -1) for one in view], axis=1) for view in (pictures, sizes)
    )
    return pictures_, sizes_
