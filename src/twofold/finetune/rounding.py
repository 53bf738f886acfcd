"""What rounds a Caffe net in torch as its int8 form rounds, with ranges that are trained.

The scale of a value is trained like a weight, but not by the solver: it has no place in Caffe's files, and a
rate for weights may be anything to it. Adam moves it by at most about a fraction of itself per iteration,
which falls with the solver's rate. Zero points stay.

Source: Esser et al., "Learned step size quantization", ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..caffe_torch import CaffeNet, Layer
from ..errors import ModelError
from ..int8.fake import range_observer, range_of, range_quantizer, weight_quantizer
from ..int8.parity import Followed
from ..int8.qdq import Ranges
from ..int8.quantized_tensors import QuantizedTensors

#: Share of itself by which a scale moves at most in an iteration, before the rate falls.
_STEP = 3e-3

#: As `Rounding.state` gives it: what torch saves.
State = Mapping[str, Any]


@dataclass(frozen=True)
class Top:
    """What a net knows a value by.

    Attributes:
        layer: name of the layer that gives it; None for an input.
        index: its position among the layer's tops.
    """

    layer: str | None
    index: int = 0


class Rounding(Followed):
    """Rounds values and weights to 8 bits, in any net that has them."""

    def __init__(self, places: QuantizedTensors, tops: Mapping[str, Top], device: torch.device) -> None:
        """Make what rounds weights; the ranges of values are set later.

        Args:
            places: what is rounded.
            tops: by value.
            device: where the nets compute.
        """
        self._places, self._tops, self._device = places, tops, device
        self._weights = {name: weight_quantizer(axis).to(device) for name, axis in places.weights.items()}
        self._ranges: dict[str, Any] = {}
        self._observers: dict[str, Any] = {}
        self._optimizer: Any = None

    @contextmanager
    def within(self, net: CaffeNet) -> Iterator[None]:
        """Within the context the layers of a net give rounded values, of rounded weights."""
        values: dict[str | None, dict[int, str]] = {}
        for value in self._places.values:
            top = self._tops[value]
            values.setdefault(top.layer, {})[top.index] = value
        names = {spec.name for spec in net.definition.layers} & (values.keys() | self._weights.keys())
        modules = {name: _Rounded(net.layers[name], name, values.get(name, {}), self) for name in names}
        with net.swapped(modules):
            yield

    def fed(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A batch whose inputs are rounded where the int8 form does so."""
        inputs = {value for value in self._places.values if self._tops[value].layer is None}
        return {name: self.value(name, one) if name in inputs else one for name, one in batch.items()}

    def value(self, name: str, tensor: Tensor) -> Tensor:
        """A value as it is in int8."""
        scale = self._places.values[name]
        if self._observers:
            # Only the value that a scale is made for tells its range.
            return self._observers[scale](tensor) if scale == name else tensor
        found: Tensor = self._ranges[scale](tensor)
        if self._agreement is None or name not in self._places.integers:
            return found
        where, known = self._places.integers[name], range_of(self._ranges[scale])
        return self._agreement.follow(where, tensor, found, known)

    def weights(self, layer: nn.Module, name: str) -> dict[str, Tensor]:
        """The weight of a layer as it is in int8, by its name in the module; none where it is not rounded."""
        if self._observers or name not in self._weights or not isinstance(layer, Layer):
            return {}
        weight = layer.blob_names[0]
        return {weight: self._weights[name](getattr(layer, weight))}

    # ---- ranges

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Within the context nothing is rounded; behind it ranges are those of the values that came.

        Raises:
            ModelError: a value has no range.
        """
        self._observers = {name: range_observer().to(self._device) for name in self._places.values.values()}
        try:
            yield
            found = {name: _observed(name, one) for name, one in self._observers.items()}
        finally:
            self._observers = {}
        self._set(found)

    def _set(self, found: Ranges) -> None:
        self._ranges = {name: range_quantizer(*pair).to(self._device) for name, pair in found.items()}
        groups = [{"params": [one.scale], "size": float(one.scale)} for one in self._ranges.values()]
        self._optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))

    def learn(self, fraction: float) -> None:
        """A step of the ranges, by the gradients of the passes since the last one.

        Args:
            fraction: of the solver's first rate that it has now.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = _STEP * min(fraction, 1.0) * group["size"]
        self._optimizer.step()
        self._optimizer.zero_grad()
        for one in self._ranges.values():
            one.calculate_qparams()  # keeps the scale above zero

    def ranges(self) -> Ranges:
        """Scale and zero point of all that has a scale in the int8 model."""
        return {name: range_of(self._ranges[value]) for name, value in self._places.scales.items()}

    def state(self) -> State:
        """What training goes on from."""
        return {
            "ranges": {name: range_of(one) for name, one in self._ranges.items()},
            "optimizer": self._optimizer.state_dict(),
        }

    def set_state(self, state: State) -> None:
        """Go on from there.

        Raises:
            ModelError: it is of another net.
        """
        names = set(self._places.values.values())
        if state["ranges"].keys() != names:
            raise ModelError(
                f"the ranges are those of {len(state['ranges'])} values, but in int8 the net has "
                f"{len(names)}, or others; it was changed, so begin a new training with its weights"
            )
        self._set(state["ranges"])
        self._optimizer.load_state_dict(state["optimizer"])


def _observed(name: str, observer: Any) -> tuple[float, int]:
    extremes = torch.stack([observer.min_val, observer.max_val])
    if not extremes.isfinite().all():
        raise ModelError(
            f"blob {name!r} has no range in int8, as its values are not finite; look at the data, and at the "
            "weights to begin with"
        )
    scale, zero = observer.calculate_qparams()
    return float(scale), int(zero)


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
