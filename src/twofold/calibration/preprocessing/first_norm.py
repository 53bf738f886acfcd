"""What the stored statistics of the first batch normalisation show.

They are the mean m_k and variance v_k of what the normalisation was given in training, per channel k. Let p
be images with pixels 0..1, and x = gain * p + shift what goes in, per channel of the input. Where the
layers before are linear (a convolution of any stride, padding and groups, with or without bias), what the
normalisation gets is

    F(x) = F(0) + sum_c gain_c L_c(p_c) + sum_c shift_c L_c(1),

so its mean is linear and its mean square quadratic in w = (gain, shift, 1), with moments that are gathered
once: mean_k(w) = a_k . w and E_k(w) = w . B_k w. Where they are not linear, F itself is run for every w that
is tried. Sought is the w with the least sum over k of ((mean_k(w) - m_k)^2 / v_k + (log(var_k(w) / v_k) /
2)^2): a Gaussian's distance to second order. A known preprocessing that comes near the best one is
preferred: images differ from those of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from ..images import ImageOptions
from ..runner import Norm
from .examples import known, unordered
from .value import Array, Preprocessing, Subject, values

Vector = NDArray[np.float64]

#: Images whose moments are taken, and how many at once.
_IMAGES, _AT_ONCE = 16, 4
_IMAGES_BY_RUNNING = 4
#: Root mean square of the distance per channel: above, the statistics are those of something else.
_BAD = 0.4
#: How much worse than the best fit a known preprocessing may be.
_NEAR, _NEAR_FACTOR = 0.06, 1.3
#: A channel that is as good as constant shows nothing.
_DEAD = 1e-4
#: Of what the fit is held to where the statistics leave it open.
_PRIOR = 0.02
_LINEAR = 1e-3


def of_first_norm(subject: Subject) -> Preprocessing | None:
    """Scale and offset for which images have the mean and variance that are stored."""
    norm = subject.runner.first_norm() if subject.alone else None
    images = subject.images() if norm is not None else None
    if norm is None or images is None or not _trained(norm):
        return None
    fit = _Fit.of(norm, subject.name, images / np.float32(255))
    return None if fit is None else fit.preprocessing(norm.name)


def _trained(norm: Norm) -> bool:
    """Whether statistics were ever gathered: a fresh layer has a mean of 0 and a variance of 1."""
    return bool(norm.mean.any() or (norm.variance != 1).any())


class _Response(Protocol):
    """Mean and variance per channel of what a normalisation gets, by gain and shift."""

    @property
    def effort(self) -> int:
        """How often it may be asked."""

    def __call__(self, gain: Vector, shift: Vector) -> tuple[Vector, Vector]:
        """Mean and variance."""


@dataclass(frozen=True, eq=False)
class _Linear:
    """From moments.

    Attributes:
        first: (K, 2C + 1) means of the parts.
        second: (K, 2C + 1, 2C + 1) means of their products.
    """

    first: Vector
    second: Vector
    effort: int = 200

    def __call__(self, gain: Vector, shift: Vector) -> tuple[Vector, Vector]:
        w = np.concatenate([gain, shift, [1.0]])
        mean = self.first @ w
        return mean, np.einsum("kij,i,j->k", self.second, w, w) - mean**2


@dataclass(frozen=True, eq=False)
class _ByRunning:
    """By running what stands before."""

    run: Callable[[Array], Array]
    images: Array
    effort: int = 40

    def __call__(self, gain: Vector, shift: Vector) -> tuple[Vector, Vector]:
        found = self.run(_mapped(self.images, gain, shift)).astype(np.float64)
        axes = tuple(axis for axis in range(found.ndim) if axis != 1)
        return found.mean(axis=axes), found.var(axis=axes)


def _mapped(images: Array, gain: Vector, shift: Vector) -> Array:
    columns = (np.asarray(one, np.float32).reshape(-1, 1, 1) for one in (gain, shift))
    return np.asarray(images * next(columns) + next(columns), np.float32)


def _response(norm: Norm, name: str, images: Array) -> _Response:
    def run(batch: Array) -> Array:
        return norm.run({name: batch})

    first: list[Vector] = []
    second: list[Vector] = []
    for start in range(0, min(len(images), _IMAGES), _AT_ONCE):
        few = images[start : start + _AT_ONCE]
        parts = list(_parts(run, few))
        if not start and not _linear(run, few, parts):
            return _ByRunning(run, images[:_IMAGES_BY_RUNNING])
        flat = np.stack([np.moveaxis(part, 1, 0).reshape(part.shape[1], -1) for part in parts], axis=1)
        first.append(flat.mean(axis=2, dtype=np.float64) * len(few))
        products = np.matmul(flat, flat.transpose(0, 2, 1), dtype=np.float64)
        second.append(products / flat.shape[2] * len(few))
    count = min(len(images), _IMAGES)
    return _Linear(np.sum(first, axis=0) / count, np.sum(second, axis=0) / count)


def _parts(run: Callable[[Array], Array], images: Array) -> Iterator[Array]:
    """What each gain, each shift and nothing at all give alone."""
    nothing = run(np.zeros_like(images))
    for filled in (images, np.ones_like(images)):
        for channel in range(images.shape[1]):
            alone = np.zeros_like(images)
            alone[:, channel] = filled[:, channel]
            yield run(alone) - nothing
    yield nothing


def _linear(run: Callable[[Array], Array], images: Array, parts: list[Array]) -> bool:
    """Whether the parts of some gain and shift add up."""
    channels = images.shape[1]
    w = np.random.default_rng(0).uniform(0.5, 2.0, 2 * channels) * np.repeat([1.0, -1.0], channels)
    expected = parts[-1] + sum(
        weight * part for weight, part in zip(w.astype(np.float32), parts, strict=False)
    )
    found = run(_mapped(images, w[:channels], w[channels:]))
    return bool(np.linalg.norm(found - expected) <= _LINEAR * np.linalg.norm(found))


@dataclass(frozen=True, eq=False)
class _Fit:
    """A response, and the statistics that it is to have.

    Attributes:
        response: mean and variance by gain and shift.
        mean: (K,) that are stored.
        variance: likewise.
        alive: the channels that show something.
    """

    response: _Response
    mean: Vector
    variance: Vector
    alive: NDArray[np.bool_]
    channels: int

    @classmethod
    def of(cls, norm: Norm, name: str, images: Array) -> _Fit | None:
        alive = norm.variance > _DEAD * float(np.median(norm.variance))
        if 2 * int(alive.sum()) < 2 * images.shape[1]:  # more unknowns than equations
            return None
        response = _response(norm, name, images)
        return cls(
            response, norm.mean.astype(np.float64), norm.variance.astype(np.float64), alive, images.shape[1]
        )

    def residuals(self, gain: Vector, shift: Vector) -> Vector:
        mean, variance = self.response(gain, shift)
        mean, variance, wanted = mean[self.alive], variance[self.alive], self.variance[self.alive]
        away = (mean - self.mean[self.alive]) / np.sqrt(wanted)
        wider = np.log(np.maximum(variance, _DEAD * wanted) / wanted) / 2
        return np.concatenate([away, wider])

    def distance(self, gain: Vector, shift: Vector) -> float:
        """Root mean square of the residuals, each bounded, so that a few odd channels do not decide."""
        bounded = np.clip(self.residuals(gain, shift), -1, 1)
        return float(np.sqrt(np.mean(bounded**2)))

    def preprocessing(self, name: str) -> Preprocessing | None:
        near = {
            which: self.distance(*_gain_and_shift(options, self.channels))
            for which, options in known(self.channels).items()
        }
        best = min(near, key=lambda which: near[which])
        gain, shift = self._fitted(*_gain_and_shift(known(self.channels)[best], self.channels))
        least = self.distance(gain, shift)
        where = f"the stored statistics of {name}, the first batch normalisation"
        if near[best] <= min(_BAD, max(least * _NEAR_FACTOR, least + _NEAR)):
            found = f"{where}, which fit those of {best} (they differ by {near[best]:.2f})"
            return unordered(known(self.channels)[best], found)
        if least > _BAD:
            return None
        scale = gain / 255
        return Preprocessing(values(-shift / scale, scale), f"{where} (fitted; they differ by {least:.2f})")

    def _fitted(self, gain: Vector, shift: Vector) -> tuple[Vector, Vector]:
        """The nearest gain and shift, from where they are likely to be."""
        start = np.concatenate([np.log(gain), shift / gain])

        def split(at: Vector) -> tuple[Vector, Vector]:
            gain = np.exp(np.clip(at[: self.channels], -12, 12))
            return gain, at[self.channels :] * gain

        def residuals(at: Vector) -> Vector:
            found = self.residuals(*split(at))
            alike = at[: self.channels] - at[: self.channels].mean()
            held = _PRIOR * np.concatenate([alike, at[self.channels :] - start[self.channels :]])
            return np.concatenate([found, held * np.sqrt(len(found))])

        found = least_squares(residuals, start, loss="soft_l1", max_nfev=self.response.effort)
        return split(found.x)


def _gain_and_shift(options: ImageOptions, channels: int) -> tuple[Vector, Vector]:
    scale = options.channel_scale(channels).astype(np.float64)
    return 255 * scale, -options.channel_mean(channels) * scale
