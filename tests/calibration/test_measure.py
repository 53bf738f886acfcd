"""Errors of outputs against the definition in one piece."""

from __future__ import annotations

import numpy as np
import pytest

from twofold.calibration.measure import MetricChange, OutputErrorMetric, quality_warning
from twofold.errors import InputError


def pieces(seed=0):
    rng = np.random.default_rng(seed)
    ref = {"a": rng.normal(1000, 1, (9, 4)).astype(np.float32), "b": rng.normal(size=(9, 2, 3)).astype("f4")}
    changed = {
        name: value + rng.normal(0, 0.1, value.shape).astype(np.float32) for name, value in ref.items()
    }
    return ref, changed


def defined(ref, changed):
    ref, changed = ref.astype(np.float64), changed.astype(np.float64)
    return np.linalg.norm(changed - ref) / np.linalg.norm(ref - ref.mean())


def test_batches_add_up_to_the_whole():
    ref, changed = pieces()
    measure = OutputErrorMetric()
    for rows in (slice(0, 4), slice(4, 8), slice(8, 9)):
        measure.add("x", {n: v[rows] for n, v in ref.items()}, {n: v[rows] for n, v in changed.items()})
    errors = {name: defined(ref[name], changed[name]) for name in ref}
    assert measure.by_output("x") == pytest.approx(errors, rel=1e-6)
    assert measure.error("x") == pytest.approx(np.sqrt(np.mean([e**2 for e in errors.values()])), rel=1e-6)


def test_a_large_mean_does_not_drown_what_varies():
    """Squares of 1e7 leave no digit of a variance of 4 in a sum of 1e6 of them."""
    ref = {"a": (1e7 + np.random.default_rng(0).integers(-3, 4, 100_000)).astype(np.float32)}
    changed = {"a": ref["a"] + np.float32(1)}
    measure = OutputErrorMetric()
    measure.add("x", ref, changed)
    assert measure.error("x") == pytest.approx(defined(ref["a"], changed["a"]), rel=1e-6)


def test_what_never_varies_and_what_is_not_finite():
    measure = OutputErrorMetric()
    ones = {"a": np.ones((2, 3), np.float32)}
    measure.add("same", ones, ones)
    assert measure.error("same") == 0
    measure.add("other", ones, {"a": np.full((2, 3), 2, np.float32)})
    assert measure.error("other") > 0
    measure.add("bad", ones, {"a": np.full((2, 3), np.nan, np.float32)})
    with pytest.raises(InputError, match="'a' has values that are not finite"):
        measure.error("bad")


def test_a_metric_of_the_user_sees_all_samples():
    ref, changed = pieces()
    measure = MetricChange(lambda outputs: float(outputs["a"].mean() + len(outputs["b"])))
    for rows in (slice(0, 5), slice(5, 9)):
        measure.add(0, {n: v[rows] for n, v in ref.items()}, {n: v[rows] for n, v in changed.items()})
    assert measure.error(0) == pytest.approx(abs(changed["a"].mean() - ref["a"].mean()), abs=1e-3)
    broken = MetricChange(lambda outputs: float("nan"))
    broken.add(0, ref, changed)
    with pytest.raises(InputError, match="finite"):
        broken.error(0)


def test_a_large_error_is_said_and_one_above_that_of_a_constant_more_so():
    assert quality_warning(0.29) is None
    assert "far from the original's: their error is 0.31" in quality_warning(0.31)
    assert "lost: their error is 1.11" in quality_warning(1.11)
