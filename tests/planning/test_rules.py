"""Rules that choose layer by layer."""

from __future__ import annotations

import numpy as np
import pytest
from tests.planning.cases import factorize, make_layer, plan_for, small_net

from twofold.conv import ConvGeometry, ConvLayer
from twofold.errors import OptionError, PlanError
from twofold.lowrank import FitOptions, scheme
from twofold.planning import RULES, Budget, FixedRanks, PlanOptions
from twofold.planning.amct import AmctRange, amct_mode, amct_rank
from twofold.planning.candidates import Candidate, candidates
from twofold.planning.evbmf import evbmf_rank
from twofold.planning.rules import RuleInput, amct_layer_rank, amct_spectrum
from twofold.planning.workload import Workload

MODES = [
    ConvGeometry.of(12, 8, (3, 5)), ConvGeometry.of(8, 12, (3, 5)),
    ConvGeometry.of(12, 8, (5, 3)), ConvGeometry.of(8, 12, (5, 3)), ConvGeometry.of(9, 9, (3, 3)),
]  # fmt: skip


def unfolding(layer: ConvLayer) -> np.ndarray:
    """The unfolding as the scheme has it: the axes of the first convolution, then those of the second."""
    order = (1, 2, 0, 3) if amct_mode(layer.geometry).variant == "hw" else (1, 3, 0, 2)
    moved = layer.weight.transpose(order)
    return moved.reshape(moved.shape[0] * moved.shape[1], -1)


@pytest.mark.parametrize("geometry", MODES, ids=str)
def test_the_spectrum_is_that_of_the_unfolding(geometry, monkeypatch):
    monkeypatch.setattr("twofold.planning.rules._BLOCK", 300)  # several blocks
    layer = make_layer("conv", geometry)
    expected = np.linalg.svd(unfolding(layer), compute_uv=False)
    sides = AmctRange.of(geometry)
    assert sorted(unfolding(layer).shape) == [sides.short, sides.long]
    # A Gram matrix squares the condition: the error is eps of the largest square.
    np.testing.assert_allclose(amct_spectrum(layer), expected, rtol=1e-6, atol=1e-7 * expected[0])


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e15])
@pytest.mark.parametrize("exact_side", [1, 256], ids=["float32", "float64"])
def test_the_reference_rank_is_read_from_the_factorization(exact_side, scale, monkeypatch):
    # Trained layers are as gentle: the smallest useful singular value is a hundredth of the largest.
    geometry = ConvGeometry.of(192, 160, (3, 3), pad=1)
    weight = np.float32(scale) * make_layer("conv", geometry).weight.astype(np.float32)
    layer = ConvLayer("conv", geometry, weight)
    options = FitOptions(exact_side=exact_side)
    factorization = scheme("spatial").factorize(
        layer, amct_mode(geometry).variant, max_ranks=(240,), options=options
    )
    expected = np.linalg.svd(unfolding(layer).astype(np.float64), compute_uv=False)
    found = factorization.singular_values
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3 * expected[0])
    np.testing.assert_allclose(found[:240], expected[:240], rtol=1e-3)
    without = ConvLayer("conv", geometry, None)
    assert AmctRange.of(geometry).only_rank is None
    assert (
        amct_layer_rank(without, [factorization]) == amct_layer_rank(layer) == amct_rank(geometry, expected)
    )


def test_weights_that_are_not_finite_are_named():
    layer = make_layer("conv9", MODES[0])
    weight = np.array(layer.weight)
    weight[0, 0, 0, 0] = np.inf
    with pytest.raises(PlanError, match=r"conv9.*not all finite"):
        amct_spectrum(ConvLayer("conv9", layer.geometry, weight))


def test_the_reference_rank_looks_at_the_weight_only_where_it_matters():
    shape_decides = ConvLayer("conv", ConvGeometry.of(64, 64, (3, 3)), None)
    assert amct_layer_rank(shape_decides) == 32
    weight_decides = ConvLayer("conv", ConvGeometry.of(256, 256, (3, 3)), None)
    with pytest.raises(PlanError, match="weights are not loaded"):
        amct_layer_rank(weight_decides)


def test_rule_amct_takes_the_reference_choice_even_where_it_is_dearer():
    stem = make_layer("stem", ConvGeometry.of(8, 3, (7, 7), pad=3), seed=1)
    wide = make_layer("wide", ConvGeometry.of(96, 64, (3, 3), pad=1), seed=2)
    narrow = make_layer("narrow", ConvGeometry.of(63, 64, (3, 3), pad=1), seed=3)
    plan = plan_for([stem, wide, narrow], PlanOptions(rule="amct"))
    assert [(c.layer, c.scheme, c.variant, c.ranks) for c in plan.choices] == [
        ("stem", "spatial", "hw", (16,)), ("wide", "spatial", "hw", (32,)),
    ]  # fmt: skip
    assert amct_rank(wide.geometry, amct_spectrum(wide)) == 32
    assert plan.choices[0].costs_more
    assert not plan.choices[1].costs_more
    assert "stem: more expensive than the layer itself" in str(plan)
    assert plan.skipped[0].name == "narrow"
    assert "64 channels" in plan.skipped[0].reason


@pytest.mark.parametrize("share", [0.8, 0.9, 0.95])
def test_rule_energy_takes_the_cheapest_that_keeps_the_share(share):
    layers, options = small_net(), PlanOptions(Budget("energy", share), multiple=1)
    plan = plan_for(layers, options)
    found = {choice.layer: choice for choice in plan.choices}
    assert found
    factorizations = factorize(layers, options)
    for layer in layers:
        if not isinstance(layer, ConvLayer) or layer.name not in factorizations:
            continue
        offered = candidates(layer, factorizations[layer.name], Workload(), 1)
        enough = [c for c in offered if c.energy_error <= 1 - share]
        if layer.name in found:
            assert found[layer.name].macs[1] == min(c.macs for c in enough)
            assert found[layer.name].relative_error ** 2 <= (1 - share) * (1 + 1e-9)
        else:
            assert not enough


def test_rule_energy_says_what_could_be_kept():
    plan = plan_for(small_net(), PlanOptions(Budget("energy", 0.9999999), multiple=4))
    assert not plan.choices
    assert "keep a fraction of 1 of the energy (at most 0." in plan.skipped[0].reason
    plan = plan_for(small_net(), PlanOptions(Budget("energy", 0.9), multiple=512))
    assert plan.skipped[0].reason == "no rank that is a multiple of 512 makes it cheaper"


def test_rule_evbmf_rounds_up_and_stays_cheaper():
    layers = small_net()
    plan = plan_for(layers, PlanOptions(rule="evbmf", multiple=4))
    by_name = {layer.name: layer for layer in layers}
    for choice in plan.choices:
        layer = by_name[choice.layer]
        sides = AmctRange.of(layer.geometry)
        own = evbmf_rank(amct_spectrum(layer), (sides.short, sides.long))
        assert choice.ranks[0] == max(4, -(-own // 4) * 4)
        assert choice.macs[1] < choice.macs[0]
    for skipped in plan.skipped:
        assert skipped.reason


def test_a_fixed_rank_beats_the_rule():
    layers = [make_layer("conv", ConvGeometry.of(64, 64, (3, 3), pad=1))]
    plan = plan_for(layers, PlanOptions(rule="amct", ranks=(FixedRanks("conv", (7,)),)))
    assert plan.choices[0].ranks == (7,)
    assert plan.choices[0].notes == ("rank given by the user",)


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_leaves_every_layer_accounted_for(name):
    budget = Budget("energy", 0.9) if name == "energy" else None
    layers = small_net()
    plan = plan_for(layers, PlanOptions(budget, rule=name, multiple=4))
    assert {c.layer for c in plan.choices} | {s.name for s in plan.skipped} == {
        layer.name for layer in layers
    }
    if not RULES[name].may_cost_more:
        assert not any(choice.costs_more for choice in plan.choices)


def test_unknown_rules_name_the_known_ones():
    with pytest.raises(
        OptionError, match=r"no rule 'vbmf'; did you mean 'evbmf'\? known: amct, evbmf, energy"
    ):
        RULES.find("vbmf")
    assert RULES[" AMCT "].name == "amct"


def test_a_share_that_is_met_up_to_rounding_is_met(monkeypatch):
    """1 - 0.9 is less than 0.1 in binary; the candidate that loses 0.1 keeps 0.9 of the energy."""
    layer = make_layer("a", ConvGeometry.of(16, 16, (3, 3)))
    offered = [
        Candidate("a", "spatial", "hw", (rank,), macs, macs, error)
        for rank, macs, error in ((4, 10, 0.1), (8, 20, 0.05))
    ]
    monkeypatch.setattr("twofold.planning.rules.candidates", lambda *_: offered)
    options = PlanOptions(budget=Budget("energy", 0.9), rule="energy")
    assert RULES["energy"].pick(RuleInput(layer, (), options, Workload())) is offered[0]
