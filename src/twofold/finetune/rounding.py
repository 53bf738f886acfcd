"""What rounds a Caffe net in torch as its int8 form rounds.

Source: Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
inference", CVPR 2018.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..caffe_torch import CaffeNet, Layer
from ..errors import ModelError
from ..int8.fake import observing_quantizer, range_of, weight_quantizer
from ..int8.places import Places
from ..int8.qdq import Ranges

#: By value: its smallest and its largest number, of which all about its rounding follows.
Extremes = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Top:
    """What a net knows a value by.

    Attributes:
        layer: name of the layer that gives it; "" for an input.
        index: its position among the layer's tops.
    """

    layer: str
    index: int = 0


class Rounding:
    """Rounds values and weights to 8 bits, in any net that has them."""

    def __init__(self, places: Places, tops: Mapping[str, Top], device: torch.device) -> None:
        """Make what rounds.

        Args:
            places: what is rounded.
            tops: by value.
            device: where the nets compute.
        """
        self._places, self._tops = places, tops
        self._ranges: dict[str, Any] = {
            name: observing_quantizer().to(device) for name in sorted(set(places.values.values()))
        }
        self._weights = {name: weight_quantizer(axis).to(device) for name, axis in places.weights.items()}
        self._observes, self._rounds = False, True

    @contextmanager
    def observing(self, *, rounds: bool = True) -> Iterator[None]:
        """Within the context ranges follow the values that come.

        Args:
            rounds: whether values and weights are rounded all the same.
        """
        self._observes, self._rounds = True, rounds
        try:
            yield
        finally:
            self._observes, self._rounds = False, True

    @contextmanager
    def within(self, net: CaffeNet) -> Iterator[None]:
        """Within the context the layers of a net give rounded values, of rounded weights."""
        values: dict[str, dict[int, str]] = {}
        for value in self._places.values:
            top = self._tops[value]
            values.setdefault(top.layer, {})[top.index] = value
        names = {spec.name for spec in net.definition.layers} & (values.keys() | self._weights.keys())
        modules = {name: _Rounded(net.layers[name], name, values.get(name, {}), self) for name in names}
        with net.swapped(modules):
            yield

    def fed(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A batch whose inputs are rounded where the int8 form does so."""
        inputs = {value for value in self._places.values if not self._tops[value].layer}
        return {name: self.value(name, one) if name in inputs else one for name, one in batch.items()}

    def value(self, name: str, tensor: Tensor) -> Tensor:
        """A value as it is in int8."""
        scale = self._places.values[name]
        quantizer = self._ranges[scale]
        # Only the value that a scale is made for tells its range.
        if self._observes and scale == name:
            found: Tensor = (quantizer if self._rounds else quantizer.activation_post_process)(tensor)
            return found
        if not self._rounds:
            return tensor
        return torch.fake_quantize_per_tensor_affine(
            tensor, quantizer.scale, quantizer.zero_point, quantizer.quant_min, quantizer.quant_max
        )

    def weights(self, layer: nn.Module, name: str) -> dict[str, Tensor]:
        """The weight of a layer as it is in int8, by its name in the module; none where it is not rounded."""
        if not (self._rounds and name in self._weights and isinstance(layer, Layer)):
            return {}
        weight = layer.blob_names[0]
        return {weight: self._weights[name](getattr(layer, weight))}

    # ---- ranges

    def forget(self) -> None:
        """Let the ranges be those of the values that come next."""
        for one in self._ranges.values():
            one.activation_post_process.reset_min_max_vals()

    def extremes(self) -> dict[str, tuple[float, float]]:
        """The ranges as they are now."""
        observers = {name: one.activation_post_process for name, one in self._ranges.items()}
        return {name: (float(one.min_val), float(one.max_val)) for name, one in observers.items()}

    def set_extremes(self, found: Extremes) -> None:
        """Set the ranges.

        Raises:
            ModelError: they are of other values, or not finite.
        """
        if found.keys() != self._ranges.keys():
            raise ModelError(
                f"the ranges are those of {len(found)} values, but in int8 the net has {len(self._ranges)}, "
                "or others; it was changed, so begin a new training with its weights"
            )
        for name, pair in found.items():
            if not all(map(math.isfinite, pair)):
                raise ModelError(
                    f"blob {name!r} has no range in int8, its values are not finite; look at the data, and "
                    "at the weights to begin with"
                )
            one = self._ranges[name]
            for held, new in zip(_observed(one), pair, strict=True):
                held.fill_(new)
            for held, new in zip((one.scale, one.zero_point), one.calculate_qparams(), strict=True):
                held.copy_(new)

    def ranges(self) -> Ranges:
        """Scale and zero point of all that has a scale in the int8 model."""
        return {name: range_of(self._ranges[value]) for name, value in self._places.scales.items()}


def _observed(quantizer: Any) -> tuple[Tensor, Tensor]:
    observer = quantizer.activation_post_process
    return observer.min_val, observer.max_val


class _Rounded(nn.Module):
    """A layer whose weight and tops are rounded."""

    def __init__(self, layer: nn.Module, name: str, values: Mapping[int, str], rounding: Rounding) -> None:
        super().__init__()
        self.layer, self._name, self._values, self._rounding = layer, name, values, rounding

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Compute the tops."""
        weights = self._rounding.weights(self.layer, self._name)
        tops = functional_call(self.layer, weights, bottoms) if weights else self.layer(*bottoms)
        tops = (tops,) if isinstance(tops, Tensor) else tops
        return tuple(
            self._rounding.value(self._values[index], top) if index in self._values else top
            for index, top in enumerate(tops)
        )
