"""What a decomposition would do and what it would take, without doing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ..conv import ConvLayer, Skipped
from ..device import computing_on
from ..errors import PlanError
from ..lowrank import FitOptions
from ..planning import PlanOptions, requests
from ..planning.feasible import check_feasible, least_ratio
from ..planning.options import MORE_WEIGHT_SCHEMES, select
from ..planning.rules import no_candidate_reason
from ..terminal import visible
from ..text import aligned
from .calibrate import Calibration
from .decompose import Prepared, prepared
from .estimate import Estimate
from .pipeline import reached

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .keywords import Keywords


@dataclass(frozen=True)
class Competing:
    """A layer that may be decomposed.

    Attributes:
        name: its name in the model.
        schemes: those that compete for it.
    """

    name: str
    schemes: tuple[str, ...]


@dataclass(frozen=True)
class DryRun:
    """What a decomposition would do.

    Attributes:
        layers: those that may be decomposed.
        left_alone: (name, reason) of the others.
        budget: in words.
        problem: why the budget cannot be kept; "" where shapes do not rule it out.
        least: lowest ratio that can be reached, of MACs, or of weights where the budget is of these; None for
            rules.
        inputs: how many samples would be used, and of which source; "" for the weights alone.
        estimate: of time and memory; None for the weights alone.
        notes: what the run would say before it begins.
    """

    layers: tuple[Competing, ...]
    left_alone: tuple[tuple[str, str], ...]
    budget: str
    problem: str
    least: float | None
    inputs: str
    estimate: Estimate | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        estimate = None if self.estimate is None else self.estimate.to_json()
        return {**asdict(self), "estimate": estimate}

    def __str__(self) -> str:
        least = "" if self.least is None else f"; the lowest reachable ratio is {self.least:.4f}"
        lines = [
            f"budget: {self.budget}; {self.problem or f'shapes allow it{least}'}",
            f"inputs: {self.inputs or 'none; the weights alone decide'}",
            *([] if self.estimate is None else [f"takes {self.estimate}"]),
            *(f"note: {visible(one)}" for one in self.notes),
        ]
        if self.layers:
            rows = [(one.name, ", ".join(one.schemes)) for one in self.layers]
            lines += ["", "may be decomposed", *(f"  {line}" for line in aligned(rows, ()))]
        if self.left_alone:
            lines += ["", "left alone", *(f"  {line}" for line in aligned(self.left_alone, ()))]
        return "\n".join([*lines, "", "nothing was written"])


def dry_run(model: Any, **options: Unpack[Keywords]) -> DryRun:
    """Find out what `decompose` would do with the same options: nothing is fitted, and nothing written.

    Inputs are read or made, and one sample is run to estimate the time.

    Args:
        model: see `decompose`.
        options: those of `decompose`.

    Raises:
        TwofoldError: as `decompose` before its work; a budget out of reach is part of the result.
    """
    with computing_on(options.get("device")):
        return _dry_run(model, **options)


def _dry_run(model: Any, **options: Unpack[Keywords]) -> DryRun:
    problem, options = "", {**options, "cache": False}  # which a sample is written to
    try:
        found = prepared(model, **options)
    except PlanError as error:
        problem = str(error)
        found = prepared(model, feasible=False, **options)
    known = found.calibration if isinstance(found.calibration, Calibration) else None
    layers: Sequence[ConvLayer | Skipped] = found.model.convolutions()
    if known is not None:
        layers = reached(layers, known)
    wanted = requests(layers, found.options)
    widest = found.options
    if options.get("plan") is None and options.get("schemes") is None:  # more compete where that is needed
        widest = replace(widest, schemes=tuple(dict.fromkeys((*widest.schemes, *MORE_WEIGHT_SCHEMES))))
    if not problem:
        try:
            check_feasible(layers, found.options)  # now that it is known what the inputs reach
        except PlanError as error:
            problem = str(error)
    return _told(found, known, layers, wanted, problem, least_ratio(layers, widest))


def _told(
    found: Prepared, known: Calibration | None, layers: Sequence[ConvLayer | Skipped], wanted: Any,
    problem: str, least: float | None,
) -> DryRun:  # fmt: skip
    chosen = [layer for layer in layers if isinstance(layer, ConvLayer) and layer.name in wanted]
    budget = found.options.budget
    inputs = known.inputs.provenance if known is not None else None
    refine = (found.fit or FitOptions()).refine
    return DryRun(
        tuple(
            Competing(layer.name, tuple(dict.fromkeys(one.scheme for one in wanted[layer.name])))
            for layer in chosen
        ),
        _left_alone(layers, wanted, found.options),
        found.options.rule or (str(budget) if budget else "the MACs that AMCT's rank rule would spend"),
        problem,
        least,
        "" if known is None or inputs is None else f"{known.inputs.count} to fit, {known.holdout.count} to "
        f"measure errors ({' '.join((inputs.source_type, inputs.source)).strip()})",
        Estimate.of(known, chosen, wanted, refine) if known is not None and chosen else None,
        found.calibration.notes,
    )  # fmt: skip


def _left_alone(
    layers: Sequence[ConvLayer | Skipped], wanted: Any, options: PlanOptions
) -> tuple[tuple[str, str], ...]:
    """Names of the layers that stay, with the reasons, in the model's order."""
    reasons = {one.name: one.reason for one in select(layers, options).skipped}
    none = no_candidate_reason(options)
    return tuple((one.name, reasons.get(one.name, none)) for one in layers if one.name not in wanted)
