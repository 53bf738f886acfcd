"""What a model's convolutions are, what ranks would cost, and what they would keep."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from .conv import ConvLayer, Skipped
from .errors import ModelError
from .formats.base import Model
from .lowrank import scheme
from .lowrank.assemble import checked_weight
from .planning.amct import amct_mode, amct_refusal
from .planning.rules import amct_layer_rank
from .planning.text import aligned, count_text, error_text, shape_text
from .planning.workload import Workload, layer_params
from .progress import track

#: Shares of a layer's own MACs for which the table shows ranks.
SHARES = (0.25, 0.5, 0.75)


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
        macs: multiply-accumulates per image; 0 where the input size is not known.
        params: weights, bias not counted.
        reason: why it is not eligible; "" where it is.
        reference: rank that the reference's rule gives; None where it leaves the layer alone or weights lack.
        ranks: what ranks would cost and keep.
    """

    name: str
    shape: str
    macs: int
    params: int
    reason: str
    reference: int | None
    ranks: tuple[RankCost, ...]


@dataclass(frozen=True)
class Inspection:
    """All convolutions of a model; prints as a table."""

    layers: tuple[Inspected, ...]

    def __str__(self) -> str:
        head = ("layer", "shape", "MACs", "params", "reference", *(f"at {share} of MACs" for share in SHARES))
        rows = [
            (
                layer.name,
                layer.shape,
                count_text(layer.macs) if layer.macs else "?",
                count_text(layer.params),
                "-" if layer.reference is None else str(layer.reference),
                *([_cell(cost) for cost in layer.ranks] or [layer.reason]),
            )
            for layer in self.layers
        ]
        macs = sum(layer.macs for layer in self.layers)
        total = (
            "all convolutions",
            f"{sum(not layer.reason for layer in self.layers)} of {len(self.layers)} eligible",
            count_text(macs) if macs else "?",
            count_text(sum(layer.params for layer in self.layers)),
        )
        return "\n".join(
            [
                *aligned([head, *rows, total], right=(2, 3, 4)),
                "reference: rank of the reference's rule; then the largest rank within a share of the "
                "layer's MACs, and the relative error of the weight",
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


def inspect(model: Model, schemes: Sequence[str] = ("spatial",)) -> Inspection:
    """List a model's convolutions.

    Args:
        model: what `load` gives; without weights only shapes are known.
        schemes: the first that applies to a layer is shown.
    """
    layers = model.convolutions()
    workload = Workload.of(layers)
    inspected = [_inspect(layer, schemes, workload) for layer in track(layers, "inspecting layers")]
    return Inspection(tuple(inspected))


def _inspect(layer: ConvLayer | Skipped, schemes: Sequence[str], workload: Workload) -> Inspected:
    shape = "?" if layer.geometry is None else shape_text(layer.geometry)
    params = layer_params(layer)
    if isinstance(layer, Skipped):
        return Inspected(layer.name, shape, layer.macs, params, layer.reason, None, ())
    refusals = [scheme(name).refusal(layer.geometry) for name in schemes]
    if layer.weight is not None and not all(refusals):
        try:
            checked_weight(layer)
        except ModelError as error:
            reason = str(error).removeprefix(f"{layer.name}: ")
            return Inspected(layer.name, shape, layer.macs, params, reason, None, ())
    reference = None
    if layer.weight is not None and amct_refusal(layer.geometry) is None:
        reference = amct_layer_rank(layer)
    if all(refusals):
        return Inspected(layer.name, shape, layer.macs, params, str(refusals[0]), reference, ())
    name = next(name for name, refusal in zip(schemes, refusals, strict=True) if refusal is None)
    variant = scheme(name).variants(layer.geometry)[0]
    if amct_refusal(layer.geometry) is None and name == "spatial":
        variant = amct_mode(layer.geometry).variant
    return Inspected(
        layer.name, shape, layer.macs, params, "", reference, _rank_costs(layer, name, variant, workload)
    )


def _rank_costs(layer: ConvLayer, name: str, variant: str, workload: Workload) -> tuple[RankCost, ...]:
    kind = scheme(name)
    full = kind.full_rank(layer.geometry, variant)

    def macs(rank: int) -> int:
        return workload.macs(layer, kind.chain(layer.geometry, variant, (rank,) * len(full)))

    whole = workload.layer_macs(layer)
    ranks = [bisect_right(range(1, min(full) + 1), share * whole, key=macs) for share in SHARES]
    errors: list[float | None] = [None] * len(ranks)
    if layer.weight is not None and max(ranks):
        factorization = kind.factorize(layer, variant, max_ranks=(max(ranks),) * len(full))
        errors = [factorization.relative_error((r,) * len(full)) if r else None for r in ranks]
    return tuple(RankCost(*row) for row in zip(SHARES, ranks, errors, strict=True))
