"""What a model's convolutions are, what ranks would cost, and what they would keep."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .backends import as_model
from .calibration.runners import runner_for
from .conv import ConvLayer, Skipped
from .errors import InputError, MissingExtraError, ModelError
from .formats.base import Model
from .lowrank import scheme
from .lowrank.assemble import checked_weight
from .planning import requests
from .planning.amct import amct_mode, amct_rejection
from .planning.candidates import has_candidates
from .planning.options import DATA_SCHEMES, MORE_WEIGHT_SCHEMES, WEIGHT_SCHEMES, PlanOptions, scheme_rejection
from .planning.rules import amct_layer_rank, no_candidate_reason
from .planning.workload import Workload, layer_params
from .progress import track
from .text import aligned, count_text, error_text, shape_text
from .views import Tabular

#: Shares of a layer's own MACs for which the table shows ranks.
FRACTIONS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class RankCost:
    """What one rank of a layer costs and keeps.

    Attributes:
        share: MACs of the stack / MACs of the layer, at most.
        rank: the largest rank within it; 0 where there is none.
        relative_error: relative error of the weight; None without weights.
    """

    share: float
    rank: int
    relative_error: float | None


@dataclass(frozen=True)
class Inspected:
    """One convolution.

    Attributes:
        name: its name.
        shape: its shape in words.
        macs: multiply-accumulates per image; None where they are not known.
        params: weights, bias not counted.
        reason: why it is not eligible; "" where it is.
        schemes: those that have ranks which make it cheaper; empty where it is not eligible.
        reference: rank that AMCT's rank rule gives; None where it leaves the layer alone or weights lack.
        ranks: what ranks of the first of `schemes` would cost and keep.
    """

    name: str
    shape: str
    macs: int | None
    params: int
    reason: str
    schemes: tuple[str, ...]
    reference: int | None
    ranks: tuple[RankCost, ...]


@dataclass(frozen=True)
class InspectionTotals:
    """What a network's convolutions have together.

    Attributes:
        layers: how many they are.
        eligible: how many of them can be decomposed.
        macs: of those whose MACs are known.
        unknown_macs: how many others there are.
        params: weights, biases not counted.
    """

    layers: int
    eligible: int
    macs: int
    unknown_macs: int
    params: int


@dataclass(frozen=True, repr=False)
class Inspection(Tabular):
    """All convolutions of a model; prints as a table.

    Attributes:
        layers: the convolutions.
        options: by which they are eligible: the schemes, and what ranks are multiples of.
        notes: why these schemes and no others, where that is not what anybody asked for.
    """

    layers: tuple[Inspected, ...]
    options: PlanOptions
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """See `Tabular`."""
        return f"{self.totals.eligible} of {self.totals.layers} convolutions eligible"

    @property
    def totals(self) -> InspectionTotals:
        """The sums over all layers."""
        known = [layer.macs for layer in self.layers if layer.macs is not None]
        return InspectionTotals(
            len(self.layers), sum(not layer.reason for layer in self.layers), sum(known),
            len(self.layers) - len(known), sum(layer.params for layer in self.layers),
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """Layers, totals and notes, of values that JSON has."""
        return {
            "layers": [asdict(layer) for layer in self.layers],
            "totals": asdict(self.totals),
            "schemes": list(self.options.schemes),
            "multiple": self.options.multiple,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        fractions = (f"at {fraction} of MACs" for fraction in FRACTIONS)
        head = ("layer", "shape", "MACs", "params", "schemes", "reference", *fractions)
        rows = [
            (
                layer.name,
                layer.shape,
                "?" if layer.macs is None else count_text(layer.macs),
                count_text(layer.params),
                ", ".join(layer.schemes) or "-",
                "-" if layer.reference is None else str(layer.reference),
                *([_cell(cost) for cost in layer.ranks] or [layer.reason]),
            )
            for layer in self.layers
        ]
        totals = self.totals
        macs = [count_text(totals.macs)] * (totals.macs > 0) + ["?"] * (totals.unknown_macs > 0)
        total = (
            "all convolutions",
            f"{totals.eligible} of {totals.layers} eligible",
            " + ".join(macs) or "0",
            count_text(totals.params),
        )
        return "\n".join(
            [
                *aligned([head, *rows, total], right=(2, 3, 5)),
                f"schemes: of {', '.join(self.options.schemes)} those that make the layer cheaper with ranks "
                f"that are multiples of {self.options.multiple}",
                "reference: rank of AMCT's rank rule; then the largest rank of the first scheme within a "
                "fraction of the layer's MACs, and the relative error of the weight",
                *self.notes,
            ]
        )


def _cell(cost: RankCost) -> str:
    if not cost.rank:
        return "-"
    return (
        f"{cost.rank} ({error_text(cost.relative_error)})"
        if cost.relative_error is not None
        else f"{cost.rank}"
    )


def inspect(
    model: Any, schemes: Sequence[str] | None = None, multiple: int = 16, *, example_inputs: Any = None
) -> Inspection:
    """List a model's convolutions.

    Args:
        model: what `load` gives, a `torch.nn.Module`, or what `decompose` gives; without weights only shapes
            are known.
        schemes: those that may take a layer; by default what `decompose` uses for this model.
        multiple: ranks are multiples of this, and at least this.
        example_inputs: of a module, as in `decompose`; without them its MACs are not known.

    Returns:
        What prints as a table.

    Raises:
        OptionError: it is no model.
        ModelError: it cannot be read.

    Examples:
        >>> found = twofold.inspect(twofold.load("net.prototxt", "net.caffemodel"))
        >>> [layer.name for layer in found.layers if not layer.reason][:2]
        ['conv1', 'conv2']
    """
    model = as_model(model, example_inputs)
    notes: tuple[str, ...] = ()
    layers = model.convolutions()
    if schemes is None:
        schemes, notes = _usual_schemes(model)
        if not requests(layers, PlanOptions(schemes=schemes, multiple=multiple)):
            schemes = MORE_WEIGHT_SCHEMES
    options = PlanOptions(schemes=tuple(schemes), multiple=multiple)
    workload = Workload.of(layers)
    inspected = [_inspect(layer, options, workload) for layer in track(layers, "inspecting layers")]
    return Inspection(tuple(inspected), options, notes)


def _usual_schemes(model: Model) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The schemes that `decompose` uses where none are named, and a note where it has the weights alone."""
    try:
        runner_for(model)
    except (MissingExtraError, ModelError, InputError) as error:
        return WEIGHT_SCHEMES, (f"weights only, since no calibration is possible: {error}",)
    return DATA_SCHEMES, ()


def _inspect(layer: ConvLayer | Skipped, options: PlanOptions, workload: Workload) -> Inspected:
    shape = "?" if layer.geometry is None else shape_text(layer.geometry)

    def found(
        reason: str,
        reference: int | None = None,
        ranks: tuple[RankCost, ...] = (),
        schemes: Sequence[str] = (),
    ) -> Inspected:
        macs = layer.macs if isinstance(layer, Skipped) or layer.input_sizes else None
        params = layer_params(layer)
        return Inspected(layer.name, shape, macs, params, reason, tuple(schemes), reference, ranks)

    if isinstance(layer, Skipped):
        return found(layer.reason)
    rejection = scheme_rejection(layer.geometry, options.schemes)
    if layer.weight is not None and rejection is None:
        try:
            checked_weight(layer)
        except ModelError as error:
            return found(str(error).removeprefix(f"{layer.name}: "))
    reference = None
    if layer.weight is not None and amct_rejection(layer.geometry) is None:
        reference = amct_layer_rank(layer)
    taking = [name for name in options.schemes if scheme(name).rejection(layer.geometry) is None]
    taking = [name for name in taking if has_candidates(layer, name, workload, options.multiple)]
    if not taking:
        return found(rejection or no_candidate_reason(options), reference)
    variant = scheme(taking[0]).variants(layer.geometry)[0]
    if amct_rejection(layer.geometry) is None and taking[0] == "spatial":
        variant = amct_mode(layer.geometry).variant
    return found("", reference, _rank_costs(layer, taking[0], variant, workload), taking)


def _rank_costs(layer: ConvLayer, name: str, variant: str, workload: Workload) -> tuple[RankCost, ...]:
    kind = scheme(name)
    full = kind.full_rank(layer.geometry, variant)

    def macs(rank: int) -> int:
        return workload.macs(layer, kind.chain(layer.geometry, variant, (rank,) * len(full)))

    whole = workload.layer_macs(layer)
    ranks = [bisect_right(range(1, min(full) + 1), fraction * whole, key=macs) for fraction in FRACTIONS]
    errors: list[float | None] = [None] * len(ranks)
    if layer.weight is not None and max(ranks):
        factorization = kind.factorize(layer, variant, max_ranks=(max(ranks),) * len(full))
        errors = [factorization.relative_error((r,) * len(full)) if r else None for r in ranks]
    return tuple(RankCost(*row) for row in zip(FRACTIONS, ranks, errors, strict=True))
