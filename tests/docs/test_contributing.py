"""The examples of CONTRIBUTING.md run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from twofold.conv import ConvGeometry, ConvLayer
from twofold.lowrank import composed, schemes

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


def test_the_example_scheme_is_a_scheme(monkeypatch):
    monkeypatch.setattr(schemes, "_schemes", dict(schemes._schemes))
    (example,) = [
        block for block in re.findall("```python\\n(.*?)```", TEXT, re.DOTALL) if "Pointwise" in block
    ]
    exec(example, dict(vars(schemes)))
    scheme = schemes.scheme("pointwise")
    assert scheme.refusal(ConvGeometry.of(8, 6, (3, 3)))
    geometry = ConvGeometry.of(8, 6, (1, 1))
    weight = np.random.default_rng(0).normal(size=geometry.weight_shape)
    found = scheme.factorize(ConvLayer("layer", geometry, weight), "").factors((6,))
    np.testing.assert_allclose(composed(found), weight, atol=1e-12)
