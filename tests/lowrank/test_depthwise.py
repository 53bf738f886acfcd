"""What is of the scheme `depthwise` alone: the search, bounded terms, ranks that are not nested."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest
from tests.lowrank.cases import correlated, make_layer, make_statistics, patch_length, statistics_of
from threadpoolctl import threadpool_limits

from twofold.calibration.statistics import strips_of
from twofold.conv import ConvGeometry, ConvLayer, Factors, FactorStatistics, LayerStatistics, SecondPass
from twofold.errors import OptionError
from twofold.lowrank import SCHEMES, FitOptions, composed, energy_error, spectra
from twofold.lowrank.depthwise import DepthwiseFits, _gain, fit_terms, full_rank, term_problem
from twofold.lowrank.groups import group_factors, group_layers
from twofold.lowrank.problem import Problem
from twofold.lowrank.protocols import KnownErrors
from twofold.lowrank.separable import DenseCovariance, KroneckerCovariance, TermProblem, Terms
from twofold.lowrank.strips import StripCovariance

GEOMETRY = ConvGeometry.of(10, 6, (3, 3), pad=1)
depthwise = SCHEMES["depthwise"]


def some_problem(*, dense: bool) -> tuple[TermProblem, np.ndarray]:
    weight = np.random.default_rng(0).standard_normal((10, 6, 9))
    if dense:
        matrix = make_statistics(GEOMETRY).covariance
        return TermProblem("conv", weight, DenseCovariance(matrix, 1e-3, 6)), matrix + 1e-3 * np.eye(54)
    channels, taps = (np.cov(correlated(50, n).T) for n in (6, 9))
    return TermProblem("conv", weight, KroneckerCovariance(channels, taps)), np.kron(channels, taps)


def some_terms(rank: int, seed: int = 1) -> Terms:
    rng = np.random.default_rng(seed)
    return Terms(rng.standard_normal((6, rank)), rng.standard_normal((9, rank)))


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "kronecker"])
def test_value_and_gradient_against_their_definitions(dense):
    problem, C = some_problem(dense=dense)
    W, terms, ridge = problem.W, some_terms(5), 1e-5

    def f(v, k):
        Z = np.stack([np.outer(a, b).ravel() for a, b in zip(v.T, k.T, strict=True)], axis=1)
        S = Z.T @ C @ Z
        R = np.diag(ridge * np.diag(S))
        U = np.linalg.solve(S + R, Z.T @ C @ W.T).T
        D = W - U @ Z.T
        return (np.trace(D @ C @ D.T) + np.trace(U @ R @ U.T)) / np.trace(W @ C @ W.T)

    value, by_channels, by_taps = problem.value(terms, problem.relative(np.float64))
    assert value == pytest.approx(f(terms.V, terms.K), rel=1e-9)
    step = 1e-6
    for array, gradient in ((terms.V, by_channels), (terms.K, by_taps)):
        for index in [(0, 0), (3, 2), (5, 4)]:
            kept, ends = array[index], []
            for change in (step, -step):
                array[index] = kept + change
                ends.append(f(terms.V, terms.K))
            array[index] = kept
            assert gradient[index] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-9)


def test_the_search_descends_and_its_end_is_flat():
    problem, _ = some_problem(dense=True)
    terms, history = problem.improve(problem.start(6), 400)
    assert history == sorted(history, reverse=True)
    assert history[-1] < 0.8 * history[0]
    value, by_channels, by_taps = problem.value(terms, problem.relative(np.float64))
    assert value == pytest.approx(history[-1])
    assert max(np.abs(by_channels).max(), np.abs(by_taps).max()) < 1e-3 * value


def fits_of(layer: ConvLayer, statistics: LayerStatistics | None = None) -> DepthwiseFits:
    given = Problem(layer, statistics)
    return DepthwiseFits("depthwise", full_rank(layer.geometry), layer, given.mean, term_problem(given))


def test_no_covariance_is_held_but_the_one_that_schemes_share():
    """Of long patches in float32; short ones as they are."""
    for geometry, shared in (
        (ConvGeometry.of(60, 8, (3, 3)), np.float64),
        (ConvGeometry.of(12, 60, (3, 3)), np.float32),
    ):
        layer, statistics = make_layer(geometry), make_statistics(geometry)
        statistics = replace(statistics, covariance=statistics.covariance.copy())
        given, seen = Problem(layer, statistics), weakref.ref(statistics.covariance)
        factorization = fit_terms(given, "depthwise", 4)
        assert given.held.dtype == shared
        del given, statistics
        assert (seen() is None) == (shared == np.float32)
        assert factorization.layer == layer.name


def test_terms_do_not_cancel_each_other_where_no_best_approximation_exists():
    """Of rank 3, and as close as one likes to rank 2, with terms that grow without limit."""
    a, b = np.eye(4)[:2]
    weight = sum(np.einsum("i,j,k->ijk", *(b if n == m else a for n in range(3))) for m in range(3))
    geometry = ConvGeometry.of(4, 4, (4,))
    layer = ConvLayer("conv", geometry, weight)
    fits = fits_of(layer)
    fit = fits._fit(2)
    assert fit.error < 0.02
    energies = fit.solved.energies / fits.problem.energy
    assert energies.sum() < 1e3
    loose = TermProblem("conv", weight, KroneckerCovariance(np.eye(4), np.eye(4)), ridge=1e-12)
    unbound = loose.solve(loose.improve(loose.start(2), 300)[0])
    assert unbound.energies.sum() / loose.energy > 3 * energies.sum()


@pytest.mark.parametrize("size", [1e-15, 1e15])
def test_the_size_of_weights_does_not_matter(size):
    """Patches of so many values are fitted in float32, whose range squares would leave."""
    geometry = ConvGeometry.of(8, 32, (3, 3))
    layer = make_layer(geometry)
    sized = ConvLayer("sized", geometry, size * layer.weight)
    errors = [depthwise.factorize(one, "").energy_error((20,)) for one in (layer, sized)]
    assert errors[1] == pytest.approx(errors[0], rel=1e-3)


@pytest.mark.parametrize("data", [False, True], ids=["weights", "data"])
def test_energies_of_the_terms_stay_near_that_of_the_layer(data):
    layer = make_layer(ConvGeometry.of(24, 16, (3, 3), pad=1))
    fits = fits_of(layer, make_statistics(layer.geometry) if data else None)
    for rank in (8, 30, 60):
        assert fits._fit(rank).solved.energies.sum() < 8 * fits.problem.energy


def test_ranks_are_estimated_until_they_are_fitted():
    layer, statistics = make_layer(GEOMETRY), make_statistics(GEOMETRY)
    fitted = depthwise.factorize(layer, "", statistics, options=FitOptions(ridge=0.0))
    (anchor, *others) = [rank for (rank,) in fitted.trial_ranks()]
    for rank in (anchor, *others):
        error, factors = fitted.trial((rank,))
        assert fitted.knows((rank,))
        assert error == pytest.approx(energy_error(layer, factors, statistics), rel=1e-6)
        assert error / 4 < fitted.energy_errors()[rank] <= error  # what more evaluations may leave of it
    rank = (anchor + min(others)) // 2 + 1
    assert not fitted.knows((rank,))
    estimate = fitted.energy_error((rank,))
    factors = fitted.factors((rank,))
    assert fitted.knows((rank,))
    assert fitted.energy_error((rank,)) == pytest.approx(energy_error(layer, factors, statistics), rel=1e-6)
    assert fitted.energy_errors()[rank] == fitted.energy_error((rank,)) != estimate
    assert estimate == pytest.approx(fitted.energy_error((rank,)), rel=0.5)
    np.testing.assert_array_equal(composed(fitted.factors((rank,))), composed(factors))


def test_a_fit_begins_at_an_anchor_whatever_was_fitted_before():
    layer = make_layer(ConvGeometry.of(24, 16, (3, 3), pad=1))
    statistics = make_statistics(layer.geometry)
    one, other = (depthwise.factorize(layer, "", statistics) for _ in range(2))
    one.energy_errors()
    for rank in (40, 33):
        one.factors((rank,))
    stacks = [composed(fitted.factors((30,))) for fitted in (one, other)]
    np.testing.assert_array_equal(*stacks)
    problem = term_problem(Problem(layer, statistics))
    anew = problem.solve(problem.improve(problem.start(30), 45)[0])
    assert other.energy_error((30,)) < 1.5 * anew.lost / problem.energy


def test_more_alternations_are_more_evaluations(monkeypatch):
    seen, improve = [], TermProblem.improve

    def watched(problem, terms, evaluations):
        seen.append(evaluations)
        return improve(problem, terms, evaluations)

    monkeypatch.setattr(TermProblem, "improve", watched)
    layer = make_layer(ConvGeometry.of(24, 16, (3, 3), pad=1))
    statistics = make_statistics(layer.geometry)
    errors = []
    for refine in (0, 2, 8):
        fitted = depthwise.factorize(layer, "", statistics, options=FitOptions(refine=refine))
        fitted.factors((33,))
        errors.append(fitted.energy_error((33,)))
        assert max(seen) == max(30 + 15 * refine, 45)
        seen.clear()
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    ("history", "evaluations", "gain"),
    [
        ([1.0, 0.9, 0.8, 0.7], 4, 1.0),
        ([1.0, 0.8, 0.6, 0.4], 8, 0.5**0.75),
        ([1.0, 0.8, 0.6, 0.4], 16, 0.25**0.75),
        ([1.0, 0.8, 0.8, 0.8], 16, 1.0),
        ([1.0, 0.8, 0.1, 0.0], 16, 1.0),
    ],
)
def test_what_more_evaluations_may_leave_of_a_loss(history, evaluations, gain):
    assert _gain(history, evaluations) == pytest.approx(gain)


def test_where_fits_lose_more_than_was_expected_all_are_expected_to():
    known = KnownErrors({(4,): 0.2, (8,): 0.1, (16,): 0.05, (2,): 0.9}, {(8,): 0.15, (16,): 0.04})
    assert known.errors() == pytest.approx({(2,): 1.0, (4,): 0.3, (8,): 0.15, (16,): 0.04})
    assert KnownErrors({(4,): 0.2}, {(4,): 0.1, (5,): 0.1}).errors() == {(4,): 0.1, (5,): 0.1}
    assert (8,) in known
    assert (9,) not in known


def test_a_draft_expects_what_a_fit_loses():
    layer = make_layer(ConvGeometry.of(24, 16, (3, 3), pad=1))
    fits = fits_of(layer, make_statistics(layer.geometry))
    draft, fit = fits._draft(33), fits._fit(33)
    assert draft.expected < draft.error
    assert abs(draft.expected - fit.error) < abs(draft.error - fit.error)
    assert fit.expected == fit.error


def test_nothing_is_left_to_know_of_a_layer_without_weight():
    layer = replace(make_layer(GEOMETRY), weight=np.zeros(GEOMETRY.weight_shape, np.float32))
    assert depthwise.factorize(layer, "").knows((8,))


def test_the_search_keeps_to_one_thread(monkeypatch):
    """Small products and Cholesky factors wait for threads longer than they compute."""
    threads, improve = [], TermProblem.improve

    def watched(problem, terms, evaluations):
        threads.extend(
            pool["num_threads"] for pool in spectra._LIBRARIES.info() if pool["user_api"] == "blas"
        )
        return improve(problem, terms, evaluations)

    monkeypatch.setattr(TermProblem, "improve", watched)
    layer, statistics = make_layer(GEOMETRY), make_statistics(GEOMETRY)
    with threadpool_limits(2, user_api="blas"):
        depthwise.factorize(layer, "", statistics).factors((8,))
    assert threads
    assert set(threads) == {1}


def test_channels_between_vary_alike_and_weights_share_a_norm():
    """What int8 has one scale for."""
    layer = make_layer(ConvGeometry.of(24, 16, (3, 3), pad=1))
    patches = correlated(2000, patch_length(layer.geometry))
    factors = depthwise.factorize(layer, "", statistics_of(patches, layer.geometry)).factors((20,))
    first, taps, last = (conv.weight for conv in factors.convs)
    seen = np.einsum("rc,ncs->nrs", first.reshape(20, 16), patches.reshape(-1, 16, 9))
    between = [seen.var(axis=0).mean(axis=1), np.einsum("nrs,rs->nr", seen, taps.reshape(20, 9)).var(axis=0)]
    for variances in between:
        assert variances.max() == pytest.approx(variances.min(), rel=1e-4)
    norms = [np.linalg.norm(weight) for weight in (first, taps, last)]
    assert max(norms) == pytest.approx(min(norms), rel=1e-6)


def pass_over(patches: np.ndarray, calls: list[str]) -> SecondPass:
    """Another pass over patches (rows, groups, d)."""

    def moments(of: ConvLayer, pair: Factors, seen: np.ndarray) -> list[np.ndarray]:
        first = composed(replace(pair, convs=pair.convs[:-1]))
        z = seen @ first.reshape(len(first), -1).T
        rest = seen @ (of.weight - composed(pair)).reshape(len(of.weight), -1).T
        centred, left = z - z.mean(axis=0), rest - rest.mean(axis=0)
        products = (centred.T @ centred, centred.T @ left, np.asarray(np.sum(left**2)))
        return [*(product / len(z) for product in products), z.mean(axis=0), rest.mean(axis=0)]

    def second_pass(of: ConvLayer, pair: Factors) -> FactorStatistics:
        calls.append(of.name)
        groups = of.geometry.groups
        if groups == 1:
            return FactorStatistics(len(patches), *moments(of, pair, patches[:, 0]))
        parts = zip(group_layers(of), group_factors(pair), patches.swapaxes(0, 1), strict=True)
        return FactorStatistics(
            len(patches), *map(np.stack, zip(*(moments(*part) for part in parts), strict=True))
        )

    return second_pass


def test_over_the_memory_limit_another_pass_fits_the_last_convolution():
    layer, patches, calls = make_layer(GEOMETRY), correlated(300, 54), list[str]()
    whole = statistics_of(patches, GEOMETRY)
    options = FitOptions(ridge=1e-9)
    blind = replace(whole, covariance=None)
    fitted = depthwise.factorize(
        layer, "", blind, options=options, second_pass=pass_over(patches[:, None], calls)
    )
    for ranks in fitted.trial_ranks():
        fitted.trial(ranks)
    assert not calls
    factors = fitted.factors((20,))
    assert fitted.energy_error((20,)) == pytest.approx(energy_error(layer, factors, whole), rel=1e-4)
    weights = depthwise.factorize(layer, "", options=options).factors((20,))
    assert energy_error(layer, factors, whole) < energy_error(layer, weights, whole)
    fitted.factors((20,))
    assert calls == ["conv"]
    with pytest.raises(OptionError, match="over the memory limit and no second pass"):
        depthwise.factorize(layer, "", blind).factors((20,))


def test_groups_over_the_memory_limit_share_a_pass():
    geometry = ConvGeometry.of(8, 6, (3, 3), pad=1, groups=2)
    layer, calls = make_layer(geometry), list[str]()
    patches = np.stack([correlated(300, 27, seed) for seed in (0, 1)], axis=1)
    parts = [statistics_of(of, ConvGeometry.of(4, 3, (3, 3))) for of in patches.swapaxes(0, 1)]
    seen = replace(
        parts[0], mean=np.stack([part.mean for part in parts]),
        covariance=np.stack([part.covariance for part in parts]),
        strips=tuple(map(np.stack, zip(*(part.strips for part in parts), strict=True))),
    )  # fmt: skip
    fitted = depthwise.factorize(
        layer, "", replace(seen, covariance=None), options=FitOptions(ridge=1e-9),
        second_pass=pass_over(patches, calls),
    )  # fmt: skip
    found = [fitted.factors((6,)) for _ in range(2)]
    assert calls == ["conv"]
    np.testing.assert_array_equal(*map(composed, found))
    # How the groups share the energy is told by the model of what they see.
    assert fitted.energy_error((6,)) == pytest.approx(energy_error(layer, found[0], seen), rel=0.2)
    for index, (one, its) in enumerate(zip(group_layers(layer), group_factors(found[0]), strict=True)):
        alone = depthwise.factorize(
            one, "", replace(parts[index], covariance=None), options=FitOptions(ridge=1e-9),
            second_pass=pass_over(patches[:, index : index + 1], []),
        )  # fmt: skip
        np.testing.assert_allclose(composed(its), composed(alone.factors((6,))), atol=1e-6)


def separable_field(shape: tuple[int, ...], kernel: tuple[int, ...]) -> np.ndarray:
    """A covariance over (channels, *kernel) whose parts do not interact."""
    total = np.ones((1, 1))
    for n in (*shape, *kernel):
        part = correlated(50, n, seed=n)
        total = np.kron(total, part.T @ part / 50)
    return total


@pytest.mark.parametrize("kernel", [(3,), (3, 3), (2, 1, 4)])
def test_axes_that_do_not_interact_are_told_by_their_strips(kernel):
    geometry = ConvGeometry.of(7, 4, kernel)
    C = separable_field((4,), kernel)
    statistics = LayerStatistics(10, np.zeros(len(C)), None, strips_of(C, geometry))
    shift = 0.01
    model = StripCovariance.of(statistics, geometry, shift)
    X = np.random.default_rng(1).standard_normal((len(C), 5))
    np.testing.assert_allclose(model.times(X), C @ X + shift * X, rtol=1e-6, atol=1e-6 * np.abs(C).max())


def test_of_one_axis_the_strip_is_all():
    geometry = ConvGeometry.of(7, 4, (3,))
    C = np.cov(correlated(100, 12).T)
    model = StripCovariance.of(LayerStatistics(10, np.zeros(12), None, (C,)), geometry, 0.0)
    np.testing.assert_allclose(model.times(np.eye(12)), C, rtol=1e-5, atol=1e-6 * np.abs(C).max())


def test_rejections_of_one_tap():
    assert "one tap" in depthwise.rejection(ConvGeometry.of(4, 4, (1, 1)))
    assert depthwise.rejection(ConvGeometry.of(4, 4, (1, 3))) is None
