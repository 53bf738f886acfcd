"""Budgets: what may be spent, in which unit."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from twofold.conv import ConvLayer, Skipped
from twofold.errors import OptionError, UsageError
from twofold.planning.candidates import Candidate
from twofold.planning.workload import Workload, layer_params
from twofold.renamed import former_fields

#: Budgets of what may be lost; the others are of what may be spent.
_LOSSES = ("error", "energy", "accuracy_drop")
#: From here on a number is an amount; between 1 and this it is a percentage or a slip.
_SMALLEST_AMOUNT = 1000
_SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


@former_fields(kind="metric")
@dataclass(frozen=True)
class Budget:
    """What a plan may spend or must keep.

    Attributes:
        metric: "macs", "params" or the name of another `Cost` (a limit on the sum over all convolutions of
            the network); "error" (the cheapest network whose predicted output error is at most `value`);
            "accuracy_drop" (the cheapest whose accuracy drops by at most `value`);
            "energy" (each layer keeps at least this fraction of its energy).
        value: the ratio compressed / original, the absolute amount, the error, or the fraction.
        absolute: whether `value` is an amount and not a ratio.
    """

    metric: str
    value: float
    absolute: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or self.value < 0:
            raise OptionError(f"{self.metric}: a budget is a finite number, not negative; got {self.value}")
        if self.metric == "energy" and not 0 < self.value <= 1:
            raise OptionError(f"energy: a fraction between 0 and 1 is kept, such as 0.99; got {self.value:g}")
        if self.absolute and self.metric in _LOSSES:
            raise OptionError(f"{self.metric}: has no absolute amount")
        if not self.absolute and self.metric not in _LOSSES and self.value > 1:
            raise OptionError(
                f"{self.metric}: {self.value:g} is a ratio above 1 (compressed / original); write 0.4 for "
                f"40 %, or an absolute amount with a suffix such as {self.value:g}M"
            )

    @property
    def of_loss(self) -> bool:
        """Whether it limits what may be lost, and not what may be spent."""
        return self.metric in _LOSSES

    @classmethod
    def of(cls, metric: str, value: float | str) -> Budget:
        """Read a text as `parse` does, and a number alike: 0.4 is a ratio, 2e7 an absolute amount.

        Raises:
            OptionError: it is no budget.
        """
        if isinstance(value, str):
            return cls.parse(metric, value)
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise OptionError(f"{metric}: {value!r} is no budget; give a ratio, 0.4, or an amount, '3.2G'")
        number = float(value)
        return cls(metric, number, absolute=metric in COSTS and math.inf > number >= _SMALLEST_AMOUNT)

    @classmethod
    def parse(cls, metric: str, text: str) -> Budget:
        """Read "0.4" or "40%" as a ratio (fraction, error), "3.2G" or "2e7" as an absolute amount."""
        match = re.fullmatch(r"\s*([0-9.]+(?:e[-+]?[0-9]+)?)\s*([kmgt%]?)\s*", text, flags=re.IGNORECASE)
        try:
            if match is None:
                raise ValueError(text)
            value, suffix = float(match[1]), match[2].lower()
        except ValueError:
            raise UsageError(
                f"{metric}: '{text}' is no budget; write a ratio such as 0.4 or an amount such as 3.2G"
            ) from None
        if suffix == "%":
            return cls(metric, value / 100)
        return cls(metric, value * _SUFFIXES[suffix], absolute=True) if suffix else cls.of(metric, value)

    def __str__(self) -> str:
        if self.metric == "energy":
            return f"each layer keeps a fraction of {self.value:g} of its energy"
        if self.metric == "error":
            return f"output error at most {self.value:g}"
        if self.metric == "accuracy_drop":
            return f"accuracy drops by at most {self.value:g}"
        name = COSTS[self.metric].label if self.metric in COSTS else self.metric
        return f"{name} at most {self.value:g}" + ("" if self.absolute else " of the original")


class Cost(Protocol):
    """The unit of a budget.

    A plan needs nothing else of it, so that measured times can stand beside MACs and params.
    """

    @property
    def name(self) -> str:
        """The metric of a budget in this unit."""

    @property
    def label(self) -> str:
        """The word for tables and messages, such as "MACs"."""

    @property
    def base(self) -> float:
        """What the network costs beside what `of_layer` gives for its convolutions."""

    def of_layer(self, layer: ConvLayer | Skipped) -> float:
        """Cost of a layer as it is."""

    def of_candidate(self, layer: ConvLayer, candidate: Candidate) -> float:
        """Cost of what would replace it."""


@dataclass(frozen=True)
class MacsCost:
    """Multiply-accumulates in the unit of the workload."""

    workload: Workload
    name: str = "macs"
    label: str = "MACs"
    base: float = 0.0

    def of_layer(self, layer: ConvLayer | Skipped) -> float:
        """MACs of a layer as it is."""
        return self.workload.layer_macs(layer)

    def of_candidate(self, layer: ConvLayer, candidate: Candidate) -> float:
        """MACs of what would replace it."""
        return candidate.macs


@dataclass(frozen=True)
class ParamsCost:
    """Weights, biases not counted."""

    workload: Workload
    name: str = "params"
    label: str = "params"
    base: float = 0.0

    def of_layer(self, layer: ConvLayer | Skipped) -> float:
        """Params of a layer as it is."""
        return layer_params(layer)

    def of_candidate(self, layer: ConvLayer, candidate: Candidate) -> float:
        """Params of what would replace it."""
        return candidate.params


@dataclass(frozen=True)
class _Unit:
    label: str
    build: Callable[[Workload], Cost]


COSTS: Mapping[str, _Unit] = MappingProxyType(
    {"macs": _Unit("MACs", MacsCost), "params": _Unit("params", ParamsCost)}
)
"""Units that need nothing but the layers; others are handed to `make_plan`."""
