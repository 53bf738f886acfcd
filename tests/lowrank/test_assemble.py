"""The last step from matrices to convolutions."""

from __future__ import annotations

import numpy as np

from twofold.lowrank.assemble import balanced, equalized


def test_evened_factors_have_the_same_product_and_even_norms():
    rng = np.random.default_rng(0)
    sizes = 10.0 ** -np.arange(12)  # singular values that fall steeply
    V, H = rng.normal(size=(40, 12)) * sizes, rng.normal(size=(12, 30)) / np.sqrt(sizes)[:, None]
    found = equalized(V, H)
    np.testing.assert_allclose(found[0] @ found[1], V @ H, rtol=0, atol=1e-13 * np.linalg.norm(V @ H))
    for norms in (np.linalg.norm(found[0], axis=0), np.linalg.norm(found[1], axis=1)):
        assert norms.max() < 5 * norms.min()
    plain = np.linalg.norm(balanced(V, H)[0], axis=0)
    assert plain.max() > 100 * plain.min()


def test_large_weights_are_balanced_though_their_squares_leave_float32():
    V, H = np.full((3, 2), 1e25, np.float32), np.full((2, 4), 1e-3, np.float32)
    left, right = balanced(V, H)
    norms = np.linalg.norm(left.astype(np.float64), axis=0), np.linalg.norm(right.astype(np.float64), axis=1)
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-5)
    np.testing.assert_allclose(left @ right, V @ H, rtol=1e-5)
