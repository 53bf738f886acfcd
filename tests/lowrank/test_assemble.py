"""The last step from matrices to convolutions."""

from __future__ import annotations

import numpy as np

from twofold.lowrank.assemble import balanced, evened


def test_evened_factors_have_the_same_product_and_even_norms():
    rng = np.random.default_rng(0)
    sizes = 10.0 ** -np.arange(12)  # singular values that fall steeply
    V, H = rng.normal(size=(40, 12)) * sizes, rng.normal(size=(12, 30)) / np.sqrt(sizes)[:, None]
    found = evened(V, H)
    np.testing.assert_allclose(found[0] @ found[1], V @ H, rtol=0, atol=1e-13 * np.linalg.norm(V @ H))
    for norms in (np.linalg.norm(found[0], axis=0), np.linalg.norm(found[1], axis=1)):
        assert norms.max() < 5 * norms.min()
    plain = np.linalg.norm(balanced(V, H)[0], axis=0)
    assert plain.max() > 100 * plain.min()
