"""What a user should be told of a run and its plan: assumptions, doubts, losses, what would be quicker."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from ..backends import backend_of
from ..calibration.assess import Assessment
from ..calibration.measure import DOUBTFUL, quality_warning
from ..conv import ConvLayer, Skipped
from ..errors import option
from ..formats.base import Model
from ..lowrank import scheme
from ..planning import Plan, PlanOptions, Request
from ..planning.workload import Workload
from ..text import error_text
from .calibrate import Calibration
from .estimate import Estimate

#: The warning of a plan from the weights alone, and how it begins.
_WEIGHTS_ALONE = "made from the weights alone, so that the change of the network's outputs was not measured"
UNMEASURED = f"{_WEIGHTS_ALONE}; give data or images"
#: Relative errors of a layer's weight above this mostly cost a network its accuracy.
_LARGE = 0.3
#: Seconds of fits above which a run says what would be quicker.
_LONG = 120.0


def unmeasured(plan: Plan) -> str:
    """The warning of a plan from the weights alone: whether they lose so much that accuracy goes with it."""
    errors = {one.layer: one.relative_error or 0.0 for one in plan.choices}
    large = {name: error for name, error in errors.items() if error > _LARGE}
    if not large:
        return UNMEASURED
    worst = max(large, key=large.__getitem__)
    count = f"{len(large)} of {len(plan.choices)} decomposed layers"
    return (
        f"{_WEIGHTS_ALONE}; {count} have an error above {_LARGE}, {worst} {error_text(large[worst])}, so "
        "that accuracy is probably lost: give data or images, or a larger budget"
    )


def quicker(estimate: Estimate, wanted: Mapping[str, Sequence[Request]]) -> str:
    """What shortens a run that is long for its fits of schemes that fit each rank alone; "" for others."""
    nested = {one.scheme: scheme(one.scheme).nested for of_layer in wanted.values() for one in of_layer}
    if estimate.fits + estimate.rest < max(_LONG, estimate.seconds / 2) or all(nested.values()):
        return ""
    left = [name for name, at_once in nested.items() if at_once] or ["spatial", "channel"]
    schemes = option(f"schemes={tuple(left)}", " ".join(f"--scheme {name}" for name in left))
    return f"; for a quicker first look, {schemes}"


def assumptions(model: Model, layers: Sequence[ConvLayer | Skipped]) -> tuple[str, ...]:
    """What is taken for granted, since the model does not say, and the option that ends it."""
    found = tuple[str, ...](getattr(model, "warnings", ()))
    if Workload.of(layers).per_position:
        python = backend_of(model).sizes
        found += (
            "MACs are counted per output position of each layer, since not all input sizes are known; the "
            f"network's real ratio may be another; give {option(python, '--input')}",
        )
    return found


def warnings_of(
    calibration: Calibration, options: PlanOptions, error: float, assessed: Assessment
) -> Iterator[str]:
    """What must not be overlooked in what was measured."""
    doubt = calibration.doubt(error, assessed)
    if doubt is not None:
        yield doubt
    if calibration.metric is not None:  # in a unit of the user's
        return
    budget = options.budget
    limit = budget.value if budget is not None and budget.metric == "error" else math.inf
    if assessed.held_out is not None and error > limit:
        yield (
            f"the error of at most {error_text(limit)} that was asked for holds on the held-out inputs "
            f"alone, and is {error_text(error)} on all: ask for less, or give more inputs"
        )
    text = quality_warning(error)
    # Who sets a limit to what may be lost has chosen what is.
    if text is not None and not (budget is not None and budget.of_loss):
        yield f"{text}; give a larger budget (the report shows the trade-off), or let recover train it"
    for name, lost in assessed.network.items():
        if lost >= max(DOUBTFUL, 2 * error):
            yield (
                f"{name}, which the network gives, is far from the original's: its error is {lost:.2f} of "
                f"what it varies, where {error_text(error)} is lost before it; compare shows if classes "
                f"stay, and {option('targets=...', f'--targets {name}')} fits to it"
            )
