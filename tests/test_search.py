"""Searching for the cheapest plan that holds, over a network whose losses are known."""

from __future__ import annotations

import pytest

from twofold.conv import ConvGeometry
from twofold.decomposition.search import PlanTrial, within_drop, within_error
from twofold.errors import PlanError
from twofold.planning import Choice, Plan

GEOMETRY = ConvGeometry.of(64, 64, (3, 3))


def attempt(after, loss):
    choice = Choice("a", GEOMETRY, "spatial", "hw", (16,), (1000, round(after)), (1000, 500))
    return PlanTrial(Plan((choice,) if after < 1000 else (), ()), {}, loss)


@pytest.mark.parametrize("factor", [0.4, 0.9, 1.0, 1.7, 6.0])
@pytest.mark.parametrize("limit", [0.01, 0.1])
def test_the_error_is_kept_and_used_up(factor, limit):
    """Measured = factor * predicted, and MACs fall as the error may rise."""

    def tried(budget):
        assert budget.metric == "error"
        return attempt(1000 / (1 + 10 * budget.value), factor * budget.value)

    found = within_error(limit, tried)
    assert 0.7 * limit < found.loss <= limit


def test_where_nothing_holds_the_network_stays():
    found = within_error(
        0.01, lambda budget: attempt(500 if budget.value else 1000, 1.0 if budget.value else 0)
    )
    assert found.loss == 0
    assert not found.plan.choices


@pytest.mark.parametrize("limit", [0.0, 0.02, 0.3])
def test_the_drop_is_kept(limit):
    """Accuracy falls with the square of what is saved; below a ratio of 0.1 there is no plan."""

    def tried(budget):
        if budget.value < 0.1:
            raise PlanError("out of reach")
        return attempt(1000 * budget.value, (1 - budget.value) ** 2)

    found = within_drop(limit, tried)
    best = max(0.1, 1 - limit**0.5)
    assert found.loss <= limit
    assert found.plan.totals.macs[1] <= 1000 * min(1, best + 1 / 32) if limit else not found.plan.choices


def test_of_plans_that_hold_the_one_with_the_largest_bound_is_kept():
    """A bound too far beyond is answered by one too far below, whose plan holds, too, but costs more."""
    losses = {0.1: 0.02, 0.2: 5.0, 0.05: 0.01, 0.1 * 0.95: 0.02}

    def tried(budget):
        loss = next((loss for value, loss in losses.items() if abs(value - budget.value) < 1e-9), 1.0)
        return attempt(1000 / (1 + 10 * budget.value), loss)

    assert within_error(0.1, tried).plan.totals.macs[1] == 500  # of the bound 0.1
