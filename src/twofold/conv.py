"""The values that pass between the stages: what a convolution is, and what it becomes.

Shapes are in the field's order: weights (C_out, C_in / groups, *kernel), images (C, *size). Everything here
is a frozen value; arrays are read-only. Imports numpy alone.

Two more kinds of layers are said in the same words. A fully connected layer is a convolution with one tap
along one axis, whose size is the number of positions at which the layer is used: weight (C_out, C_in, 1),
inputs (C_in, positions). A transposed convolution adds its kernel, once for each input position, to an output
that is finer by the stride: what the output at position u gets through tap k comes from the input position
(u + pad - dilation * k) / stride, if there is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Size = tuple[int, ...]

Kind = Literal["convolution", "linear", "transposed"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class ConvGeometry:
    """Shape of a convolution over any number of spatial axes (two for images: height, width).

    Attributes:
        c_out: channels of the output.
        c_in: channels of the input.
        kernel: kernel size per axis.
        stride: stride per axis.
        pad: zeros (before, after) per axis.
        dilation: distance of kernel taps per axis; 1 is dense.
        groups: number of channel groups.
        kind: "convolution"; "linear", a fully connected layer; "transposed", a transposed convolution.
        output_padding: of a transposed convolution, by how much its output is larger behind, per axis.
    """

    c_out: int
    c_in: int
    kernel: Size
    stride: Size
    pad: tuple[tuple[int, int], ...]
    dilation: Size
    groups: int = 1
    kind: Kind = "convolution"
    output_padding: Size = ()

    def __post_init__(self) -> None:
        axes = len(self.kernel)
        if not self.output_padding:
            object.__setattr__(self, "output_padding", (0,) * axes)
        self._check_kind()
        if not axes or any(len(value) != axes for value in (self.stride, self.pad, self.dilation)):
            raise ValueError(f"kernel, stride, pad and dilation need one entry per axis, got {self}")
        if min(self.c_out, self.c_in, self.groups, *self.kernel, *self.stride, *self.dilation) < 1:
            raise ValueError(f"sizes of a convolution are positive, got {self}")
        if min(min(pair) for pair in self.pad) < 0:
            raise ValueError(f"pads of a convolution are not negative, got {self}")
        if self.c_in % self.groups or self.c_out % self.groups:
            raise ValueError(f"groups must divide both channel counts, got {self}")

    def _check_kind(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"the kind of a layer is one of {', '.join(KINDS)}, got {self.kind!r}")
        if len(self.output_padding) != len(self.kernel) or min(self.output_padding) < 0:
            raise ValueError(f"output_padding is a number per axis, not negative, got {self}")
        if self.kind != "transposed" and any(self.output_padding):
            raise ValueError(f"only a transposed convolution has an output_padding, got {self}")
        window = (self.kernel, self.stride, self.pad, self.dilation, self.groups)
        if self.kind == "linear" and window != ((1,), (1,), ((0, 0),), (1,), 1):
            raise ValueError(f"a fully connected layer has one tap along one axis, got {self}")

    @classmethod
    def linear(cls, c_out: int, c_in: int) -> ConvGeometry:
        """Shape of a fully connected layer."""
        return cls(c_out, c_in, (1,), (1,), ((0, 0),), (1,), kind="linear")

    @classmethod
    def of(
        cls, c_out: int, c_in: int, kernel: Size, *, stride: int | Size = 1, pad: int | Size = 0,
        dilation: int | Size = 1, groups: int = 1,
    ) -> ConvGeometry:  # fmt: skip
        """Build a geometry with symmetric pads; a single number holds for every axis."""

        def spread(value: int | Size) -> Size:
            return (value,) * len(kernel) if isinstance(value, int) else tuple(value)

        pads = tuple((p, p) for p in spread(pad))
        return cls(c_out, c_in, tuple(kernel), spread(stride), pads, spread(dilation), groups)

    @property
    def weight_shape(self) -> Size:
        """Shape of the weight array: (C_out, C_in / groups, *kernel)."""
        return (self.c_out, self.c_in // self.groups, *self.kernel)

    @property
    def params(self) -> int:
        """Number of weights, bias not counted."""
        return math.prod(self.weight_shape)

    def output_size(self, input_size: Size) -> Size:
        """Spatial size of the output for an input of `input_size`; rounds down. An empty output has a 0."""
        if self.kind == "transposed":
            return tuple(
                max(0, (size - 1) * s - before - after + d * (k - 1) + 1 + more)
                for size, (before, after), k, s, d, more in zip(
                    input_size, self.pad, self.kernel, self.stride, self.dilation, self.output_padding,
                    strict=True,
                )
            )  # fmt: skip
        return tuple(
            max(0, (size + before + after - (d * (k - 1) + 1)) // s + 1)
            for size, (before, after), k, s, d in zip(
                input_size, self.pad, self.kernel, self.stride, self.dilation, strict=True
            )
        )

    def macs(self, input_size: Size) -> int:
        """Multiply-accumulates per image for an input of spatial size `input_size`.

        A transposed convolution multiplies every input position with the whole kernel.
        """
        positions = input_size if self.kind == "transposed" else self.output_size(input_size)
        return self.params * math.prod(positions)


def frozen(array: Array) -> Array:
    """Return `array` as a view that cannot be written through."""
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, eq=False)
class ConvLayer:
    """A convolution, fully connected layer or transposed convolution of a model, as planners see it.

    Attributes:
        name: the layer's name in the model; the owner's name where several layers share one weight.
        geometry: its shape.
        weight: (C_out, C_in / groups, *kernel), or None where only the definition was loaded.
        bias: (C_out,), or None.
        input_sizes: spatial input size of every use (one per layer that shares the weight);
            empty where the model does not tell.
        sharers: names of the other layers that use the same weight.
        bits: significant bits of the stored weight's values: 24 for float32, 11 or 8 for half precision.
        inside: what holds it, or one of those that share its weight, where a run of the model may pass by or
            come more than once; "" for none.
    """

    name: str
    geometry: ConvGeometry
    weight: Array | None
    bias: Array | None = None
    input_sizes: tuple[Size, ...] = ()
    sharers: tuple[str, ...] = ()
    bits: int = 24
    inside: str = ""

    def __post_init__(self) -> None:
        if self.weight is not None:
            if self.weight.shape != self.geometry.weight_shape:
                raise ValueError(f"{self.name}: weight {self.weight.shape} does not fit {self.geometry}")
            object.__setattr__(self, "weight", frozen(self.weight))
        if self.bias is not None:
            if self.bias.shape != (self.geometry.c_out,):
                raise ValueError(f"{self.name}: bias {self.bias.shape} does not fit {self.geometry}")
            object.__setattr__(self, "bias", frozen(self.bias))

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image over all uses; 0 where no input size is known."""
        return self.macs_of((self.geometry,))

    def macs_of(self, chain: tuple[ConvGeometry, ...]) -> int:
        """Multiply-accumulates per image if `chain` stood in this layer's place, over all uses."""
        total = 0
        for size in self.input_sizes:
            for geometry in chain:
                total += geometry.macs(size)
                size = geometry.output_size(size)  # noqa: PLW2901 - the chain's own input sizes
        return total


@dataclass(frozen=True)
class Skipped:
    """A layer that is left as it is, and why; shown in every table."""

    name: str
    reason: str
    geometry: ConvGeometry | None = None
    macs: int = 0
    params: int = 0


@dataclass(frozen=True, eq=False)
class FactorConv:
    """One convolution of the stack that replaces a layer.

    Attributes:
        geometry: its shape.
        weight: (C_out, C_in / groups, *kernel).
        bias: (C_out,), or None; only the last of a stack has one.
    """

    geometry: ConvGeometry
    weight: Array
    bias: Array | None = None

    def __post_init__(self) -> None:
        if self.weight.shape != self.geometry.weight_shape:
            raise ValueError(f"Bug: factor weight {self.weight.shape} does not fit {self.geometry}")


@dataclass(frozen=True, eq=False)
class Factors:
    """The stack of convolutions that replaces one layer, first to last.

    Attributes:
        scheme: registered name of the scheme that made it.
        ranks: channels between the convolutions; of one group, where they have groups.
        convs: the stack; the first takes the layer's input, the last gives its output.
    """

    scheme: str
    ranks: Size
    convs: tuple[FactorConv, ...]

    @property
    def chain(self) -> tuple[ConvGeometry, ...]:
        """Geometries of the stack."""
        return tuple(conv.geometry for conv in self.convs)


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """What a layer's inputs look like: first and second moments of its input patches.

    A patch is the part of the input under the kernel, flattened in the weight's order (C_in, *kernel), so
    that a convolution is `weight.reshape(C_out, -1) @ patch`. That of a transposed convolution is what an
    output position gets through each tap: inputs, and zeros at taps that fall between two inputs. For a layer
    with groups every array has one more axis in front, the groups, and d is that of one group.

    Attributes:
        count: number of patches that were seen.
        mean: (C_in * prod(kernel),), float64.
        covariance: (d, d) with d = C_in * prod(kernel), float64, biased (divided by count);
            None for layers over the memory limit.
        strips: for each spatial axis a, the covariance of the input along that axis's kernel alone, summed
            over the positions of the other axes: strips[a] has shape (C_in * kernel[a],) * 2. Always present;
            of layers over the memory limit whose kernel has one tap its diagonal alone, (C_in,).
        gradient: (C_out, C_out), second moment of the gradient of the network's outputs by the layer's output
            at one position, scaled to a mean of 1 on the diagonal; None where it was not gathered.
        shrinkage: share by which a covariance that is not here is to be drawn towards the multiple of the
            identity with the same trace, see `calibration.shrink`.
    """

    count: int
    mean: Array
    covariance: Array | None
    strips: tuple[Array, ...]
    gradient: Array | None = None
    shrinkage: float = 0.0


@dataclass(frozen=True, eq=False)
class FactorStatistics:
    """What a second pass over the data gathers for a layer that a pair of convolutions stands for.

    Let z be the patch of a pair's first convolution that its second one sees, flattened as (r, taps of the
    second), let y be the layer's own output at the same position, and H z what the pair gives; both without
    bias. For a layer with groups every array has one more axis in front, the groups.

    Attributes:
        count: number of positions that were seen.
        covariance: (r * taps, r * taps), of z, biased.
        remainder: (r * taps, C_out), covariance of z with the remainder y - H z.
        remainder_energy: (), sum over the channels of the variance of the remainder.
        mean: (r * taps,), of z.
        remainder_mean: (C_out,), of the remainder.
    """

    count: int
    covariance: Array
    remainder: Array
    remainder_energy: Array
    mean: Array
    remainder_mean: Array


class SecondPass(Protocol):
    """Gathers `FactorStatistics` of one layer in another pass over the data."""

    def __call__(self, layer: ConvLayer, pair: Factors) -> FactorStatistics:
        """Return the statistics of `pair`, a stack of two convolutions, on the inputs of `layer`."""
