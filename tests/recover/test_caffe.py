"""The original teaches the decomposed network."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from tests.small import NET, opencv, random_blobs, write
from tests.test_calibrated import samples

import twofold
from twofold.calibration.runners import runner_for
from twofold.calibration.source import CalibrationSource, calibration_inputs
from twofold.calibration.split import split
from twofold.cli import main
from twofold.errors import InputError, ModelError, OptionError
from twofold.planning import Plan
from twofold.recover import RecoverOptions, recover
from twofold.report import Report

pytest.importorskip("torch")


@pytest.fixture
def pair(tmp_path):
    """A network and a coarse decomposition of it."""
    original = twofold.load(*write(tmp_path))
    result = twofold.decompose(original, macs=0.3, multiple=4, no_data=True)
    result.save(tmp_path / "out")
    names = (tmp_path / "out" / "net.prototxt", tmp_path / "out" / "net.caffemodel")
    return original, twofold.load(*names)


def test_the_error_falls_and_only_the_factors_change(pair, tmp_path):
    original, decomposed = pair
    options = RecoverOptions(steps=60, rate=1e-2, batch=8)
    found = recover(original, decomposed, CalibrationSource(data=samples(64, seed=3)), options)
    assert found.after < 0.8 * found.before
    assert found.curve[0] == (0, found.before)
    files = tmp_path / "new.prototxt", tmp_path / "new.caffemodel"
    found.model.save(*files)
    x = samples(6, seed=11)
    before_files = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    errors = []
    for of in ((tmp_path / "out" / "net.prototxt", tmp_path / "out" / "net.caffemodel"), files):
        out = np.stack([opencv(*of, one[None])[0] for one in x])
        ref = np.stack([opencv(*before_files, one[None])[0] for one in x])
        errors.append(np.linalg.norm(out - ref) / np.linalg.norm(ref - ref.mean()))
    assert errors[1] < 0.85 * errors[0]
    before, after = (
        {layer.name: [b.array() for b in layer.blobs] for layer in one.weights.layers}
        for one in (decomposed, twofold.load(*files))
    )
    assert before.keys() == after.keys()
    for name, blobs in before.items():
        same = all(np.array_equal(a, b) for a, b in zip(blobs, after[name], strict=True))
        assert same == (name in ("out", "one", "two")), name


def test_the_same_seed_gives_the_same_bits(pair):
    few = RecoverOptions(steps=6, rate=1e-2, batch=8)
    first, again = (recover(*pair, CalibrationSource(data=samples(24, seed=3)), few) for _ in range(2))
    assert again.curve == first.curve
    assert again.losses == first.losses


def test_what_does_not_help_is_not_kept(pair):
    original, decomposed = pair
    wild = RecoverOptions(steps=8, rate=10.0, batch=4)
    found = recover(original, decomposed, CalibrationSource(data=samples(16)), wild)
    assert found.after == found.before
    layers = {layer.name: layer for layer in decomposed.weights.layers}
    for layer in found.model.weights.layers:
        for a, b in zip(layer.blobs, layers[layer.name].blobs, strict=True):
            np.testing.assert_array_equal(a.array(), b.array())


def test_a_rate_is_chosen_that_helps(pair, monkeypatch):
    original, decomposed = pair
    source = CalibrationSource(data=samples(64, seed=3))
    # The first two ruin the net.
    training = import_module("twofold.recover.train")  # a function of the package is called recover, too
    monkeypatch.setattr(training, "RATES", (10.0, 1.0, 1e-2, 1e-5))
    found = recover(original, decomposed, source, RecoverOptions(steps=40, batch=8))
    named = recover(original, decomposed, source, RecoverOptions(steps=40, batch=8, rate=1e-2))
    assert found.curve == named.curve
    assert found.after < 0.9 * found.before


@pytest.mark.parametrize(
    ("after", "chosen"),
    [
        ({1.0: 0.9, 0.1: 0.3, 0.01: 0.1, 0.001: 0.2}, 0.01),  # the first that helps is not the best
        ({1.0: 0.9, 0.1: 0.3, 0.01: 0.4, 0.001: 0.1}, 0.1),  # what follows a worse one is not tried
        ({1.0: 0.5, 0.1: 0.3, 0.01: 0.3, 0.001: 0.1}, 0.1),
        (
            {1.0: 0.9, 0.1: 0.6, 0.01: 0.5, 0.001: 0.5},
            0.001,
        ),  # none helps: the smallest harms least
    ],
)
def test_the_rate_that_helps_most_is_chosen(after, chosen, monkeypatch):
    training = import_module("twofold.recover.train")
    monkeypatch.setattr(training, "RATES", tuple(after))
    weight = training.torch.zeros(1)

    class Student:
        def parameters(self):
            return [weight]

    tried = []

    def run(rate, steps, checks):
        assert float(weight) == 0  # each begins where the first began
        tried.append(rate)
        weight.fill_(rate)
        return training.TrainingHistory(((0, 0.5), (steps, after[rate])), ())

    assert training._rate_that_helps_most(run, Student(), 160) == chosen
    assert float(weight) == 0
    assert len(tried) == {0.01: 4, 0.1: 3, 0.001: 4}[chosen]


def test_synthetic_images_teach_beside_the_users(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = NET.replace("dim: 16", "dim: 3")
    original = twofold.load(*write(tmp_path, text, random_blobs(text)))
    twofold.decompose(original, macs=0.4, multiple=4, no_data=True).save("out")
    np.save("x.npy", samples(24)[:, :3])
    argv = ["recover", "net.prototxt", "net.caffemodel", "out", "--data", "x.npy", "--steps", "4", "--json"]
    assert main([*argv, "-o", "plain"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main([*argv, "-o", "more", "--synthetic", "30"]) == 0
    more = json.loads(capsys.readouterr().out)
    assert more["samples"] == plain["samples"] + 30
    assert more["before"] == plain["before"]  # the validation is the user's own
    assert more["after"] != plain["after"]
    assert any("30 synthetic images teach beside yours" in note for note in more["notes"])


def test_what_is_refused(pair, tmp_path):
    original, decomposed = pair
    with pytest.raises(ModelError, match="nothing to train"):
        recover(original, original, CalibrationSource(data=samples(4)))
    with pytest.raises(InputError, match="at least 2 inputs"):
        recover(original, decomposed, CalibrationSource(data=samples(1)))
    with pytest.raises(OptionError):
        RecoverOptions(steps=-1)
    with pytest.raises(OptionError):
        RecoverOptions(batch=0)
    with pytest.raises(OptionError):
        RecoverOptions(rate=float("nan"))
    other = tmp_path / "other"
    other.mkdir()
    text = NET.replace('"out"', '"score"')
    with pytest.raises(ModelError, match="no blob 'out'"):
        recover(original, twofold.load(*write(other, text, random_blobs(text))))


def test_from_the_command_line(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", samples(20))
    argv = ["recover", "net.prototxt", "net.caffemodel", "out", "-o", "better", "--data", "x.npy"]
    assert main([*argv, "--steps", "10"]) == 0
    assert "before" in capsys.readouterr().out
    names = ["net.caffemodel", "net.prototxt"]
    reports = ["report.html", "report.json"]
    assert sorted(path.name for path in Path("better").iterdir()) == [*names, *reports]
    assert main([*argv, "--steps", "10"]) == 1
    assert "exists already" in capsys.readouterr().err
    argv[5] = "plain"
    assert main([*argv, "--steps", "1", "--no-report"]) == 0
    assert sorted(path.name for path in Path("plain").iterdir()) == names


def test_the_report_shows_the_course_and_the_layers_of_the_plan(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", samples(20))
    argv = ["recover", "net.prototxt", "net.caffemodel", "out", "-o", "better", "--data", "x.npy"]
    assert main([*argv, "--steps", "10", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"better/report.json", "better/report.html"} <= set(told["files"])
    report = Report.load("better")
    assert report.recovered.errors == (told["before"], told["after"])
    assert report.training.losses == tuple(map(tuple, told["losses"]))
    assert [step for step, _ in report.training.losses] == list(range(1, 11))
    (holdout,) = report.training.tests.values()
    assert holdout == tuple(map(tuple, told["curve"]))
    assert report.plan == Plan.load("out/plan.json")
    page = Path("better/report.html").read_text()
    assert page.count('<svg class="graph"') >= 1
    assert page.count('<svg class="chart"') == 4  # for wide screens and narrow ones
    for choice in report.plan.choices:
        assert choice.label in page
    Path("better/report.html").unlink()
    assert main(["report", "better"]) == 0
    assert Path("better/report.html").read_text() == page


@pytest.mark.parametrize("damage", ["{}", None])
def test_a_plan_of_another_model_is_not_shown(pair, tmp_path, monkeypatch, capsys, damage):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", samples(20))
    plan = json.loads(Path("out/plan.json").read_text())
    plan["sources"]["net.caffemodel"] = "00"
    Path("out/plan.json").write_text(damage or json.dumps(plan))
    argv = ["recover", "net.prototxt", "net.caffemodel", "out", "-o", "better", "--data", "x.npy"]
    assert main([*argv, "--steps", "2"]) == 0
    assert "note: the report does not show the layers: " in capsys.readouterr().err
    assert Report.load("better").plan is None


def test_the_loss_is_that_of_the_steps_before(pair):
    """With all samples in every batch and a rate that moves nothing, every loss is the same known number."""
    original, decomposed = pair
    found = recover(
        original,
        decomposed,
        CalibrationSource(data=samples(16)),
        RecoverOptions(steps=300, rate=1e-12, batch=14),
    )
    assert [step for step, _ in found.losses] == list(range(3, 301, 3))
    assert found.samples == 14
    teacher, student = (runner_for(one) for one in (original, decomposed))
    inputs = calibration_inputs(teacher, CalibrationSource(data=samples(16)))
    parts = split(inputs.batched(14))
    (batch,), (validation,) = list(parts.fitted), list(parts.holdout)
    answers = {name: wanted.astype(float) for name, wanted in teacher.run(batch).items()}

    def varies(wanted):
        return wanted.reshape(len(wanted), -1).var(axis=1)

    def errors(inputs, name):
        wanted = teacher.run(inputs)[name].astype(float)
        error = student.run(inputs)[name] - wanted
        total = answers[name].var()
        size = total * (varies(wanted) + 0.1 * total) / (varies(answers[name]).mean() + 0.1 * total)
        return (error**2).reshape(len(error), -1).mean(axis=1) / size

    terms = []
    for name in answers:
        usual = errors(validation, name).min()  # of two held-out samples the lower one stands in the middle
        terms.append((2 * usual * (np.sqrt(1 + errors(batch, name) / usual) - 1)).mean())
    losses = [loss for _, loss in found.losses]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-3)
    assert losses[0] == pytest.approx(np.mean(terms), rel=1e-3)
