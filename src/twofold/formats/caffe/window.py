"""The sliding window of Caffe's convolutions and poolings, from their parameters.

Caffe spells sizes in two ways that exclude each other: a repeated field with one value for all axes or one
for each (`kernel_size`), or a pair for images (`kernel_h`, `kernel_w`).
Source: BVLC Caffe 1.0, `base_conv_layer.cpp`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...conv import Size
from ...errors import ModelError
from .fields import Fields
from .net import LayerSpec

#: Fields of forks: a pad per side, before and behind height and width; missing ones are 0.
SIDES = ("pad_t", "pad_b", "pad_l", "pad_r")
#: DeepLab's fields for what is `dilation` in Caffe.
HOLES = ("hole", ("hole_h", "hole_w"))


@dataclass(frozen=True)
class Window:
    """Kernel, stride, pad (before, after) and dilation per spatial axis."""

    kernel: Size
    stride: Size
    pad: tuple[tuple[int, int], ...]
    dilation: Size


def window(layer: LayerSpec, param: Fields, axes: int) -> Window:
    """Sizes of the sliding window of a convolution-like layer over `axes` spatial axes.

    Raises:
        ModelError: a combination that Caffe rejects; says which and what to write instead.
    """
    kernel = _spread(layer, param, "kernel_size", ("kernel_h", "kernel_w"), axes, None)
    stride = _spread(layer, param, "stride", ("stride_h", "stride_w"), axes, 1)
    dilation = _spread(layer, param, *_dilation_names(param), axes, 1)
    for name, sizes in (("kernel_size", kernel), ("stride", stride), ("dilation", dilation)):
        if min(sizes, default=1) < 1:
            raise ModelError(f"{layer.label}: {name} is {list(sizes)}; it must be at least 1")
    return Window(kernel, stride, _pads(layer, param, axes), dilation)


def _dilation_names(param: Fields) -> tuple[str, tuple[str, str] | None]:
    """The fields that give the dilation: DeepLab's, which is older than Caffe's own, or Caffe's."""
    return HOLES if gives(param, HOLES[0], *HOLES[1]) else ("dilation", None)


def _pads(layer: LayerSpec, param: Fields, axes: int) -> tuple[tuple[int, int], ...]:
    if not gives(param, *SIDES):
        return tuple((pad, pad) for pad in _spread(layer, param, "pad", ("pad_h", "pad_w"), axes, 0))
    if axes != 2:
        raise ModelError(
            f"{layer.label}: {', '.join(SIDES)} pad the sides of two spatial axes, here are {axes}; use pad"
        )
    top, bottom, left, right = (param.integer(side) for side in SIDES)
    return (top, bottom), (left, right)


def gives(param: Fields, *names: str) -> bool:
    """Whether the text gives one of some fields."""
    return any(param.has(name) for name in names)


def _spread(
    layer: LayerSpec, param: Fields, name: str, pair: tuple[str, str] | None, axes: int, default: int | None
) -> Size:
    given = param.integers(name)
    if pair and any(param.has(one) for one in pair):
        wanted = f"{layer.label}: either {name} or both {pair[0]} and {pair[1]} may be given"
        if given:
            raise ModelError(f"{wanted}, found both ways; remove one")
        if not all(param.has(one) for one in pair) and default is None:
            raise ModelError(f"{wanted}, found only one of the pair; add the other")
        if axes != 2:
            raise ModelError(f"{wanted} for two spatial axes only, here are {axes}; use {name}")
        return tuple(param.integer(one) if param.has(one) else (default or 0) for one in pair)
    if not given:
        if default is None:
            raise ModelError(f"{layer.label}: {name} is missing; give one value, or one for each axis")
        return (default,) * axes
    if len(given) not in (1, axes):
        raise ModelError(
            f"{layer.label}: {name} has {len(given)} values; allowed are one, or one for each "
            f"of its {axes} spatial axes"
        )
    return given * axes if len(given) == 1 else given
