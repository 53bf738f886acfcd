"""The curves around a plan, in MACs and in another unit."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from tests.small import write

import twofold
from twofold.lowrank import LayerFit
from twofold.planning import Budget, EqualWeights, PlanOptions, make_plan, requests
from twofold.planning.tradeoff import TradeoffCurves
from twofold.planning.workload import Workload


@dataclass(frozen=True)
class Seconds:
    """A unit in which a part of the network lies beside its convolutions."""

    workload: Workload
    name: str = "latency"
    label: str = "time"
    base: float = 2e6
    speed: float = 1.0

    def of_layer(self, layer):
        return self.workload.layer_macs(layer) / self.speed

    def of_candidate(self, layer, candidate):
        return candidate.macs / self.speed


@pytest.fixture
def made(tmp_path):
    """Layers, factorizations, options and plan of a small net."""
    layers = twofold.load(*write(tmp_path)).convolutions()
    options = PlanOptions(Budget("macs", 0.5), schemes=("spatial", "tucker2"))
    wanted = requests(layers, options)
    factored = {
        layer.name: [LayerFit(layer).factorize(r.scheme, r.variant, r.max_ranks) for r in wanted[layer.name]]
        for layer in layers
        if layer.name in wanted
    }
    return layers, factored, options, make_plan(layers, factored, options)


def test_a_unit_with_a_base_has_a_curve_of_its_own(made):
    layers, factored, options, plan = made
    cost = Seconds(Workload.of(layers))
    by_macs, by_time = TradeoffCurves.of(plan, layers, factored, options, EqualWeights(), cost).tradeoffs
    assert (by_time.budget, by_time.label) == ("latency", "time")
    before, after = plan.totals.macs
    assert by_macs.chosen[0] == pytest.approx(after / before)
    assert by_time.chosen[0] == pytest.approx((after + cost.base) / (before + cost.base))
    assert by_time.chosen[1] == by_macs.chosen[1]
    assert by_time.ratios[0] > by_macs.ratios[0]
    assert not by_macs.measured


def test_the_least_is_reached_however_sums_are_rounded(made):
    """What lies beside the layers is added and taken off again, which loses digits: 3.1 + 0.2 - 3.1 < 0.2."""
    layers, factored, options, plan = made
    workload, curves = Workload.of(layers), {}
    for base in (0.1, 0.3, 0.7, 3.1, 7.7):
        cost = Seconds(workload, base=base, speed=7e9)
        curves[base] = TradeoffCurves.of(plan, layers, factored, options, EqualWeights(), cost)
    for base, found in curves.items():
        by_macs, by_time = found.tradeoffs
        before = plan.totals.macs[0] / 7e9
        assert by_time.ratios[0] == pytest.approx((base + by_macs.ratios[0] * before) / (base + before))
        assert by_time.errors[0] == by_macs.errors[0]


def test_every_point_is_a_plan_under_its_budget(made):
    """The planner, asked for the budget of a point, comes to the point's error."""
    layers, factored, options, plan = made
    (tradeoff,) = TradeoffCurves.of(plan, layers, factored, options, EqualWeights()).tradeoffs
    for ratio, error in list(zip(tradeoff.ratios, tradeoff.errors, strict=True))[2:-1:5]:
        again = make_plan(
            layers, factored, PlanOptions(Budget("macs", ratio + 1e-6), schemes=options.schemes)
        )
        lost = sum(choice.relative_error**2 for choice in again.choices) ** 0.5
        assert lost == pytest.approx(error, rel=1e-6)


def test_a_rule_leaves_no_trade_off(made):
    layers, _, _, _ = made
    options = PlanOptions(rule="amct", schemes=("spatial",))
    wanted = requests(layers, options)
    factored = {
        layer.name: [LayerFit(layer).factorize(r.scheme, r.variant, r.max_ranks) for r in wanted[layer.name]]
        for layer in layers
        if layer.name in wanted
    }
    plan = make_plan(layers, factored, options)
    tradeoff_curves = TradeoffCurves.of(plan, layers, factored, options, EqualWeights())
    assert tradeoff_curves.tradeoffs == ()
    assert [one.layer for one in tradeoff_curves.layers] == list(factored)


def test_curves_of_two_ranks_fall_with_their_cost(made):
    layers, factored, options, plan = made
    tradeoff_curves = TradeoffCurves.of(plan, layers, factored, options, EqualWeights())
    curves = [curve for one in tradeoff_curves.layers for curve in one.curves if curve.scheme == "tucker2"]
    assert curves
    for curve in curves:
        assert list(curve.macs) == sorted(curve.macs)
        assert list(curve.errors) == sorted(curve.errors, reverse=True)
        assert all(len(ranks) == 2 for ranks in curve.ranks)


def test_nobody_waits_for_curves_that_nobody_asked_for(monkeypatch):
    from twofold.planning.tradeoff import TradeoffCurves as Curves

    asked = []
    monkeypatch.setattr(Curves, "of", classmethod(lambda cls, *_: asked.append(1) or cls()))
    layer = torch.nn.Conv2d(64, 64, 3)
    result = twofold.decompose(torch.nn.Sequential(layer), macs=0.7, no_data=True)
    assert not asked
    assert result.tradeoff_curves == Curves()
    assert result.tradeoff_curves is result.tradeoff_curves
    assert asked == [1]
