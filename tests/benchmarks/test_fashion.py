"""What the benchmark of the example's nets stands on."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.fashion import LIGHT, Bench
from zoo.fashion_mnist import Images, example, shipped, top1

from twofold.calibration.runners import runner_for

pytest.importorskip("torch")


def test_the_shipped_net_names_the_shipped_images():
    net, images = runner_for(example("vgg")), shipped()
    right = top1(net, images)
    assert right > 89
    turned = Images(images.pixels, (images.labels + 1) % 10)
    assert top1(net, turned) < 100 - right + 1e-9


def test_the_reference_spends_what_is_asked_and_keeps_its_shares():
    bench = Bench("vgg", shipped(), shipped(), (0,))
    plan = bench.reference(LIGHT).plan
    # Ranks are whole numbers: a little less than asked.
    assert 0.97 * LIGHT < plan.totals.macs_ratio <= LIGHT
    assert {choice.scheme for choice in plan.choices} == {"spatial"}


def test_a_source_has_no_labels_and_depends_on_the_seed():
    bench = Bench("vgg", shipped(), shipped(), (0,))
    first, again, other = (bench.source(20, seed).data for seed in (0, 0, 1))
    assert first.shape == (20, 1, 28, 28)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
