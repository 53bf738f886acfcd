"""A plan: which convolutions become what, as a value that prints, saves, is edited and applied later."""

from __future__ import annotations

import importlib.metadata
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from twofold.conv import ConvGeometry, ConvLayer, Size, Skipped
from twofold.errors import PlanError, TwofoldError
from twofold.lowrank.schemes import scheme
from twofold.planning.candidates import Candidate, label
from twofold.planning.options import PlanOptions, known_names, left_alone, name_hint
from twofold.planning.workload import Workload, chain_params, layer_params, ranks_text


def tool_version() -> str:
    """Version of twofold that is installed; "0" where it runs from a bare checkout."""
    try:
        return importlib.metadata.version("twofold")
    except importlib.metadata.PackageNotFoundError:
        return "0"


@dataclass(frozen=True)
class Choice:
    """What one layer becomes.

    Attributes:
        layer: the layer's name.
        geometry: shape of the layer.
        scheme: registered name of the scheme.
        variant: variant of the scheme; "" where there is only one.
        ranks: channels between the convolutions.
        macs: multiply-accumulates (before, after), in the plan's unit.
        params: weights (before, after), bias not counted.
        relative_error: predicted relative error of the layer's output (of its weight, without data); None if
            unknown.
        output_error: predicted relative error of the network's output if this layer alone is changed; None if
            nothing was measured.
        notes: what a reader should know, such as "rank given by the user".
    """

    layer: str
    geometry: ConvGeometry
    scheme: str
    variant: str
    ranks: Size
    macs: tuple[int, int] = (0, 0)
    params: tuple[int, int] = (0, 0)
    relative_error: float | None = None
    output_error: float | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, layer: ConvLayer, candidate: Candidate, workload: Workload, *,
        output_error: float | None = None, notes: tuple[str, ...] = (),
    ) -> Choice:  # fmt: skip
        """Record that `candidate` replaces `layer`."""
        return cls(
            layer.name, layer.geometry, candidate.scheme, candidate.variant, candidate.ranks,
            (workload.layer_macs(layer), candidate.macs), (layer.geometry.params, candidate.params),
            candidate.relative_error, output_error, notes,
        )  # fmt: skip

    @property
    def label(self) -> str:
        """Scheme, variant and ranks in words."""
        return label(self.scheme, self.variant, self.ranks)

    @property
    def dearer(self) -> bool:
        """Whether it costs more than the layer, in MACs or params."""
        return self.macs[1] > self.macs[0] or self.params[1] > self.params[0]


@dataclass(frozen=True)
class Totals:
    """Sums over all convolutions of the network, decomposed or not.

    Attributes:
        macs: multiply-accumulates (before, after), in the plan's unit.
        params: weights (before, after), biases not counted.
    """

    macs: tuple[int, int]
    params: tuple[int, int]

    @property
    def macs_ratio(self) -> float:
        """MACs after / before; 1 for a network without MACs."""
        return ratio(self.macs)

    @property
    def params_ratio(self) -> float:
        """Params after / before; 1 for a network without params."""
        return ratio(self.params)


def ratio(pair: tuple[int, int]) -> float:
    """After / before; 1 where there was nothing before."""
    return pair[1] / pair[0] if pair[0] else 1.0


@dataclass(frozen=True)
class Plan:
    """A decision over all convolutions of one model.

    Attributes:
        choices: the layers that are decomposed, in the model's order.
        skipped: the layers that stay, with reasons.
        options: how the plan was made.
        macs_per: what MACs refer to: "image", or "output position" where input sizes are unknown.
        sources: sha256 of each file of the model, by file name.
        notes: what a reader should know about the plan as a whole.
        version: version of twofold that made it.
    """

    choices: tuple[Choice, ...]
    skipped: tuple[Skipped, ...]
    options: PlanOptions = PlanOptions()
    macs_per: str = "image"
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    version: str = field(default_factory=tool_version)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", MappingProxyType(dict(self.sources)))
        names = [choice.layer for choice in self.choices]
        names += [skipped.name for skipped in self.skipped]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise PlanError(f"a plan names each layer once; it names {', '.join(twice)} twice")
        if self.macs_per not in ("image", "output position"):
            raise PlanError(f"MACs are counted per image or per output position, not per '{self.macs_per}'")

    def __hash__(self) -> int:
        return hash((self.choices, self.skipped, self.version))

    @property
    def workload(self) -> Workload:
        """How this plan counts MACs."""
        return Workload(per_position=self.macs_per != "image")

    @property
    def totals(self) -> Totals:
        """Sums over all convolutions."""
        fixed_macs = sum(self.workload.layer_macs(layer) for layer in self.skipped)
        fixed_params = sum(layer_params(layer) for layer in self.skipped)
        before, after = (sum(c.macs[i] for c in self.choices) + fixed_macs for i in (0, 1))
        params_before, params_after = (sum(c.params[i] for c in self.choices) + fixed_params for i in (0, 1))
        return Totals((before, after), (params_before, params_after))

    @property
    def predicted_error(self) -> float | None:
        """Predicted relative error of the network's output; None if that of a choice is unknown.

        The errors of single layers are taken as uncorrelated: their squares add up.
        """
        errors = [choice.output_error for choice in self.choices]
        known = [error for error in errors if error is not None]
        return math.hypot(*known) if len(known) == len(errors) else None

    def __str__(self) -> str:
        from twofold.planning.table import plan_table  # noqa: PLC0415 - the table is built from plans

        return plan_table(self)

    def to_json(self) -> str:
        """Serialise as JSON; equal plans give equal text."""
        from twofold.planning.codec import plan_to_json  # noqa: PLC0415 - the codec is built from plans

        return plan_to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote, perhaps edited by hand.

        Raises:
            PlanError: no JSON, an unknown or missing key, a value of the wrong kind, another schema version.
        """
        from twofold.planning.codec import plan_from_json  # noqa: PLC0415 - the codec is built from plans

        return plan_from_json(text)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON; the file appears complete or not at all."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            partial.write_text(self.to_json(), encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise PlanError(f"{path}: cannot write the plan: {error.strerror or error}") from error
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan from a file.

        Raises:
            PlanError: the file cannot be read or is no plan.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise PlanError(f"{path}: cannot read the plan: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise PlanError(f"{path}: is no plan: not UTF-8 text") from error
        try:
            return cls.from_json(text)
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from error

    def check(self, layers: Sequence[ConvLayer | Skipped]) -> Plan:
        """Compare with the layers of a model, and count anew.

        Law: a plan fresh from `make_plan`, checked against the layers that it was made for, comes back equal.

        Args:
            layers: all convolutions of the model that the plan is to be applied to: the one it was made for,
                or a twin with the same convolutions and perhaps other input sizes.

        Returns:
            The plan with MACs and params as they are in this model, and every convolution of the model in it.

        Raises:
            PlanError: all layers that do not fit, each with its remedy.
        """
        known: dict[str, ConvLayer | Skipped] = {layer.name: layer for layer in layers}
        owners = {
            sharer: layer.name for layer in layers if isinstance(layer, ConvLayer) for sharer in layer.sharers
        }
        problems = [p for choice in self.choices if (p := _problem(choice, known, owners))]
        if problems:
            head = (
                f"the plan does not fit this model in {len(problems)} places:"
                if problems[1:]
                else "the plan does not fit:"
            )
            raise PlanError("\n  ".join([head, *problems]))
        workload = Workload.of(layers)
        chosen = {choice.layer: choice for choice in self.choices}
        reasons = {layer.name: layer.reason for layer in self.skipped}
        choices, skipped = [], []
        for layer in layers:
            if isinstance(layer, Skipped):
                skipped.append(layer)
            elif layer.name in chosen:
                choices.append(_recount(chosen[layer.name], layer, workload))
            else:
                skipped.append(left_alone(layer, reasons.get(layer.name, "not in the plan")))
        return replace(self, choices=tuple(choices), skipped=tuple(skipped), macs_per=workload.unit)


def _problem(
    choice: Choice, known: Mapping[str, ConvLayer | Skipped], owners: Mapping[str, str]
) -> str | None:
    layer = known.get(choice.layer)
    if layer is None:
        if choice.layer in owners:
            owner = owners[choice.layer]
            return f"{choice.layer}: shares its weight with {owner}; write {owner} instead"
        hint = name_hint(choice.layer, known_names(tuple(known.values())))
        return f"{choice.layer}: the model has no such convolution; remove it from the plan, or correct the name{hint}"
    if isinstance(layer, Skipped):
        return f"{choice.layer}: cannot be decomposed in this model: {layer.reason}; remove it from the plan"
    if layer.geometry != choice.geometry:
        return (
            f"{choice.layer}: is {shape_text(layer.geometry)} in this model and {shape_text(choice.geometry)} in the plan; use the "
            f"model that the plan was made for, or make a new plan"
        )
    try:
        kind = scheme(choice.scheme)
    except TwofoldError as error:
        return f"{choice.layer}: {error}"
    refusal = kind.refusal(layer.geometry)
    if refusal:
        return f"{choice.layer}: scheme '{choice.scheme}' does not apply: {refusal}; choose another or remove the layer"
    variants = kind.variants(layer.geometry)
    if choice.variant not in variants:
        allowed = ", ".join(repr(v) for v in variants)
        return f"{choice.layer}: scheme '{choice.scheme}' has no variant '{choice.variant}'; use {allowed}"
    full = kind.full_rank(layer.geometry, choice.variant)
    if len(choice.ranks) != len(full) or any(
        not 1 <= r <= f for r, f in zip(choice.ranks, full, strict=True)
    ):
        return (
            f"{choice.layer}: ranks {ranks_text(choice.ranks)} do not fit scheme '{choice.scheme}', which takes "
            f"{len(full)} from 1 to {ranks_text(full)}"
        )
    return None


def _recount(choice: Choice, layer: ConvLayer, workload: Workload) -> Choice:
    chain = scheme(choice.scheme).chain(layer.geometry, choice.variant, choice.ranks)
    return replace(
        choice, macs=(workload.layer_macs(layer), workload.macs(layer, chain)),
        params=(layer.geometry.params, chain_params(chain)),
    )  # fmt: skip


def shape_text(geometry: ConvGeometry) -> str:
    """Shape of a convolution in words; what is 1 or 0 is not named."""
    parts = [f"{geometry.c_in}->{geometry.c_out} {'x'.join(map(str, geometry.kernel))}"]
    if max(geometry.stride) > 1:
        parts.append(f"stride {'x'.join(map(str, geometry.stride))}")
    if max(geometry.dilation) > 1:
        parts.append(f"dilation {'x'.join(map(str, geometry.dilation))}")
    if geometry.groups > 1:
        parts.append(f"groups {geometry.groups}")
    if any(map(any, geometry.pad)):
        parts.append("pad " + "x".join(str(b) if b == a else f"{b}+{a}" for b, a in geometry.pad))
    return ", ".join(parts)
