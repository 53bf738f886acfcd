from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.conv import ConvGeometry, ConvLayer, Skipped
from twofold.errors import PlanError
from twofold.latency.cost import LEAST_GAIN, Curve, LatencyCost, probes
from twofold.lowrank.schemes import SCHEMES, scheme
from twofold.planning import Candidate, Request
from twofold.planning.workload import Workload

LAYER = ConvLayer("conv", ConvGeometry.of(96, 64, (3, 3), pad=1), None, input_sizes=((20, 20),))


def every_request(layer: ConvLayer = LAYER) -> list[Request]:
    return [
        Request(name, variant, scheme(name).full_rank(layer.geometry, variant))
        for name in SCHEMES
        for variant in scheme(name).variants(layer.geometry)
    ]


@pytest.mark.parametrize("request_", every_request(), ids=lambda one: f"{one.scheme}-{one.variant}")
def test_probes_lie_on_the_runtimes_steps_and_within_what_can_be_cheaper(request_):
    workload = Workload()
    found = probes(LAYER, request_, 8, workload)
    assert len(found) == len(set(found)) >= 3
    for ranks in found:
        chain = scheme(request_.scheme).chain(LAYER.geometry, request_.variant, ranks)
        assert workload.macs(LAYER, chain) <= LAYER.macs
    assert {rank % 8 for ranks in found[:-1] for rank in ranks} <= {0}


def test_a_layer_with_groups_has_smaller_steps():
    grouped = ConvLayer("g", ConvGeometry.of(64, 64, (3, 3), pad=1, groups=4), None, input_sizes=((9, 9),))
    request = Request("channel", "", scheme("channel").full_rank(grouped.geometry, ""))
    assert probes(grouped, request, 16, Workload())[0] == (4,)


def test_measured_points_are_given_as_they_are_and_steps_are_flat():
    curve = Curve({(16,): 1.0, (48,): 2.0}, 16)
    assert [curve.seconds((r,)) for r in (1, 16, 17, 32, 33, 48, 64)] == [1.0, 1.0, 1.5, 1.5, 2.0, 2.0, 2.5]


@given(
    st.tuples(*[st.floats(0.0, 3.0)] * 3), st.floats(0.1, 2.0),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
)  # fmt: skip
def test_a_bilinear_time_of_two_ranks_is_found_again(weights, constant, blocks):
    def truth(ranks: tuple[int, int]) -> float:
        a, b = ranks
        return constant + (weights[0] * a + weights[1] * b) / 64 + weights[2] * a * b / 64**2

    axis = (16, 48, 96)
    curve = Curve({(a, b): truth((a, b)) for a in axis for b in axis}, 8)
    ranks = (8 * blocks[0], 8 * blocks[1])
    assert curve.seconds(ranks) == pytest.approx(truth(ranks), rel=1e-6)


def candidate(rank: int) -> Candidate:
    return Candidate("conv", "channel", "", (rank,), 0, 0, 0.0)


def prices(factor: float = 1.0) -> LatencyCost:
    curve = Curve({(16,): 2.0, (32,): 4.0, (48,): 5.9}, 16)
    return LatencyCost({"conv": 6.0}, {"conv": {("channel", ""): curve}}, 10.0, factor)


@pytest.mark.parametrize("factor", [1.0, 0.5, 2.0])
def test_the_network_without_changes_costs_what_it_was_measured_at(factor):
    cost = prices(factor)
    assert cost.base + cost.of_layer(LAYER) == pytest.approx(10.0)
    assert cost.of_layer(Skipped("other", "")) == 0.0
    # A gain of 4 by itself shows as 4 times the factor.
    assert cost.base + cost.of_candidate(LAYER, candidate(16)) == pytest.approx(10.0 - 4.0 * factor)


def test_gains_within_the_noise_are_none():
    cost = prices()
    assert (1 - LEAST_GAIN) * 6.0 < 5.9
    assert cost.of_candidate(LAYER, candidate(48)) == cost.of_layer(LAYER)
    assert cost.of_candidate(LAYER, candidate(32)) == 4.0


def test_a_scheme_without_times_is_named():
    with pytest.raises(PlanError, match="conv: no times of scheme 'input'"):
        prices().layer_seconds("conv", "input", "", (16,))


def test_uneven_last_steps_go_on_at_the_last_slope():
    curve = Curve({(16,): 1.0, (32,): 3.0, (40,): 4.0}, 16)
    assert curve.seconds((48,)) == pytest.approx(5.0)
    assert np.isfinite(curve.seconds((33,)))
