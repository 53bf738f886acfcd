"""BN, which forks had before BVLC Caffe had BatchNorm: three layers of one name.

Each has its own parameters and blobs, (1, C, 1, 1) all:

- SegNet, ENet and DeconvNet: scale and shift. `bn_mode: LEARN` normalises by the batch, `INFERENCE` only
  scales and shifts by blobs into which a script has merged the statistics;
- TSN and PSPNet as released: slope, bias, mean and variance, with `eps`, `momentum` and `frozen`;
- the line of Caffe's pull request 1965, in PSPNet's early versions: scale, shift, mean and variance, with
  `var_eps`, `decay`, `moving_average` and `axis`.

Source: `bn_layer.cpp` of alexgkendall/caffe-segnet, TimoSaemann/caffe-segnet-cudnn5, HyeonwooNoh/caffe and of
hszhao/PSPNet in both versions.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from ..formats.caffe.fields import Fields
from ..formats.caffe.shapes import Shape
from .layer import Layer, Setup, Tops, UnsupportedError, constant
from .normalization import Normalization
from .registry import register

_EPS = 1e-9  # SegNet's, no field


@register("BN")
def bn(setup: Setup) -> Layer:
    """The layer of the fork that a definition, or else the number of stored blobs, tells.

    Raises:
        UnsupportedError: they tell of none, or of several.
    """
    param, count = setup.spec.fields.message("bn_param"), len(setup.stored or ())
    forks = [fork for fork in (SegNetBN, MovingBN, FrozenBN) if any(map(param.has, fork.fields))]
    if not forks:
        # Fillers of these names alone are SegNet's LEARN; nothing at all fits that and TSN's.
        fillers = param.has("scale_filler") or param.has("shift_filler")
        forks = [SegNetBN if fillers or count == SegNetBN.count else FrozenBN]
    if len(forks) > 1 or count not in (0, forks[0].count):
        raise UnsupportedError(
            f"{setup.spec.label} (BN): {count} blobs and the fields {', '.join(param.values) or '(none)'} of "
            "bn_param fit no fork: SegNet has 2 and bn_mode; TSN and PSPNet 4 and eps, frozen; older ones 4 "
            "and var_eps, moving_average"
        )
    return forks[0](setup)


def _channels(setup: Setup, axis: int = 1) -> Shape:
    """Shape of every blob; files have them as (1, C, 1, 1) or as (C,)."""
    shape, stored = setup.bottoms[0], setup.blob_shape(0)
    channels = None if shape is None else shape[axis] if len(shape) > axis else 1
    if channels is None or (stored is not None and math.prod(stored) == channels):
        return stored
    return tuple(channels if place == axis else 1 for place in range(4))


def _filler(setup: Setup, name: str) -> Fields:
    return setup.spec.fields.message("bn_param").message(name)


class _BN(Normalization):
    """What tells a fork's BN from the others'.

    Attributes:
        fields: of bn_param that it alone has.
        count: number of its blobs.
    """

    fields: ClassVar[tuple[str, ...]] = ()
    count: ClassVar[int] = 4


class SegNetBN(_BN):
    """x * scale + shift; in mode LEARN of x normalised by the statistics of the batch, at test time, too."""

    fields = ("bn_mode",)
    count = 2
    scale: Tensor
    shift: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        param = setup.spec.fields.message("bn_param")
        self.learns = param.text("bn_mode") == "LEARN"
        for name in ("scale", "shift"):
            self.add_blob(setup, name, _channels(setup), _filler(setup, f"{name}_filler"))

    @property
    def uses_stored(self) -> bool:
        """Whether it normalises by stored statistics: INFERENCE does not normalise at all."""
        return False

    def forward(self, *bottoms: Tensor) -> Tops:
        """(N, C, H, W), and in mode LEARN the batch's mean and variance where tops are there for them."""
        images = bottoms[0]
        scale, shift = (blob.reshape(1, -1, 1, 1) for blob in (self.scale, self.shift))
        if not self.learns:
            return images * scale + shift
        mean = images.mean((0, 2, 3), keepdim=True)
        variance = (images - mean).square().mean((0, 2, 3), keepdim=True)
        top = (images - mean) / (variance + _EPS).sqrt() * scale + shift
        return (top, mean, variance)[: len(self.spec.tops)]


class StoredBN(_BN):
    """(x - mean) / sqrt(variance + eps) * scale + shift; the statistics are stored, or the batch's.

    With the batch's, stored ones become stored * (1 - rate) + batch's * rate.
    """

    scale: Tensor
    shift: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, setup: Setup, fillers: tuple[str, str], *, axis: int, eps: float, rate: float,
                 variance: float = 0.0) -> None:  # fmt: skip
        super().__init__(setup)
        self.axis, self.eps, self.rate = axis, eps, rate
        shape = _channels(setup, axis)
        for name, filler in zip(("scale", "shift"), fillers, strict=True):
            self.add_blob(setup, name, shape, _filler(setup, filler))
        for name, value in (("mean", 0.0), ("variance", variance)):
            self.add_blob(setup, name, shape, constant(value), fixed=True)

    def _apply_statistics(self, images: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        shape = [-1 if axis == self.axis else 1 for axis in range(images.dim())]
        mean, variance, scale, shift = (
            blob.reshape(shape) for blob in (mean, variance, self.scale, self.shift)
        )
        return (images - mean) / (variance + self.eps).sqrt() * scale + shift

    def loaded(self) -> None:
        """See `Layer.loaded`."""
        self.require(self.variance.double().flatten(), self.eps)

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Normalise a blob of up to four axes."""
        images = bottoms[0]
        several = images.numel() > images.shape[self.axis]
        if self.stored() and not (self.forced and several):
            return self._apply_statistics(images, self.mean, self.variance)
        axes = [axis for axis in range(images.dim()) if axis != self.axis]
        mean = images.mean(axes, keepdim=True)
        variance = (images - mean).square().mean(axes, keepdim=True)
        if self.training and not self.forced:
            with torch.no_grad():
                for blob, new in ((self.mean, mean), (self.variance, variance)):
                    blob.lerp_(new.reshape(blob.shape), self.rate)
        return self._apply_statistics(images, mean, variance)


class FrozenBN(StoredBN):
    """TSN's and PSPNet's: stored statistics at test time, and with `frozen` in training, too."""

    fields = ("slope_filler", "bias_filler", "eps", "momentum", "frozen")

    def __init__(self, setup: Setup) -> None:
        param = setup.spec.fields.message("bn_param")
        frozen = param.flag("frozen")
        super().__init__(
            setup, ("slope_filler", "bias_filler"), axis=1, eps=param.number("eps"),
            rate=1 - param.number("momentum"), variance=float(frozen),
        )  # fmt: skip
        self.frozen = frozen

    @property
    def uses_stored(self) -> bool:
        """Whether it normalises by stored statistics now."""
        return self.frozen or not self.training

    def multiplier(self, index: int, name: str) -> float:
        """As for all layers, but 0 for a frozen one."""
        frozen = self.spec.fields.message("bn_param").flag("frozen")
        return 0.0 if frozen else super().multiplier(index, name)


class MovingBN(StoredBN):
    """The older: stored statistics at test time, if `moving_average` says so; else always the batch's."""

    fields = ("var_eps", "decay", "moving_average", "axis")

    def __init__(self, setup: Setup) -> None:
        param = setup.spec.fields.message("bn_param")
        super().__init__(
            setup, ("scale_filler", "shift_filler"), axis=param.integer("axis"),
            eps=param.number("var_eps"), rate=param.number("decay"),
        )  # fmt: skip
        self.moving = param.flag("moving_average")

    @property
    def uses_stored(self) -> bool:
        """Whether it normalises by stored statistics now."""
        return self.moving and not self.training
