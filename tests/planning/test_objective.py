"""What candidates do to the output, as interpolated from measurements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.errors import PlanError
from twofold.planning import Candidate, Curve, EqualWeights, MeasuredSensitivity

ERRORS = st.floats(1e-12, 1)


def candidate(layer: str, energy_error: float) -> Candidate:
    return Candidate(layer, "spatial", "hw", (16,), 10, 10, energy_error)


@given(st.lists(ERRORS, min_size=1, max_size=5, unique=True), st.floats(1e-6, 1e3))
def test_a_constant_gain_is_constant_everywhere(measured, gain):
    curve = Curve(tuple((e, gain * e) for e in measured))
    at = np.array([0.0, 1e-15, 1e-3, 0.5, 1.0])
    np.testing.assert_allclose(curve.squared_errors(at), gain * at, rtol=1e-9)


@given(
    st.lists(st.tuples(ERRORS, st.floats(0, 10)), min_size=1, max_size=6),
    st.lists(st.floats(0, 1), max_size=20),
)
def test_a_worse_candidate_never_looks_better(points, at):
    values = Curve(tuple(points)).squared_errors(np.array(at))
    order = np.argsort(at, kind="stable")
    assert (np.diff(values[order]) >= 0).all()
    assert np.isfinite(values).all()
    assert (values >= 0).all()


def test_measured_points_are_met():
    curve = Curve(((0.01, 0.002), (0.1, 0.05), (0.0001, 0.00001)))
    np.testing.assert_allclose(curve.squared_errors(np.array([0.1, 0.0001, 0.01])), [0.05, 0.00001, 0.002])
    # Half way in the logarithm: the mean of the gains 0.2 and 0.5.
    np.testing.assert_allclose(curve.squared_errors(np.array([np.sqrt(0.001)])), [np.sqrt(0.001) * 0.35])


def test_a_layer_without_effect_has_none():
    assert Curve(((0.0, 0.0),)).squared_errors(np.array([0.1, 1.0])).tolist() == [0, 0]
    assert Curve(((0.1, 0.0),)).squared_errors(np.array([0.1, 1.0])).tolist() == [0, 0]


@pytest.mark.parametrize("points", [(), ((np.nan, 1.0),), ((0.1, -1.0),), ((0.1, np.inf),)])
def test_curves_that_are_none(points):
    with pytest.raises(PlanError, match="sensitivity curve"):
        Curve(points)


def test_layers_keep_their_own_curves():
    objective = MeasuredSensitivity.from_gains({"a": 2.0, "b": 0.5})
    both = [candidate("a", 0.1), candidate("b", 0.2), candidate("a", 0.3)]
    np.testing.assert_allclose(objective.squared_errors(both), [0.2, 0.1, 0.6])
    assert objective.measured
    with pytest.raises(PlanError, match="no sensitivity was measured for c"):
        objective.squared_errors([candidate("c", 0.1)])


def test_without_measurements_energies_count_as_they_are():
    assert EqualWeights().squared_errors([candidate("a", 0.1), candidate("b", 0.2)]).tolist() == [0.1, 0.2]
    assert EqualWeights().squared_errors([]).tolist() == []
    assert not EqualWeights().measured
