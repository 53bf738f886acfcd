"""A normalisation at the network's own entrance: what its first layer with weights gets of an image.

Seen from outside: a few inputs go in, and what the first layer is given is compared with them. So it does not
matter whether it is Sub and Div, a BatchNorm with constants, or lines of Python, nor whether it turns BGR
into RGB.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .value import Preprocessing, Subject, order_of, values

_SAMPLES = 2
#: Part of what the first layer is given that a scale and an offset per channel may leave unexplained.
_EXACT = 1e-4
#: Means and standard deviations of pixels 0..1 that networks subtract and divide by.
_MEANS, _DEVIATIONS = (0.3, 0.6), (0.15, 0.6)


def at_entrance(subject: Subject) -> Preprocessing | None:
    """What goes into a network that normalises its input itself: pixels 0..255 or 0..1."""
    place = subject.runner.entrance() if subject.alone and len(subject.shape) == 3 else None
    if place is None or any(size is None for size in subject.shape):
        return None
    shape = (_SAMPLES, *(size or 1 for size in subject.shape))
    # Whole numbers, for a network that takes bytes.
    given = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
    inside = place.run({subject.name: given})
    found = _affine(given, inside)
    if found is None:
        return None
    mean, deviation = found
    unit = _unit(mean, deviation)
    if unit is None:
        return None
    what = "0..255" if unit == 1 else "0..1"
    where = f"the network's own first steps, which normalise pixels {what} themselves"
    return Preprocessing(values(0.0, unit, order_of(mean / unit)), where)


def _affine(
    given: NDArray[np.float32], inside: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Mean and deviation (C,), in the input's order, where `inside` is (given - mean) / deviation, and no
    identity.

    Channels may stand in another order inside.
    """
    if inside.shape != given.shape:
        return None
    x, z = (np.moveaxis(one, 1, 0).reshape(one.shape[1], -1).astype(np.float64) for one in (given, inside))
    with_one = np.vstack([x, np.ones(x.shape[1])])
    weights, *_ = np.linalg.lstsq(with_one.T, z.T, rcond=None)
    left = np.linalg.norm(z.T - with_one.T @ weights) / max(float(np.linalg.norm(z - z.mean())), 1e-30)
    matrix, offsets = weights[:-1].T, weights[-1]
    places = abs(matrix).argmax(axis=1)
    gains = matrix[np.arange(len(matrix)), places]
    matrix[np.arange(len(matrix)), places] = 0
    if left > _EXACT or abs(matrix).max() > _EXACT * abs(gains).max() or len(set(places)) < len(places):
        return None
    if not gains.all() or (np.allclose(gains, 1, atol=1e-4) and np.allclose(offsets, 0, atol=1e-4)):
        return None
    mean, deviation = np.empty(len(gains)), np.empty(len(gains))
    mean[places], deviation[places] = -offsets / gains, 1 / gains
    return mean, deviation


def _unit(mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> float | None:
    """What a pixel of 0..255 is multiplied by before it goes in; None for no known normalisation."""
    for unit in (1.0, 1 / 255):
        m, s = mean / (255 * unit), deviation / (255 * unit)  # of pixels 0..1
        if ((m > _MEANS[0]) & (m < _MEANS[1]) & (s > _DEVIATIONS[0]) & (s < _DEVIATIONS[1])).all():
            return unit
        centred = ((m > _MEANS[0]) & (m < _MEANS[1])).all() and np.allclose(s * 255, 1, rtol=1e-3)
        if centred:  # a mean of pixels 0..255 alone
            return unit
    plain = np.allclose(mean, 0, atol=1e-4)
    if plain and np.allclose(deviation, 255, rtol=0.01):
        return 1.0
    if plain and np.allclose(deviation, 1 / 255, rtol=0.01):
        return 1 / 255
    return None
