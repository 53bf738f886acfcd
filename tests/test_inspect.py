"""`inspect` predicts what `decompose` can do, and why a layer stays."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from tests.small import HEAD, conv, write

import twofold
from twofold.backends import base
from twofold.inspect import Inspected, Inspection, inspect
from twofold.planning.options import PlanOptions

pytest.importorskip("torch")

#: 3x3, 1x1, 1x1 with few channels, depthwise.
TEXT = (
    HEAD
    + conv("wide", "data")
    + conv("point", "wide").replace("kernel_size: 3\n    pad: 1", "kernel_size: 1")
    + conv("depth", "point").replace("pad: 1", "pad: 1\n    group: 64")
    + conv("few", "depth").replace("kernel_size: 3\n    pad: 1", "kernel_size: 1").replace("64", "8")
)


@pytest.mark.parametrize("multiple", [16, 4])
@pytest.mark.parametrize("runs", [True, False])
def test_what_it_says_of_each_layer_is_what_becomes_of_it(tmp_path, monkeypatch, multiple, runs):
    if not runs:
        lacking = base.Part("missing:make_runner", "PyTorch", "torch")
        monkeypatch.setitem(base._backends, "caffe", replace(base._backends["caffe"], runner=lacking))
    model = twofold.load(*write(tmp_path, TEXT))
    found = inspect(model, multiple=multiple)
    reached = least(model, multiple, found.options.schemes)
    plan = twofold.decompose(model, macs=reached, multiple=multiple).plan
    assert {one.name: one.reason for one in found.layers if one.reason} == {
        one.name: one.reason for one in plan.skipped
    }
    assert found.options.schemes == plan.options.schemes
    for choice in plan.choices:
        (layer,) = [one for one in found.layers if one.name == choice.layer]
        assert choice.scheme in layer.schemes
    assert set(found.notes) <= set(plan.notes)
    assert bool(found.notes) == (not runs)


def least(model, multiple, schemes):
    """The smallest budget of MACs: it makes every layer that can be decomposed one that is."""
    ratio = 1e-6
    # What is rejected before it is known that the model cannot be run is rejected once more behind that.
    for _ in range(2):
        try:
            twofold.decompose(model, macs=ratio, multiple=multiple, schemes=schemes)
        except twofold.TwofoldError as rejection:
            ratio = float(re.search(r"lowest reachable ratio is (\d\.\d+)", str(rejection))[1])
    assert ratio > 1e-6
    return ratio


def test_the_1x1_stays_where_weights_decide(tmp_path):
    model = twofold.load(*write(tmp_path, TEXT))
    layers = {one.name: one for one in inspect(model, ("spatial",)).layers}
    assert layers["point"].reason == "the kernel is 1x1; both sides must be larger than 1"
    assert inspect(model).layers[1].schemes == ("channel",)


def test_shapes_alone_are_enough(tmp_path):
    path, _ = write(tmp_path, TEXT)
    (_, point, _, few) = inspect(twofold.load(path)).layers
    assert point.schemes == ("channel",)
    assert [cost.relative_error for cost in point.ranks] == [None] * 3
    assert few.reason == "no rank that is a multiple of 16 makes it cheaper"


def test_a_total_says_that_it_lacks_what_is_not_known():
    known, unknown = (
        Inspected(name, "8->8 1x1", macs, 64, "", (), None, ()) for name, macs in (("a", 2000), ("b", None))
    )
    totals = [
        str(Inspection(layers, PlanOptions())).splitlines()[len(layers) + 1].split()[-2:]
        for layers in ((known,), (known, unknown), (unknown,))
    ]
    assert totals == [["2.00k", "64"], ["?", "128"], ["?", "64"]]
    assert "2.00k + ?" in str(Inspection((known, unknown), PlanOptions()))
