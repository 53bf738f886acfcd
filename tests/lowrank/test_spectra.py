"""Weights alone: the error is the discarded spectrum, whichever method finds the basis."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg.lapack
from tests.lowrank.cases import GEOMETRIES, make_layer
from threadpoolctl import ThreadpoolController

from twofold.conv import ConvGeometry, ConvLayer
from twofold.lowrank import SCHEMES, FitOptions, energy_error
from twofold.lowrank.spectra import block_energy_errors, left_basis, tail_energy_errors
from twofold.lowrank.subspace import filtered, leading_basis, orthonormal, signed_sums, spectral_quantile
from twofold.lowrank.tridiagonal import Tridiagonal
from twofold.lowrank.unfold import Split, first_weight, fold, second_weight, transposed, unfold, unfold_chunks

SPLITS = (Split((0,), (1,)), Split((1,), (0,)), Split((), (0, 1)), Split((0, 1), ()))
IMAGE = [g for g in GEOMETRIES if len(g.kernel) == 2]


def discarded(M: np.ndarray) -> np.ndarray:
    energies = np.linalg.svd(M.astype(np.float64), compute_uv=False) ** 2
    return np.append(np.cumsum(energies[::-1])[::-1], 0) / energies.sum()


def layer_with_spectrum(singular: np.ndarray, channels: int, seed: int = 0) -> ConvLayer:
    """A 3x3 layer whose spatial unfolding has these singular values."""
    geometry = ConvGeometry.of(channels, channels, (3, 3), pad=1)
    rng = np.random.default_rng(seed)
    U, Z = (np.linalg.qr(rng.standard_normal((len(singular),) * 2))[0] for _ in range(2))
    weight = fold((U * singular) @ Z, geometry, SPLITS[0]).astype(np.float32)
    return ConvLayer("conv", geometry, weight)


@pytest.mark.parametrize("geometry", IMAGE)
@pytest.mark.parametrize("split", SPLITS)
def test_unfolding_is_undone_and_its_parts_are_it(geometry, split):
    weight = make_layer(geometry).weight
    M = unfold(weight, geometry, split)
    assert M.shape == (split.rows(geometry), split.columns(geometry))
    np.testing.assert_array_equal(fold(M, geometry, split), weight)
    np.testing.assert_array_equal(unfold(*transposed(weight, geometry, split)), M.T)
    for values in (1, 100, 1 << 20):
        blocks = list(unfold_chunks(weight, geometry, split, values))
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks], axis=1), M)
        assert all(M[:, columns].shape == block.shape for columns, block in blocks)


@pytest.mark.parametrize("geometry", IMAGE)
def test_factor_weights_are_reshaped_matrices(geometry):
    split = SPLITS[0]
    rng = np.random.default_rng(0)
    V, H = rng.standard_normal((split.rows(geometry), 2)), rng.standard_normal((2, split.columns(geometry)))
    first, second = first_weight(V, geometry, split), second_weight(H, geometry, split)
    product = np.einsum("orb,ria->oiab", second[:, :, 0], first[..., 0])
    np.testing.assert_allclose(product, fold(V @ H, geometry, split))


@pytest.mark.parametrize("geometry", [g for g in IMAGE if min(g.kernel) > 1])
@pytest.mark.parametrize("variant", ["hw", "wh"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_spatial_error_is_the_discarded_spectrum(geometry, variant, dtype):
    layer = make_layer(geometry, dtype=dtype)
    split = SPLITS[0] if variant == "hw" else SPLITS[1]
    expected = discarded(unfold(layer.weight, geometry, split))
    for options in (FitOptions(), FitOptions(exact_side=1)):
        errors = SCHEMES["spatial"].factorize(layer, variant, options=options).energy_errors()
        rounding = 1e-6 if dtype == np.float32 and options.exact_side == 1 else 1e-12
        np.testing.assert_allclose(errors, expected[: len(errors)], atol=rounding)


@pytest.mark.parametrize("name", ["channel", "input"])
def test_other_pairs_lose_the_discarded_spectrum(name):
    geometry = GEOMETRIES[0]
    layer = make_layer(geometry)
    axes = (0, 2, 3, 1) if name == "input" else (1, 2, 3, 0)
    M = layer.weight.transpose(axes).reshape(-1, layer.weight.shape[axes[-1]])
    expected = discarded(M)
    np.testing.assert_allclose(SCHEMES[name].factorize(layer, "").energy_errors(), expected, atol=1e-14)


def test_tiny_tails_are_not_lost_in_the_difference_of_norms():
    # In float32 sums of squares, a difference of norms bottoms out near 1e-7; these tails go to 1e-12.
    singular = 10.0 ** -np.linspace(0, 8, 48)
    layer = layer_with_spectrum(singular, 16)
    errors = SCHEMES["spatial"].factorize(layer, "hw").energy_errors()
    expected = discarded(unfold(layer.weight, layer.geometry, SPLITS[0]))
    np.testing.assert_allclose(errors[:36], expected[:36], rtol=1e-6)


@pytest.mark.parametrize(
    "singular",
    [
        np.sqrt(np.linspace(4, 0, 480)),
        np.arange(1, 481.0) ** -0.5,
        np.arange(1, 481.0) ** -1.5,
        np.where(np.arange(480) < 70, 1.0, 0.1),
        10.0 ** -np.linspace(0, 3, 480),
    ],
    ids=["linear", "slow", "steep", "step", "geometric"],
)
@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e15])
def test_block_method_is_within_a_thousandth_of_the_optimum(singular, scale):
    layer = layer_with_spectrum(singular * scale, 160)
    options = FitOptions(exact_side=1, block_side=100)
    fitted = SCHEMES["spatial"].factorize(layer, "hw", max_ranks=(96,), options=options)
    expected = discarded(unfold(layer.weight / np.float32(scale), layer.geometry, SPLITS[0]))
    assert fitted.energy_error((96,)) <= 1.001 * expected[96] + 1e-9
    assert (fitted.energy_errors() <= 1.001 * expected[:97] + 1e-9).all()
    assert (fitted.energy_errors() >= expected[:97] * (1 - 1e-5)).all()
    if scale == 1:
        for rank in (10, 96):
            measured = energy_error(layer, fitted.factors((rank,)))
            assert fitted.energy_error((rank,)) == pytest.approx(measured, rel=1e-4)


def test_block_method_on_random_weights_and_a_low_rank():
    # The spectrum of random weights is the flattest that occurs.
    layer = make_layer(ConvGeometry.of(256, 200, (3, 3)), dtype=np.float32)
    options = FitOptions(exact_side=1, block_side=100)
    expected = discarded(unfold(layer.weight, layer.geometry, SPLITS[0]))
    errors = SCHEMES["spatial"].factorize(layer, "hw", max_ranks=(120,), options=options).energy_errors()
    assert (errors <= 1.001 * expected[:121]).all()
    low = layer_with_spectrum(np.where(np.arange(240) < 20, 1.0, 0.0), 80)
    assert (
        SCHEMES["spatial"].factorize(low, "hw", max_ranks=(40,), options=options).energy_error((40,)) < 1e-10
    )


def test_orthonormal_quantile_and_filter():
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((300, 40)) * np.logspace(0, 4, 40)).astype(np.float32)
    Q = orthonormal(X)
    np.testing.assert_allclose(Q.T @ Q, np.eye(40), atol=1e-2)
    projected = Q @ np.linalg.solve(Q.T @ Q, Q.T @ X)
    np.testing.assert_allclose(projected, X, atol=1e-3 * np.abs(X).max())
    A = rng.standard_normal((400, 400)).astype(np.float32)
    G = A @ A.T
    values = np.linalg.eigvalsh(G)[::-1]
    top, cut = spectral_quantile(G, 0.25, rng)
    assert cut == pytest.approx(values[100], rel=0.1)
    assert top == pytest.approx(values[0], rel=0.1)
    start = signed_sums(400, 90, rng)
    assert (np.abs(start).sum(axis=1) == 1).all()
    assert set(np.abs(start).sum(axis=0)) <= {4, 5}
    for block in (start, X[:40].repeat(10, axis=0)):
        expected = np.polynomial.chebyshev.Chebyshev.basis(5)
        eigenvalues, V = np.linalg.eigh(G.astype(np.float64))
        exact = (V * expected(eigenvalues / (cut / 2) - 1)) @ (V.T @ block)
        np.testing.assert_allclose(filtered(G, block, cut / 2, 5), exact, atol=1e-4 * np.abs(exact).max())
    assert (
        leading_basis(lambda: iter([np.zeros((50, 50), np.float32)]), np.zeros((50, 50), np.float32), 5, True)
        is None
    )


@pytest.mark.parametrize("shape", [(5, 20), (20, 5), (7, 7)])
def test_left_basis_spans_what_it_should(shape):
    A = np.random.default_rng(0).standard_normal(shape)
    P = left_basis(A, min(shape))
    np.testing.assert_allclose(P.T @ P, np.eye(min(shape)), atol=1e-13)
    np.testing.assert_allclose(P @ (P.T @ A), A, atol=1e-13)
    np.testing.assert_allclose(
        np.linalg.norm(P.T @ A, axis=1), np.linalg.svd(A, compute_uv=False), rtol=1e-10
    )


def test_shares_are_sums_over_what_is_cut():
    np.testing.assert_allclose(tail_energy_errors(np.array([4.0, 3, 2]), 1.0), [1, 0.6, 0.3, 0.1])
    table = np.random.default_rng(0).random((4, 6))
    energy_errors = block_energy_errors(table, 0.5)
    for r1, r2 in np.ndindex(5, 7):
        outside = table.sum() - table[:r1, :r2].sum() + 0.5
        assert energy_errors[r1, r2] == pytest.approx(outside / (table.sum() + 0.5))
    assert not tail_energy_errors(np.zeros(3)).any()
    assert not block_energy_errors(np.zeros((2, 3))).any()


@pytest.mark.parametrize("rank", [1, 3, 40, 90])
def test_fewer_directions_than_asked_for(rank):
    layer = layer_with_spectrum(np.where(np.arange(360) < rank, 1.0, 0.0), 120)
    options = FitOptions(exact_side=1, block_side=100)
    fitted = SCHEMES["spatial"].factorize(layer, "hw", max_ranks=(100,), options=options)
    assert fitted.energy_error((100,)) < 1e-10
    assert energy_error(layer, fitted.factors((100,))) < 1e-10


@pytest.mark.parametrize("exact_side", [1000, 100], ids=["float64", "float32"])
def test_the_number_of_threads_does_not_show(exact_side):
    layer = make_layer(ConvGeometry.of(384, 257, (3, 3)), dtype=np.float32)
    options = FitOptions(exact_side=exact_side)
    stacks = []
    for threads in (1, 2, 3):
        with ThreadpoolController().limit(limits=threads, user_api="blas"):
            fitted = SCHEMES["spatial"].factorize(layer, "hw", max_ranks=(301,), options=options)
            stacks.append((fitted.energy_errors(), *(conv.weight for conv in fitted.factors((301,)).convs)))
    for other in stacks[1:]:
        for one, same in zip(stacks[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("decay", [0, 1, 2, 3, 4, 6, 8])
def test_float32_finds_the_optimum_at_every_rank_or_leaves_it_to_float64(decay):
    # From flat to so steep that float32's rounding hides what the largest rank still needs.
    layer = layer_with_spectrum(np.logspace(0, -decay, 384), 128)
    options = FitOptions(exact_side=100)
    expected = discarded(unfold(layer.weight, layer.geometry, SPLITS[0]))
    fitted = SCHEMES["spatial"].factorize(layer, "hw", max_ranks=(192,), options=options)
    errors = fitted.energy_errors()
    np.testing.assert_allclose(errors, expected[:193], rtol=1e-3)
    for rank in (1, 50, 100, 192):
        measured = energy_error(layer, fitted.factors((rank,)))
        # Rounding of the factors to float32 adds about eps^2.
        assert measured <= 1.001 * expected[rank] + 1e-13
        assert errors[rank] == pytest.approx(measured, rel=1e-3, abs=1e-13)


@pytest.mark.parametrize("n", [2, 3, 50, 200])
@pytest.mark.parametrize("solver", ["sstevd", "sstev"])  # the second where SciPy is old
def test_a_tridiagonal_form_tells_values_and_vectors(n, solver, monkeypatch):
    if hasattr(scipy.linalg.lapack, solver):
        monkeypatch.setattr("twofold.lowrank.tridiagonal._solve", getattr(scipy.linalg.lapack, solver))
    A = np.random.default_rng(n).standard_normal((n, n + 5)).astype(np.float32)
    S = A @ A.T
    values = np.linalg.eigvalsh(S.astype(np.float64))
    upper = np.asfortranarray(np.triu(S))
    form = Tridiagonal.of(upper)
    np.testing.assert_allclose(form.values, values[::-1], atol=1e-5 * values[-1])
    for count in {1, n // 2, n}:
        P = form.vectors(count)
        assert P.shape == (n, count)
        np.testing.assert_allclose(P.T @ P, np.eye(count), atol=1e-5)
        np.testing.assert_allclose(S @ P, P * form.values[:count], atol=1e-5 * values[-1])
