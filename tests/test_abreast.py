"""Layers that are worked on at the same time."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tests.small import write
from threadpoolctl import threadpool_limits

import twofold
from twofold.conv import ConvLayer
from twofold.decomposition import abreast as module
from twofold.decomposition.abreast import abreast
from twofold.errors import ModelError
from twofold.lowrank.spectra import threads


@pytest.fixture
def layers(tmp_path):
    return [one for one in twofold.load(*write(tmp_path)).convolutions() if isinstance(one, ConvLayer)]


def test_results_come_in_order_from_as_many_threads_as_blas_may_take(layers):
    meeting = threading.Barrier(2, timeout=20)

    def work(item: int) -> tuple[int, int]:
        meeting.wait()  # two are at work, or this fails
        return 10 * item, threads()

    with threadpool_limits(2, user_api="blas"):
        assert list(abreast(work, range(6), "working", layers)) == [(10 * item, 1) for item in range(6)]
        assert threads() == 2


@pytest.mark.parametrize("room", ["one thread", "little memory", "weights alone"])
def test_one_at_a_time_where_there_is_no_room_for_two(layers, monkeypatch, room):
    if room == "little memory":
        monkeypatch.setattr(module, "free_memory", lambda: 1)
    with threadpool_limits(1 if room == "one thread" else 2, user_api="blas"):
        found = abreast(
            lambda _: threading.current_thread(), [1, 2], "working", () if room == "weights alone" else layers
        )
        assert set(found) == {threading.main_thread()}


def test_the_first_error_ends_it(layers):
    def work(item: int) -> int:
        if item == 1:
            raise ModelError("layer 1")
        return item

    with threadpool_limits(2, user_api="blas"), pytest.raises(ModelError, match="layer 1"):
        list(abreast(work, range(50), "working", layers))


def test_plans_and_factors_are_the_same_however_many_are_fitted_at_a_time(tmp_path):
    model = twofold.load(*write(tmp_path))
    data = np.random.default_rng(0).normal(size=(24, 16, 12, 12)).astype(np.float32)
    found = []
    for count in (1, 2):
        with threadpool_limits(count, user_api="blas"):
            found.append(twofold.decompose(model, macs=0.5, data=data, cache=False))
    one, two = found
    assert [(c.layer, c.scheme, c.ranks) for c in one.plan.choices] == [
        (c.layer, c.scheme, c.ranks) for c in two.plan.choices
    ]
    for name, stack in one.factors.items():
        for a, b in zip(stack.convs, two.factors[name].convs, strict=True):
            np.testing.assert_allclose(a.weight, b.weight, atol=1e-6)  # statistics are summed by threads, too
