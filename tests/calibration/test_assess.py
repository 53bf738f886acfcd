"""What a plan's error leaves open: how many samples tell it, and what the network's own outputs lose."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from tests.small import HEAD, conv, opencv, write

import twofold
from twofold.calibration.assess import assess
from twofold.calibration.inputs import from_arrays
from twofold.decomposition.calibrate import Calibration


class Runner:
    """Gives x and what it is made of; stacks change it by `shift`, (N, 1), of each sample."""

    outputs = ("scores", "other", "boxes", "classes", "far")

    def __init__(self, shift: np.ndarray) -> None:
        self.shift = shift

    def run(self, batch, stacks=()):
        x = batch["x"] + (self.shift[batch["x"][:, 0].astype(int)] if stacks else 0)
        boxes = np.resize(x, (1, 1, 2, 7))
        return {"scores": x[:, 1:], "other": x, "boxes": boxes, "classes": np.round(x), "far": 10 * x.T}


def inputs(count: int):
    values = np.random.default_rng(0).normal(size=(count, 9)).astype(np.float32)
    values[:, 0] = range(count)
    return from_arrays(values, {"x": (9,)})


@pytest.mark.parametrize("lost", [[0, 0, 3, 0], [1, 1, 1, 1], [1, 2, 1, 4], [0, 0, 0, 0]])
@pytest.mark.parametrize("batch", [1, 3, 4])
def test_how_much_the_error_differs_from_sample_to_sample(lost, batch):
    shift = np.array(lost, np.float32)[:, None] / 8
    found = assess(Runner(shift), ("scores", "other"), inputs(4).batched(batch), [object()])
    x = np.stack(inputs(4).arrays["x"]).astype(np.float64)
    logs = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for sample in range(4):  # each left out once
            ref, rest = np.delete(x, sample, 0), np.delete(shift, sample, 0)
            logs.append(np.log(np.mean(rest**2) * (1 / np.var(ref[:, 1:]) + 1 / np.var(ref))) / 2)
        true = np.sqrt(3 / 4 * np.sum((np.array(logs) - np.mean(logs)) ** 2))
    assert found.spread == pytest.approx({(0, 0, 3, 0): np.inf, (0,) * 4: 0.0}.get(tuple(lost), true))
    # 3.182 is Student's t of three degrees of freedom, 95 % of it on both sides.
    assert found.factor == pytest.approx(np.exp(min(3.1824463 * found.spread, 700.0)))
    whole = np.sqrt(np.mean(shift**2) * (1 / np.var(x[:, 1:]) + 1 / np.var(x)) / 2)
    assert found.error == pytest.approx(whole)
    # Boxes and classes have no relative error; the rest is measured over all values.
    assert list(found.network) == ["far"]
    x = np.stack(inputs(4).arrays["x"])
    far = [10 * x, 10 * (x + shift)]
    true = np.linalg.norm(far[1] - far[0]) / np.linalg.norm(far[0] - far[0].mean())
    assert found.network["far"] == pytest.approx(true, rel=1e-5)


def test_samples_that_are_alike_count_as_one():
    """Of six, two and three are alike: the spread is that of three samples, not of six."""
    shift = np.array([1, 1, 4, 4, 4, 2], np.float32)[:, None] / 8
    found = assess(Runner(shift), ("scores",), inputs(6).batched(4), [object()], (2, 3, 1))
    x = inputs(6).arrays["x"][:, 1:].astype(np.float64)
    logs = []
    for rows in ([0, 1], [2, 3, 4], [5]):
        rest = np.delete(np.broadcast_to(shift, x.shape), rows, 0)
        logs.append(np.log(np.mean(rest**2) / np.var(np.delete(x, rows, 0))) / 2)
    assert found.count == 6
    assert found.spread == pytest.approx(np.sqrt(2 / 3 * np.sum((np.array(logs) - np.mean(logs)) ** 2)))
    assert found.factor == pytest.approx(np.exp(4.3026527 * found.spread))  # two degrees of freedom


@pytest.mark.parametrize(
    ("groups", "factor", "says"),
    [
        ((1,) * 4, 1.52, "others may show 0.0300 to 0.1200"),  # few: twice at least
        ((1,) * 8, 1.52, "others may show 0.0395 to 0.0912"),
        ((1,) * 4, 1.4, None),
        ((8, 8), 1.0, "on 16 inputs of 2 kinds alone, so that others may show twice as much; give inputs of"),
        ((9,), 1.0, "on 9 inputs of one kind alone"),
        ((1, 1, 1), 1.0, "on 3 inputs alone, so that others may show twice as much; give 25 inputs or more"),
    ],
)
def test_few_and_alike_inputs_are_doubted(groups, factor, says):
    given = SimpleNamespace(provenance=SimpleNamespace(source_type="data"))
    holdout = SimpleNamespace(count=sum(groups))
    known = SimpleNamespace(inputs=given, has_holdout=True, groups=groups, holdout=holdout)
    assessed = SimpleNamespace(count=sum(groups), factor=factor, held_out=None)
    found = Calibration.doubt(known, 0.06, assessed)
    assert found is None if says is None else says in found


def test_the_error_behind_a_softmax_is_said_beside_the_one_before(tmp_path):
    """A sharp softmax makes much of what is little before it; OpenCV tells the same."""
    pytest.importorskip("torch")
    sharp = """layer { name: "sharp" type: "Power" bottom: "two" top: "sharp" power_param { scale: 8 } }
    layer { name: "prob" type: "Softmax" bottom: "sharp" top: "prob" }"""
    files = write(tmp_path, HEAD + conv("one", "data") + conv("two", "one") + sharp)
    rng = np.random.default_rng(1)
    result = twofold.decompose(
        twofold.load(*files), macs=0.5, data=rng.normal(size=(40, 16, 12, 12)).astype(np.float32), refine=0
    )
    (said,) = result.plan.calibration["measured"]["network"].items()
    assert said[0] == "prob"
    assert said[1] > 2 * result.plan.measured_error
    assert re.search(
        r"\nthat is of sharp; of what the network gives behind: 0\.\d+ of prob\n", str(result.plan)
    )
    assert sum("prob, which the network gives, is far from" in one for one in result.warnings) == 1
    paths, x = result.save(tmp_path / "out"), rng.normal(size=(5, 1, 16, 12, 12)).astype(np.float32)
    out, ref = (np.stack([opencv(*of, one)[0] for one in x]) for of in (paths[:2], files))
    assert np.linalg.norm(out - ref) / np.linalg.norm(ref - ref.mean()) == pytest.approx(said[1], rel=0.2)


def test_outputs_that_need_labels_are_named_and_stop_nothing(tmp_path):
    pytest.importorskip("torch")
    scored = """layer { name: "score" type: "InnerProduct" bottom: "two" top: "score"
      inner_product_param { num_output: 4 } }
    layer { name: "hit" type: "Accuracy" bottom: "score" bottom: "label" top: "hit" }"""
    labelled = HEAD.replace("layer {", 'input: "label" input_shape { dim: 1 }\nlayer {', 1)
    files = write(tmp_path, labelled + conv("one", "data") + conv("two", "one") + scored)
    x = np.random.default_rng(1).normal(size=(20, 16, 12, 12)).astype(np.float32)
    plan = twofold.decompose(twofold.load(*files), macs=0.5, data={"data": x}, refine=0).plan
    assert plan.measured_error is not None
    assert [one for one in plan.notes if one.startswith("errors of hit were not measured: ")]
