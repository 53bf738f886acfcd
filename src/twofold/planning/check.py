"""Comparing a plan with the layers of a model, and counting its costs there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from twofold.conv import ConvLayer, Skipped
from twofold.errors import OptionError, PlanError
from twofold.lowrank.schemes import scheme
from twofold.planning.options import known_names, left_alone
from twofold.planning.plan import Choice, Plan
from twofold.planning.workload import Workload, chain_params
from twofold.registry import name_hint
from twofold.text import ranks_text, shape_text


def check_plan(plan: Plan, layers: Sequence[ConvLayer | Skipped]) -> Plan:
    """See `Plan.check`."""
    known: dict[str, ConvLayer | Skipped] = {layer.name: layer for layer in layers}
    owners = {
        sharer: layer.name for layer in layers if isinstance(layer, ConvLayer) for sharer in layer.sharers
    }
    problems = [problem for choice in plan.choices if (problem := _problem(choice, known, owners))]
    if problems:
        places = f" in {len(problems)} places" if problems[1:] else ""
        raise PlanError("\n  ".join([f"the plan does not fit this model{places}:", *problems]))
    workload = Workload.of(layers)
    chosen = {choice.layer: choice for choice in plan.choices}
    reasons = {layer.name: layer.reason for layer in plan.skipped}
    choices, skipped = [], []
    for layer in layers:
        if isinstance(layer, Skipped):
            skipped.append(layer)
        elif layer.name in chosen:
            choices.append(_recount(chosen[layer.name], layer, workload))
        else:
            skipped.append(left_alone(layer, reasons.get(layer.name, "not in the plan")))
    return replace(plan, choices=tuple(choices), skipped=tuple(skipped), macs_per=workload.unit)


def _problem(
    choice: Choice, known: Mapping[str, ConvLayer | Skipped], owners: Mapping[str, str]
) -> str | None:
    name, layer = choice.layer, known.get(choice.layer)
    if layer is None and name in owners:
        return f"{name}: shares its weight with {owners[name]}; write {owners[name]} instead"
    if layer is None:
        hint = name_hint(name, known_names(tuple(known.values())))
        return f"{name}: the model has no such convolution; remove it from the plan or correct the name{hint}"
    if isinstance(layer, Skipped):
        return f"{name}: cannot be decomposed in this model: {layer.reason}; remove it from the plan"
    if layer.geometry != choice.geometry:
        here, there = (shape_text(g, pads=True) for g in (layer.geometry, choice.geometry))
        return (
            f"{name}: is {here} in this model and {there} in the plan; "
            "use the model that the plan was made for, or make a new plan"
        )
    return problem_of_scheme(choice)


def problem_of_scheme(choice: Choice) -> str | None:
    """Why no stack is what a choice says, for a layer of the shape that it names; None where one is."""
    name = choice.layer
    try:
        kind = scheme(choice.scheme)
    except OptionError as error:
        return f"{name}: {error}"
    rejection = kind.rejection(choice.geometry)
    if rejection:
        return f"{name}: scheme '{kind.name}' does not apply: {rejection}; choose another or remove the layer"
    variants = kind.variants(choice.geometry)
    if choice.variant not in variants:
        allowed = ", ".join(map(repr, variants))
        return f"{name}: scheme '{kind.name}' has no variant '{choice.variant}'; use {allowed}"
    full = kind.full_rank(choice.geometry, choice.variant)
    if len(choice.ranks) == len(full) and all(
        1 <= rank <= limit for rank, limit in zip(choice.ranks, full, strict=True)
    ):
        return None
    wanted = " and ".join(f"1 to {limit}" for limit in full)
    return (
        f"{name}: ranks {ranks_text(choice.ranks) or '(none)'} do not fit scheme '{kind.name}'; use {wanted}"
    )


def _recount(choice: Choice, layer: ConvLayer, workload: Workload) -> Choice:
    chain = scheme(choice.scheme).chain(layer.geometry, choice.variant, choice.ranks)
    macs = (workload.layer_macs(layer), workload.macs(layer, chain))
    return replace(choice, macs=macs, params=(layer.geometry.params, chain_params(chain)))
