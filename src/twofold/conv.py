"""The values that pass between the stages: what a convolution is, and what it becomes.

Shapes are in the field's order: weights (C_out, C_in / groups, *kernel), images (C, *size). Everything here
is a frozen value; arrays are read-only. Imports numpy alone.

Fully connected layers and transposed convolutions are described in the same terms, see `twofold.layer_types`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from .layer_types import Array, ConvGeometry, Size

__all__ = [
    "Array", "ConvGeometry", "ConvLayer", "FactorConv", "FactorStatistics", "Factors", "LayerStatistics",
    "SecondPass", "Size", "Skipped", "frozen",
]  # fmt: skip


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
        runs: how often each use runs per image of the network's input, as where a head runs once per region;
            empty for once each.
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
    runs: tuple[Fraction, ...] = ()

    def __post_init__(self) -> None:
        if self.weight is not None:
            if self.weight.shape != self.geometry.weight_shape:
                raise ValueError(f"{self.name}: weight {self.weight.shape} does not fit {self.geometry}")
            object.__setattr__(self, "weight", frozen(self.weight))
        if self.runs and len(self.runs) != len(self.input_sizes):
            raise ValueError(f"{self.name}: {len(self.runs)} runs for {len(self.input_sizes)} uses")
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
        return round(sum(self.costs(chain)))

    def costs(self, chain: tuple[ConvGeometry, ...]) -> tuple[Fraction, ...]:
        """Multiply-accumulates per image of each of `chain` if that stood in this layer's place."""
        costs = [Fraction(0)] * len(chain)
        for size, runs in self.uses:
            for index, geometry in enumerate(chain):
                costs[index] += runs * geometry.macs(size)
                size = geometry.output_size(size)  # noqa: PLW2901 - the chain's own input sizes
        return tuple(costs)

    @property
    def uses(self) -> tuple[tuple[Size, Fraction], ...]:
        """Input size of every use, with how often it runs per image."""
        runs = self.runs or (Fraction(1),) * len(self.input_sizes)
        return tuple(zip(self.input_sizes, runs, strict=True))


@dataclass(frozen=True)
class Skipped:
    """A layer that is left as it is, and why; shown in every table.

    Attributes:
        name: its name in the model.
        reason: why it stays.
        geometry: its shape; None where it is not known.
        macs: multiply-accumulates per image: 0 where it never runs, None where they are not known.
        params: number of weights, bias not counted.
    """

    name: str
    reason: str
    geometry: ConvGeometry | None = None
    macs: int | None = None
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
        names: what its convolutions were called where it was made first; empty where a model names them.
    """

    scheme: str
    ranks: Size
    convs: tuple[FactorConv, ...]
    names: tuple[str, ...] = ()

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
            of layers over the memory limit whose strips are, too, the diagonals (C_in * kernel[a],).
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
