"""Plans over whole networks: their laws, their rejections, and small ones against exhaustive search."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.planning.cases import best_by_exhaustion, factorize, plan_for, small_net

from twofold.conv import ConvLayer, Skipped
from twofold.decomposition.sensitivity import _to_try
from twofold.errors import OptionError, PlanError
from twofold.lowrank import scheme
from twofold.planning import (
    Budget,
    Candidate,
    FixedRanks,
    MeasuredSensitivity,
    PlanOptions,
    make_plan,
    requests,
)
from twofold.planning.amct import amct_rejection
from twofold.planning.candidates import candidates
from twofold.planning.rules import RULES
from twofold.planning.workload import Workload, layer_params

NET = small_net()
GAINS = {"conv0": 5.0, "conv1": 0.1, "conv2": 1.0, "conv3": 2.0}
ALL = ("spatial", "channel", "input", "tucker2")
FACTORIZATIONS = factorize(NET, PlanOptions(schemes=ALL))


def offers(multiple: int, schemes: tuple[str, ...]) -> dict[str, list[Candidate]]:
    of_layer = {}
    for layer in NET:
        found = [f for f in FACTORIZATIONS.get(layer.name, ()) if f.scheme in schemes]
        of_layer[layer.name] = list(candidates(layer, found, Workload(), multiple)) if found else []
    return of_layer


def items(kind: str, multiple: int, schemes: tuple[str, ...]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Costs and errors per layer, first as it is; layers without candidates included."""
    costs, errors = [], []
    for layer in NET:
        own = layer.macs if kind == "macs" else layer_params(layer)
        offered = [c for c in offers(multiple, schemes)[layer.name] if getattr(c, kind) < own]
        costs.append(np.array([own, *(getattr(c, kind) for c in offered)], float))
        errors.append(np.array([0.0, *(c.energy_error for c in offered)]))
    return costs, errors


@pytest.mark.parametrize("schemes", [("spatial",), ("channel",), ("spatial", "channel")])
@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("ratio", [0.3, 0.45, 0.6, 0.9])
def test_small_networks_get_the_best_there_is(kind, ratio, schemes):
    multiple = 8 if len(schemes) > 1 else 4
    costs, errors = items(kind, multiple, schemes)
    total = sum(c[0] for c in costs)
    expected = best_by_exhaustion(costs, errors, ratio * total)
    options = PlanOptions(Budget(kind, ratio), multiple=multiple, schemes=schemes)
    if expected is None:
        with pytest.raises(PlanError, match="out of reach"):
            make_plan(NET, FACTORIZATIONS_OF(schemes), options)
        return
    plan = make_plan(NET, FACTORIZATIONS_OF(schemes), options)
    assert sum(c.relative_error**2 for c in plan.choices) == pytest.approx(expected, rel=1e-9)
    assert getattr(plan.totals, f"{kind}_ratio") <= ratio


def FACTORIZATIONS_OF(schemes):
    return {name: [f for f in found if f.scheme in schemes] for name, found in FACTORIZATIONS.items()}


@settings(max_examples=60)
@given(
    st.sampled_from(["macs", "params"]), st.floats(0, 1), st.sampled_from([1, 2, 4]),
    st.sets(st.sampled_from(ALL), min_size=1),
)  # fmt: skip
def test_the_budget_is_met_and_used_as_fully_as_ranks_allow(kind, ratio, multiple, schemes):
    schemes = tuple(sorted(schemes))
    options = PlanOptions(Budget(kind, ratio), multiple=multiple, schemes=schemes)
    costs, errors = items(kind, multiple, schemes)
    total = sum(c[0] for c in costs)
    if sum(c.min() for c in costs) > ratio * total:
        with pytest.raises(PlanError, match="out of reach"):
            make_plan(NET, FACTORIZATIONS_OF(schemes), options)
        return
    plan = make_plan(NET, FACTORIZATIONS_OF(schemes), options)
    left = ratio * total - getattr(plan.totals, kind)[1]
    assert left >= 0
    found = {choice.layer: choice for choice in plan.choices}
    for layer, cost, error in zip(NET, costs, errors, strict=True):
        choice = found.get(layer.name)
        now = (getattr(choice, kind)[1], choice.relative_error**2) if choice else (cost[0], 0.0)
        assert not ((cost <= now[0] + left) & (error < now[1] * (1 - 1e-9))).any()
        if choice:
            assert getattr(choice, kind)[1] < getattr(choice, kind)[0]
            assert not choice.costs_more
            assert all(rank % multiple == 0 for rank in choice.ranks)


def test_an_unreachable_budget_says_what_would_do():
    with pytest.raises(PlanError) as caught:
        plan_for(
            NET,
            PlanOptions(
                Budget("macs", 0.02), multiple=8, skip=("conv1",), ranks=(FixedRanks("conv0", (9,)),)
            ),
        )
    message = str(caught.value)
    assert "a MACs ratio of 0.0200 is out of reach" in message
    for remedy in ("multiple below 8", "left out by only and skip", "smaller fixed ranks", "more schemes"):
        assert remedy in message
    lowest = float(re.search(r"lowest reachable ratio is ([0-9.]+)", message)[1])
    held = float(re.search(r"\(([0-9.]+) lie in layers", message)[1])
    assert 0 < held < lowest
    # What the message proposes is within reach, and the next lower figure is not.
    options = {"multiple": 8, "skip": ("conv1",), "ranks": (FixedRanks("conv0", (9,)),)}
    assert plan_for(NET, PlanOptions(Budget("macs", lowest), **options)).totals.macs_ratio <= lowest
    with pytest.raises(PlanError, match="out of reach"):
        plan_for(NET, PlanOptions(Budget("macs", lowest - 2e-4), **options))


def test_absolute_budgets():
    total = sum(layer.macs for layer in NET)
    plan = plan_for(NET, PlanOptions(Budget("macs", 0.6 * total, absolute=True), multiple=4))
    assert plan.choices == plan_for(NET, PlanOptions(Budget("macs", 0.6), multiple=4)).choices
    with pytest.raises(PlanError, match=r"1000 MACs are out of reach.*[0-9]+ MACs or more"):
        plan_for(NET, PlanOptions(Budget("macs", 1000, absolute=True), multiple=4))
    with pytest.raises(PlanError, match="needs the input sizes of all layers"):
        plan_for(small_net(sized=False), PlanOptions(Budget("macs", 1e6, absolute=True), multiple=4))


REFERENCE_NETS = {
    "cheaper": [(64, 64, 3, 1), (128, 64, 3, 1), (64, 128, 3, 2)],
    "more expensive": [(8, 3, 7, 1), (64, 64, 1, 1)],
    "mixed": [(8, 3, 7, 1), (64, 64, 3, 1), (32, 64, 3, 1)],
}


@pytest.mark.parametrize("name", REFERENCE_NETS)
def test_without_a_budget_the_reference_is_never_outspent(name):
    layers = small_net(shapes=REFERENCE_NETS[name])
    reference = plan_for(layers, PlanOptions(rule="amct"))
    plan = plan_for(layers, PlanOptions())
    assert plan.totals.macs[1] <= min(reference.totals.macs[1], reference.totals.macs[0])
    assert not any(choice.costs_more for choice in plan.choices)
    if not any(choice.costs_more for choice in reference.choices):
        # The reference's own choice is one of those that were compared.
        assert sum(c.relative_error**2 for c in plan.choices) <= sum(
            c.relative_error**2 for c in reference.choices
        )


def test_without_a_budget_and_without_eligible_layers_nothing_happens_and_it_says_so():
    layers = small_net(shapes=[(16, 16, 3, 1), (24, 16, 3, 1)])
    assert all(amct_rejection(layer.geometry) for layer in layers)
    plan = plan_for(layers, PlanOptions(multiple=4))
    assert not plan.choices
    assert plan.totals.macs_ratio == 1
    assert "AMCT's rank rule decomposes none of these layers; give a budget" in str(plan)


def test_fixed_ranks_count_in_the_budget_and_may_cost_more():
    options = PlanOptions(
        Budget("macs", 0.9), multiple=4, ranks=(FixedRanks("conv0", None), FixedRanks("conv1", (5,)))
    )
    plan = plan_for(NET, options)
    found = {choice.layer: choice for choice in plan.choices}
    assert found["conv0"].ranks == (36,)
    assert found["conv0"].costs_more
    assert found["conv0"].relative_error < 1e-6
    assert found["conv1"].ranks == (5,)
    assert plan.totals.macs_ratio <= 0.9
    assert "conv0: more expensive than the layer itself; rank given by the user" in str(plan)


def test_a_fixed_rank_takes_the_better_variant():
    (choice,) = (
        c
        for c in plan_for(NET, PlanOptions(ranks=(FixedRanks("conv2", (6,)),))).choices
        if c.layer == "conv2"
    )
    errors = {f.variant: f.relative_error((6,)) for f in FACTORIZATIONS["conv2"] if f.scheme == "spatial"}
    assert choice.variant == min(errors, key=errors.get)


@pytest.mark.parametrize(
    ("ranks", "words"),
    [((37,), "conv0: rank 37 is outside 1 to 36"), ((4, 4), "conv0: gets 2 rank.*take: spatial 1")],
)
def test_fixed_ranks_that_do_not_exist(ranks, words):
    with pytest.raises(PlanError, match=words):
        plan_for(NET, PlanOptions(ranks=(FixedRanks("conv0", ranks),)))


def test_two_ranks_choose_the_scheme_that_takes_two():
    plan = plan_for(NET, PlanOptions(Budget("macs", 1.0), schemes=ALL, ranks=(FixedRanks("conv0", (4, 8)),)))
    assert [(c.layer, c.scheme, c.ranks) for c in plan.choices] == [("conv0", "tucker2", (4, 8))]


@pytest.mark.parametrize("budget", [None, Budget("macs", 0.5), Budget("energy", 0.9)])
@pytest.mark.parametrize("rule", [None, "amct", "evbmf"])
def test_requests_name_enough_and_nothing_dearer(budget, rule):
    if budget is not None and rule is not None:
        return
    options = PlanOptions(budget, rule=rule, multiple=4, schemes=ALL)
    lean = plan_for(NET, options)
    assert (
        lean.choices
        == make_plan(
            NET, factorize(NET, PlanOptions(schemes=ALL, ranks=(FixedRanks("*", None),))), options
        ).choices
    )
    if rule is None:
        for name, wanted in requests(NET, options).items():
            assert {request.scheme for request in wanted} <= set(ALL)
            assert name.startswith("conv")


def errors_of(plan) -> float:
    return sum(GAINS[c.layer] * c.relative_error**2 for c in plan.choices)


def test_measured_sensitivities_shift_the_error_to_where_it_hurts_less():
    options = PlanOptions(Budget("macs", 0.5), multiple=4)
    equal = plan_for(NET, options)
    measured = plan_for(NET, options, objective=MeasuredSensitivity.from_gains(GAINS))
    assert errors_of(measured) < errors_of(equal)
    assert measured.predicted_error == pytest.approx(np.sqrt(errors_of(measured)))
    assert equal.predicted_error is None
    assert all(c.output_error is not None for c in measured.choices)


@pytest.mark.parametrize("error", [0.0, 0.05, 0.3, 0.6])
@pytest.mark.parametrize("kind", ["macs", "params"])
def test_an_error_budget_gets_the_cheapest_network(error, kind):
    objective = MeasuredSensitivity.from_gains(GAINS)
    plan = plan_for(NET, PlanOptions(Budget("error", error), multiple=4), objective=objective)
    assert plan.predicted_error <= error * (1 + 1e-12)
    costs, errors = items("macs", 4, ("spatial",))
    weighted = [e * GAINS.get(layer.name, 0.0) for layer, e in zip(NET, errors, strict=True)]
    assert plan.totals.macs[1] == best_by_exhaustion(weighted, costs, error**2)


def test_an_error_budget_needs_measurements():
    with pytest.raises(PlanError, match="needs measured sensitivities: give calibration inputs"):
        plan_for(NET, PlanOptions(Budget("error", 0.1)))


def test_an_error_budget_below_that_of_fixed_ranks():
    options = PlanOptions(Budget("error", 0.01), ranks=(FixedRanks("conv0", (1,)),))
    with pytest.raises(
        PlanError, match=r"fixed ranks alone lead to a predicted output error of .*, above 0.01"
    ):
        plan_for(NET, options, objective=MeasuredSensitivity.from_gains(GAINS))


@dataclass(frozen=True)
class Milliseconds:
    """A runtime on which spatial stacks are slow, as one with Winograd kernels is."""

    name: str = "time"
    label: str = "ms"
    base: float = 0.0

    def of_layer(self, layer: ConvLayer | Skipped) -> float:
        return layer.macs * 1e-6

    def of_candidate(self, layer: ConvLayer, candidate: Candidate) -> float:
        return candidate.macs * 1e-6 * (3.0 if candidate.scheme == "spatial" else 1.0)


def test_a_measured_cost_stands_in_for_macs():
    options = PlanOptions(Budget("time", 0.6), multiple=4, schemes=("spatial", "channel"))
    plan = plan_for(NET, options, cost=Milliseconds())
    by_name = {layer.name: layer for layer in NET}
    after = {layer.name: layer.macs * 1e-6 for layer in NET}
    for choice in plan.choices:
        slow = 3.0 if choice.scheme == "spatial" else 1.0
        after[choice.layer] = choice.macs[1] * 1e-6 * slow
        assert after[choice.layer] < by_name[choice.layer].macs * 1e-6  # whatever does not get faster stays
    assert sum(after.values()) <= 0.6 * sum(layer.macs for layer in NET) * 1e-6
    assert any(choice.scheme == "channel" for choice in plan.choices)


def test_costs_have_to_fit_the_budget():
    with pytest.raises(
        OptionError, match="a budget of time needs its costs; without any there are macs, params"
    ):
        plan_for(NET, PlanOptions(Budget("time", 0.6)))
    with pytest.raises(OptionError, match="a budget of macs does not fit costs in time"):
        plan_for(NET, PlanOptions(Budget("macs", 0.6)), cost=Milliseconds())


def test_unknown_input_sizes_count_per_position_and_say_so():
    plan = plan_for(small_net(sized=False), PlanOptions(Budget("macs", 0.6), multiple=4))
    assert plan.macs_per == "output position"
    assert plan.totals.macs[0] == sum(layer_params(layer) for layer in small_net(sized=False))
    assert 0 < plan.totals.macs_ratio <= 0.6
    assert "MACs: per output position of each layer" in str(plan)


def test_every_layer_is_in_the_plan_once_and_in_order():
    for options in (
        PlanOptions(),
        PlanOptions(only=("conv1",)),
        PlanOptions(rule="amct"),
        PlanOptions(Budget("macs", 0.5), multiple=4),
    ):
        plan = plan_for(NET, options)
        order = [layer.name for layer in NET]
        assert [c.layer for c in plan.choices] == [n for n in order if n in {c.layer for c in plan.choices}]
        assert [s.name for s in plan.skipped] == [n for n in order if n in {s.name for s in plan.skipped}]
        assert sorted([c.layer for c in plan.choices] + [s.name for s in plan.skipped]) == sorted(order)
        assert all(skipped.reason for skipped in plan.skipped)


def test_equal_inputs_give_equal_plans():
    options = PlanOptions(Budget("macs", 0.5), multiple=4, schemes=ALL)
    assert plan_for(NET, options).to_json() == plan_for(NET, options).to_json()


def test_an_unknown_rule_names_the_known_ones():
    with pytest.raises(OptionError, match=", ".join(RULES)):
        plan_for(NET, PlanOptions(rule="best"))


def test_at_full_rank_the_cheapest_stack_is_taken_whatever_rounding_says():
    options = PlanOptions(ranks=(FixedRanks("conv0", None),), schemes=ALL, only=("conv0",))
    (choice,) = plan_for(NET, options).choices
    (layer,) = (one for one in NET if one.name == "conv0")
    costs = []
    for request in requests(NET, options)["conv0"]:
        kind = scheme(request.scheme)
        chain = kind.chain(layer.geometry, request.variant, kind.full_rank(layer.geometry, request.variant))
        costs.append(Workload().macs(layer, chain))
    assert choice.macs[1] == min(costs) < max(costs)


def test_ranks_that_a_user_fixes_may_cost_more_than_the_reference_spends():
    options = PlanOptions(ranks=(FixedRanks("conv[012]", None),))
    assert len(plan_for(NET, options).choices) == 3


def test_a_layer_without_affordable_candidates_is_tried_at_the_cheapest(monkeypatch):
    monkeypatch.setattr("twofold.decomposition.sensitivity.TRIED", (0.0,))
    layer = next(one for one in NET if one.name == "conv0")
    found = FACTORIZATIONS["conv0"]
    offered = [one for of in found for one in candidates(layer, [of], Workload(), 4)]
    least = min(offered, key=lambda one: one.macs)
    ((factorization, ranks),) = _to_try(layer, found, Workload(), 4)
    assert (factorization.scheme, factorization.variant, ranks) == (least.scheme, least.variant, least.ranks)
    assert least.macs < offered[0].macs
