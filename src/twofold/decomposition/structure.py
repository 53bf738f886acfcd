"""The structure that a module gets by a plan, without its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..backends import as_model
from ..backends.known import is_module
from ..conv import ConvGeometry
from ..errors import OptionError
from ..lowrank import scheme
from ..planning import Plan

if TYPE_CHECKING:
    from torch.nn import Module


def structured(plan: Plan, module: Module) -> Module:
    """See `Plan.apply`."""
    if not is_module(module):
        raise OptionError(
            f"a plan is applied to a torch.nn.Module, got {type(module).__name__}; "
            "for a model that was loaded from files use twofold.apply_plan"
        )
    from ..formats.torch.model import restructured  # noqa: PLC0415 - an extra

    plan = plan.check(as_model(module).convolutions())
    chains = chains_of(plan)
    biased = () if plan.calibration is None else plan.calibration.get("means_corrected", chains)
    return restructured(module, chains, biased)


def chains_of(plan: Plan) -> Mapping[str, Sequence[ConvGeometry]]:
    """Shapes of the stack of each layer that a plan replaces, by its name."""
    return {
        choice.layer: scheme(choice.scheme).chain(choice.geometry, choice.variant, choice.ranks)
        for choice in plan.choices
    }
