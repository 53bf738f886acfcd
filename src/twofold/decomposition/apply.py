"""Carrying out a plan later: on the same model, or on its training net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ..backends import as_model, parameters_of
from ..conv import ConvLayer, FactorConv, Factors, Skipped
from ..errors import PlanError, TwofoldError, option
from ..formats.base import Model
from ..lowrank import LayerFit
from ..planning import Plan, requests
from ..progress import track
from .result import Result
from .structure import chains_of
from .tryout import tryout

M = TypeVar("M", bound=Model)


def apply_plan(plan: Plan, model: M, fitted: Any = None, *, example_inputs: Any = None) -> Result[M]:
    """Carry out a plan: on the model that it was made for, or on its training net.

    Args:
        plan: from `decompose`, or read by `Plan.load`, perhaps edited.
        model: a model with the same convolutions, or such a module.
        fitted: the decomposed model that came with the plan, a module, or a module's state_dict. Needed where
            factors were fitted to inputs, which are no longer there: they are taken from it.
        example_inputs: see `decompose`.

    Raises:
        PlanError: the plan does not fit the model; all layers that do not, each with its remedy.

    Examples:
        >>> model = twofold.load("net.prototxt", "net.caffemodel")
        >>> files = twofold.decompose(model, macs=0.5, no_data=True).save("out/")
        >>> plan = twofold.Plan.load("out/plan.json")
        >>> twin = twofold.load("train_val.prototxt", "net.caffemodel")
        >>> again = twofold.apply_plan(plan, twin)
        >>> [path.name for path in again.save("out-train/")]
        ['train_val.prototxt', 'net.caffemodel', 'plan.json']
    """
    model = as_model(model, example_inputs)
    layers = model.convolutions()
    plan = plan.check(layers)
    factors = _from_weights(plan, layers) if plan.calibration is None else _fitted(plan, fitted)
    # A training net is used with the weights of its net, so that both need the same names.
    becomes = {choice.layer: choice.becomes for choice in plan.choices}
    factors = {name: replace(stack, names=becomes[name]) for name, stack in factors.items()}
    smaller = model.replace(factors)
    warnings = tryout(model, smaller).warnings(changed=bool(factors))
    plan = plan.named(smaller.replaced)
    return Result(smaller, plan, model, factors, warnings=warnings)


def _from_weights(plan: Plan, layers: Sequence[ConvLayer | Skipped]) -> dict[str, Factors]:
    by_name = {layer.name: layer for layer in layers if isinstance(layer, ConvLayer)}
    asked = _asked_ranks(layers, plan)
    factors = {}
    for choice in track(plan.choices, "factoring layers"):
        ranks = asked.get((choice.layer, choice.scheme, choice.variant), choice.ranks)
        factorization = LayerFit(by_name[choice.layer]).factorize(
            choice.scheme, choice.variant, tuple(map(max, ranks, choice.ranks))
        )
        factors[choice.layer] = factorization.factors(choice.ranks)
    return factors


def _fitted(plan: Plan, fitted: Any) -> dict[str, Factors]:
    """The stacks of a plan, from the model that they were written to."""
    if fitted is None:
        raise PlanError(
            "the plan's factors were fitted to inputs: give the decomposed model that was written with it, "
            "or decompose this model again"
        )
    chains = chains_of(plan)
    named = {
        name: geometry
        for choice in plan.choices
        for name, geometry in zip(choice.becomes, chains[choice.layer], strict=False)
    }
    there = parameters_of(fitted, named)
    factors = {}
    for choice in plan.choices:
        if not choice.becomes:
            raise PlanError(
                f"{choice.layer}: its scheme or ranks were edited, and factors for {choice.label} have not "
                "been fitted to inputs; decompose the original again and fix the rank there "
                f"({option('ranks', '--rank')})"
            )
        found = [there[name] for name in choice.becomes if name in there]
        wanted = chains[choice.layer]
        if len(found) != len(wanted):
            raise PlanError(
                f"{choice.layer}: the decomposed model does not hold its factors "
                f"{', '.join(choice.becomes)}; give the model that was written with the plan"
            )
        convs = tuple(
            FactorConv(geometry, weight, bias) for geometry, (weight, bias) in zip(wanted, found, strict=True)
        )
        factors[choice.layer] = Factors(choice.scheme, choice.ranks, convs)
    return factors


def _asked_ranks(
    layers: Sequence[ConvLayer | Skipped], plan: Plan
) -> dict[tuple[str, str, str], tuple[int, ...]]:
    """The largest ranks that the plan's making asked for, by layer, scheme and variant.

    The factors of a large layer depend on them in the last digits, and a plan should give its bytes again.
    """
    try:
        wanted = requests(layers, plan.options)
    except TwofoldError:  # the model lacks a layer that the options name
        return {}
    return {(name, one.scheme, one.variant): one.max_ranks for name, of in wanted.items() for one in of}
