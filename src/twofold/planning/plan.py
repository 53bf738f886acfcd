"""A plan: which convolutions become what, as a value that prints, saves, is edited and applied later."""

from __future__ import annotations

import errno
import importlib.metadata
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

from twofold.conv import ConvGeometry, ConvLayer, Size, Skipped
from twofold.errors import OutputError, PlanError
from twofold.files.atomic import commit
from twofold.files.preflight import output_path
from twofold.lazy import resolve
from twofold.planning.candidates import Candidate, label
from twofold.planning.options import PlanOptions
from twofold.planning.timing import NetworkTiming, Timing
from twofold.planning.workload import Workload, layer_params
from twofold.views import Tabular

if TYPE_CHECKING:
    from torch.nn import Module


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
        becomes: names of the convolutions that stand in its place; empty where the plan was not carried out.
        timing: of the layer by itself; None where the plan was not made by time.
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
    becomes: tuple[str, ...] = ()
    timing: Timing | None = None

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
    def costs_more(self) -> bool:
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


@dataclass(frozen=True, repr=False)
class Plan(Tabular):
    """A decision over all convolutions of one model.

    Attributes:
        choices: the layers that are decomposed, in the model's order.
        skipped: the layers that stay, with reasons.
        options: how the plan was made.
        macs_per: what MACs refer to: "image", or "output position" where input sizes are unknown.
        sources: sha256 of each file of the model, by file name.
        notes: what a reader should know about the plan as a whole.
        calibration: which inputs the factors were fitted to, and how, as plain JSON values; None where they
            come from the weights alone.
        measured_error: error of the network's output with all choices carried out, on inputs that no factor
            was fitted to (unless there were few); None where nothing was measured.
        version: version of twofold that made it.
        timing: of the network; None where the plan was not made by time.
    """

    choices: tuple[Choice, ...]
    skipped: tuple[Skipped, ...]
    options: PlanOptions = field(default_factory=PlanOptions)
    macs_per: str = "image"
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    calibration: Mapping[str, Any] | None = None
    measured_error: float | None = None
    version: str = field(default_factory=tool_version)
    timing: NetworkTiming | None = None

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

    def named(self, replaced: Mapping[str, tuple[str, ...]]) -> Plan:
        """The plan with the names of the convolutions that each layer became."""
        choices = tuple(replace(choice, becomes=replaced.get(choice.layer, ())) for choice in self.choices)
        return replace(self, choices=choices)

    @property
    def title(self) -> str:
        """See `Tabular`."""
        count = len(self.choices)
        every = count + len(self.skipped)
        ratio = self.totals.macs_ratio if every else 1.0
        return f"{count} of {every} convolutions decomposed, {ratio:.3f} of the MACs"

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
        """Write as JSON, over an older one; the file appears complete or not at all.

        Raises:
            PlanError: the folder is missing, or the system rejects.
        """
        path, content = output_path(path, "the plan"), self.to_json().encode()
        if not os.path.isdir(path.parent):
            raise PlanError(f"{path}: cannot write the plan: {os.strerror(errno.ENOENT)}")

        def write(stream: BinaryIO) -> None:
            stream.write(content)

        try:
            commit({path: write}, force=True)
        except OutputError as error:
            raise PlanError(f"{path}: cannot write the plan: {error}") from error

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
        """Compare with the layers of a model, and count again.

        Law: a plan fresh from `make_plan`, checked against the layers that it was made for, comes back equal.

        Args:
            layers: all convolutions of the model that the plan is to be applied to: the one it was made for,
                or a training net with the same convolutions and perhaps other input sizes.

        Returns:
            The plan with MACs and params as they are in this model, and every convolution of the model in it.

        Raises:
            PlanError: all layers that do not fit, each with its remedy.
        """
        from twofold.planning.check import check_plan  # noqa: PLC0415 - the check is built from plans

        return check_plan(self, layers)

    def apply(self, module: Module) -> Module:
        """The structure that a module gets by this plan, to load a saved state_dict into.

        Nothing is fitted, and what the module's weights are does not matter: the new layers have weights as
        PyTorch draws them for any new layer, with dtype, device, memory format and `requires_grad` of theirs.

        Args:
            module: the module that the plan was made for, built again; it stays as it is.

        Returns:
            A copy whose state_dict has the names and shapes of that of `result.model.module`.

        Raises:
            OptionError: it is no module.
            PlanError: the plan does not fit the module; all layers that do not, each with its remedy.
        """
        restructured: Module = resolve("twofold.decomposition.structure:structured")(self, module)
        return restructured
