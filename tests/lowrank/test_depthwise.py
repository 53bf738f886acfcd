"""What is of the scheme `depthwise` alone: the search, bounded terms, ranks that are not nested."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.lowrank.cases import correlated, make_layer, make_statistics, patch_length, statistics_of

from twofold.conv import ConvGeometry, ConvLayer, Factors, FactorStatistics, LayerStatistics
from twofold.errors import OptionError
from twofold.lowrank import SCHEMES, FitOptions, composed, energy_error
from twofold.lowrank.depthwise import DepthwiseFits, full_rank, term_problem
from twofold.lowrank.problem import Problem
from twofold.lowrank.separable import DenseCovariance, KroneckerCovariance, TermProblem, Terms

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
    return DepthwiseFits("depthwise", full_rank(layer.geometry), given, term_problem(given))


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
        assert error == pytest.approx(energy_error(layer, factors, statistics), rel=1e-6)
        assert fitted.energy_errors()[rank] == error
    rank = (anchor + min(others)) // 2 + 1
    estimate = fitted.energy_error((rank,))
    factors = fitted.factors((rank,))
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


def test_over_the_memory_limit_another_pass_fits_the_last_convolution():
    layer, patches = make_layer(GEOMETRY), correlated(300, 54)
    whole = statistics_of(patches, GEOMETRY)

    def second_pass(of: ConvLayer, pair: Factors) -> FactorStatistics:
        z = patches @ pair.convs[0].weight.reshape(len(pair.convs[0].weight), -1).T
        rest = patches @ (of.weight - composed(pair)).reshape(10, -1).T
        centred, left = z - z.mean(axis=0), rest - rest.mean(axis=0)
        return FactorStatistics(
            len(z), centred.T @ centred / len(z), centred.T @ left / len(z),
            np.asarray(np.sum(left**2) / len(z)), z.mean(axis=0), rest.mean(axis=0),
        )  # fmt: skip

    options = FitOptions(ridge=1e-9)
    blind = replace(whole, covariance=None)
    fitted = depthwise.factorize(layer, "", blind, options=options, second_pass=second_pass)
    factors = fitted.factors((20,))
    assert fitted.energy_error((20,)) == pytest.approx(energy_error(layer, factors, whole), rel=1e-4)
    weights = depthwise.factorize(layer, "", options=options).factors((20,))
    assert energy_error(layer, factors, whole) < energy_error(layer, weights, whole)
    with pytest.raises(OptionError, match="over the memory limit and no second pass"):
        depthwise.factorize(layer, "", blind).factors((20,))


def test_groups_over_the_memory_limit_are_refused():
    geometry = ConvGeometry.of(8, 6, (3, 3), pad=1, groups=2)
    parts = [make_statistics(ConvGeometry.of(4, 3, (3, 3)), seed) for seed in (0, 1)]
    strips = tuple(map(np.stack, zip(*(part.strips for part in parts), strict=True)))
    blind = replace(parts[0], mean=np.stack([part.mean for part in parts]), covariance=None, strips=strips)
    with pytest.raises(OptionError, match="conv: has 2 groups and a covariance over the memory limit"):
        depthwise.factorize(make_layer(geometry), "", blind)


def test_refusal_of_one_tap():
    assert "one tap" in depthwise.refusal(ConvGeometry.of(4, 4, (1, 1)))
    assert depthwise.refusal(ConvGeometry.of(4, 4, (1, 3))) is None
