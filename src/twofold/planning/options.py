"""Options of a plan, and which layers they select."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from twofold.conv import ConvGeometry, ConvLayer, Size, Skipped
from twofold.errors import OptionError, PlanError, UsageError
from twofold.lowrank.schemes import scheme
from twofold.planning.budget import Budget
from twofold.planning.devices import PRESETS
from twofold.registry import name_hint
from twofold.text import ranks_text

DEFAULT_MULTIPLE = 16
"""What AMCT uses; also the channel block of fp16 matrix units."""
DATA_SCHEMES = ("spatial", "channel", "depthwise")
"""What competes by default where inputs tell which is best."""
WEIGHT_SCHEMES = ("spatial",)
"""What is used by default where the weights decide."""
MORE_WEIGHT_SCHEMES = ("spatial", "channel")
"""What is used there where the first takes no layer, or does not reach the budget."""


@dataclass(frozen=True)
class FixedRanks:
    """Ranks that the user gives for a layer.

    Attributes:
        pattern: a layer's name, or a pattern with *, ? and [] that matches several.
        ranks: one per rank of the scheme; None for full rank.
    """

    pattern: str
    ranks: Size | None

    def __post_init__(self) -> None:
        if self.ranks is not None and (not self.ranks or min(self.ranks) < 1):
            raise OptionError(
                f"rank: {self.pattern} gets ranks of 1 or more, not {ranks_text(self.ranks) or 'none'}"
            )

    @classmethod
    def parse(cls, text: str) -> FixedRanks:
        """Read NAME=R, NAME=R1xR2 or NAME=full."""
        pattern, _, value = text.rpartition("=")
        parts = value.strip().lower().split("x")
        if pattern and parts == ["full"]:
            return cls(pattern, None)
        if not pattern or not all(re.fullmatch(r"0*[1-9][0-9]{0,99}", part) for part in parts):
            raise UsageError(f"rank: '{text}' is not NAME=R, NAME=R1xR2 or NAME=full, such as conv3_1=96")
        return cls(pattern, tuple(int(part) for part in parts))

    def __str__(self) -> str:
        return f"{self.pattern}={'full' if self.ranks is None else ranks_text(self.ranks)}"


@dataclass(frozen=True)
class PlanOptions:
    """How a plan is made.

    Attributes:
        budget: what may be spent; None spends what AMCT's rank rule would spend, at most the original.
        rule: name of a rule in `RULES` that chooses layer by layer; None chooses over all layers under the
            budget. A budget of energy implies the rule "energy".
        multiple: ranks are multiples of this, and at least this. Rule "amct" has its own 16.
        schemes: names of the schemes that compete.
        only: names or patterns of the layers that may be decomposed; empty means all.
        skip: names or patterns of layers to leave alone.
        ranks: ranks that are fixed; these may be no multiples, and more expensive than the layer.
        device: name in `PRESETS` of the device by whose blocks MACs are counted in a budget; None for none.
    """

    budget: Budget | None = None
    rule: str | None = None
    multiple: int = DEFAULT_MULTIPLE
    schemes: tuple[str, ...] = ("spatial",)
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    ranks: tuple[FixedRanks, ...] = ()
    device: str | None = None

    def __post_init__(self) -> None:
        if self.multiple < 1:
            raise OptionError(f"multiple: ranks are multiples of 1 or more, not {self.multiple}")
        if self.device is not None and self.device not in PRESETS:
            raise OptionError(f"device: {self.device!r} is none of {', '.join(PRESETS)}")
        if not self.schemes:
            raise OptionError("scheme: at least one is needed")
        names = tuple(dict.fromkeys(scheme(name).name for name in self.schemes))
        object.__setattr__(self, "schemes", names)
        energy = self.budget is not None and self.budget.metric == "energy"
        if energy and self.rule is None:
            object.__setattr__(self, "rule", "energy")
        if self.rule == "energy" and not energy:
            raise OptionError("rule energy: needs the fraction to keep, such as energy 0.99")
        if self.rule not in (None, "energy") and self.budget is not None:
            raise OptionError(
                f"rule {self.rule} chooses every rank by itself; a budget ({self.budget}) does not apply"
            )
        if self.rule in ("amct", "evbmf") and "spatial" not in self.schemes:
            raise OptionError(
                f"rule {self.rule} uses scheme spatial, which is not among {', '.join(self.schemes)}"
            )


@dataclass(frozen=True, eq=False)
class Selection:
    """Which layers may be decomposed, and with what ranks.

    Attributes:
        layers: those that may.
        skipped: those that may not, with reasons.
        fixed: for some of `layers`, ranks given by the user; None for full rank.
    """

    layers: tuple[ConvLayer, ...]
    skipped: tuple[Skipped, ...]
    fixed: dict[str, Size | None]


def select(layers: Sequence[ConvLayer | Skipped], options: PlanOptions) -> Selection:
    """Apply the patterns of `options` to the layers of a model.

    A layer whose weight others share is also known by their names.

    Raises:
        PlanError: a pattern matches no layer; a fixed rank is given for a layer that is left alone.
    """
    for what, patterns in (("only", options.only), ("skip", options.skip), ("rank", _patterns(options))):
        for pattern in patterns:
            if not any(_matches(layer, pattern) for layer in layers):
                raise PlanError(f"{what}: no convolution is called '{pattern}'{_hint(pattern, layers)}")
    chosen: list[ConvLayer] = []
    skipped: list[Skipped] = []
    fixed: dict[str, Size | None] = {}
    for layer in layers:
        given = [entry for entry in options.ranks if _matches(layer, entry.pattern)]
        reason = layer.reason if isinstance(layer, Skipped) else _left_alone(layer, options)
        if reason is None and isinstance(layer, ConvLayer):
            chosen.append(layer)
            if given:
                fixed[layer.name] = given[-1].ranks
            continue
        if any(entry.pattern == layer.name for entry in given):
            raise PlanError(f"rank: {layer.name} is left alone: {reason}")
        skipped.append(layer if isinstance(layer, Skipped) else left_alone(layer, reason or ""))
    return Selection(tuple(chosen), tuple(skipped), fixed)


def left_alone(layer: ConvLayer, reason: str) -> Skipped:
    """A layer that stays, as a value."""
    macs = layer.macs if layer.input_sizes else None
    return Skipped(layer.name, reason, layer.geometry, macs, layer.geometry.params)


def known_names(layers: Sequence[ConvLayer | Skipped]) -> list[str]:
    """Names by which layers can be called, in order."""
    return [name for layer in layers for name in _names(layer)]


def _left_alone(layer: ConvLayer, options: PlanOptions) -> str | None:
    if any(_matches(layer, pattern) for pattern in options.skip):
        return "skipped on request"
    if options.only and not any(_matches(layer, pattern) for pattern in options.only):
        return f"not among the layers asked for ({', '.join(options.only)})"
    rejection = scheme_rejection(layer.geometry, options.schemes)
    if rejection is None and layer.weight is None:
        return "its weights are not loaded"
    return rejection


def scheme_rejection(geometry: ConvGeometry, schemes: Sequence[str]) -> str | None:
    """Why none of these schemes takes a layer; None where one does."""
    rejections = {name: scheme(name).rejection(geometry) for name in schemes}
    if not all(rejections.values()):
        return None
    # Schemes often reject for one common reason, which is then said once.
    reasons = dict.fromkeys(str(reason) for reason in rejections.values())
    if len(reasons) == 1:
        return next(iter(reasons))
    return "; ".join(f"{name}: {reason}" for name, reason in rejections.items())


def _names(layer: ConvLayer | Skipped) -> tuple[str, ...]:
    return (layer.name, *layer.sharers) if isinstance(layer, ConvLayer) else (layer.name,)


def _matches(layer: ConvLayer | Skipped, pattern: str) -> bool:
    # An exact name first: names of layers may hold brackets that would be read as a pattern.
    return any(name == pattern or fnmatchcase(name, pattern) for name in _names(layer))


def _patterns(options: PlanOptions) -> tuple[str, ...]:
    return tuple(entry.pattern for entry in options.ranks)


def _hint(name: str, layers: Sequence[ConvLayer | Skipped]) -> str:
    return name_hint(name, known_names(layers))
