"""Decomposing with inputs, end to end: through the public calls and the command line."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from tests.small import HEAD, NET, TRAIN_VAL, conv, opencv, random_blobs, write

import twofold
from twofold.caffe_torch import to_torch
from twofold.calibration.gather import CalibrationOptions
from twofold.calibration.source import CalibrationSource
from twofold.cli import main
from twofold.decomposition.calibrate import Calibration, activations
from twofold.decomposition.decompose import calibrate
from twofold.decomposition.pipeline import run
from twofold.decomposition.sensitivity import measure_sensitivity
from twofold.errors import InputError, OptionError, PlanError
from twofold.planning import Budget, Plan, PlanOptions

pytest.importorskip("torch")

#: For what is not about schemes: the default is tried by `test_data_beat_weights_at_the_same_cost`.
SPATIAL = ["--scheme", "spatial"]
COLOUR = NET.replace("dim: 16", "dim: 3").replace("dim: 12 dim: 12", "dim: 20 dim: 20")


def samples(count=24, seed=0):
    """Inputs whose channels and neighbours correlate, as those of real layers do."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(16, 16)) * 0.6 ** np.arange(16)
    white = ndimage.gaussian_filter(rng.normal(size=(count, 16, 12, 12)), (0, 0, 1.0, 1.0))
    return np.einsum("cd,ndhw->nchw", mixing, white).astype(np.float32) + 0.2


def output_error(files, result, x, folder):
    """Relative error of the written network's output, in OpenCV, on inputs that were not used."""
    paths = result.save(folder)
    out, ref = (np.stack([opencv(*of, one[None])[0] for one in x]) for of in (paths[:2], files))
    return np.linalg.norm(out - ref) / np.linalg.norm(ref - ref.mean())


@pytest.fixture
def files(tmp_path):
    return write(tmp_path)


def test_data_beat_weights_at_the_same_cost(files, tmp_path):
    model, holdout = twofold.load(*files), samples(8, seed=5)
    errors = {}
    for name, options in {"weights": {"no_data": True}, "data": {"data": samples()}}.items():
        result = twofold.decompose(model, macs=0.35, multiple=4, **options)
        assert result.plan.totals.macs_ratio <= 0.35
        errors[name] = output_error(files, result, holdout, tmp_path / name)
    assert errors["data"] < 0.5 * errors["weights"]
    assert result.plan.measured_error == pytest.approx(errors["data"], rel=0.5)
    assert result.plan.predicted_error == pytest.approx(result.plan.measured_error, rel=0.5)


def test_a_net_that_lost_its_outputs_is_not_handed_over_in_silence(files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("data.npy", np.random.default_rng(3).normal(size=(25, 16, 12, 12)).astype(np.float32))
    argv = ["decompose", *files, "--data", "data.npy", "--scheme", "spatial"]
    assert main([*argv, "-o", "lost", "--rank", "*=1"]) == 0
    error = Plan.load("lost/plan.json").measured_error
    assert error > 0.3
    word = "lost" if error >= 1 else "far from the original's"
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 1
    assert re.search(rf"the outputs are {word}.* {error:.2f} of what they vary.*larger budget", lines[0])
    assert lines[0].removeprefix("warning: ") in Plan.load("lost/plan.json").notes
    assert lines[0].removeprefix("warning: ") in html.unescape(Path("lost/report.html").read_text())
    # Small errors, those of a limit that the user set, and those in units of his own are no reason.
    good = [["--macs", "0.6"], ["--error", "0.9"], ["--rank", "*=1", "--metric", "measure:metric"]]
    Path("measure.py").write_text("def metric(outputs):\n    return 9 * float(outputs['out'].std())\n")
    for i, given in enumerate(good):
        assert main([*argv, *given, "-o", f"good{i}", "--multiple", "4"]) == 0
        assert "warning: " not in capsys.readouterr().err
        assert (Plan.load(f"good{i}/plan.json").measured_error > 0.3) == (i > 0)


@pytest.mark.parametrize(
    ("count", "said"),
    [(1, "on 1 input that factors were fitted to, too"), (15, "on 15 inputs that factors were fitted to"),
     (24, "on 3 inputs alone"), (25, None)],
)  # fmt: skip
def test_an_error_that_few_inputs_tell_is_no_certain_one(files, count, said):
    result = twofold.decompose(
        twofold.load(*files), macs=0.5, data=samples(count), schemes="spatial", refine=0
    )
    found = [one for one in result.warnings if "was measured on" in one]
    assert len(found) == (said is not None)
    if said is not None:
        assert said in found[0]
        assert found[0].endswith("give 25 inputs or more")
        assert found[0] in result.plan.notes


def test_an_error_that_differs_much_from_input_to_input_has_an_interval(files, tmp_path):
    """A few inputs are noise, which no low rank keeps: how many of them are held out is chance."""
    rng = np.random.default_rng(11)
    x, odd = samples(100, seed=11), rng.random(100) < 0.15
    x[odd] = rng.normal(size=x[odd].shape)
    result = twofold.decompose(twofold.load(*files), macs=0.5, data=x[:50], refine=0)
    (warning,) = (one for one in result.warnings if "was measured on 7 inputs that differ in it" in one)
    low, high, more = map(float, re.search(r"show (\S+) to (\S+); give (\d+) times", warning).groups())
    assert low < output_error(files, result, x[50:], tmp_path / "out") < high
    assert low * high == pytest.approx(result.plan.measured_error**2, rel=0.02)
    assert 1.5 ** (2 * more**0.5) > high / low > 1.5**2  # so many inputs make it certain


@pytest.mark.parametrize("budget", [{"macs": 0.5}, {"error": 0.2}])
def test_held_out_inputs_that_are_easier_than_others_do_not_tell_the_error(files, tmp_path, budget):
    """Every eighth is smooth, and they are what is held out: no rank loses much of them."""
    x = np.random.default_rng(1).normal(size=(80, 16, 12, 12)).astype(np.float32)
    x[4:40:8] = samples(5)
    result = twofold.decompose(twofold.load(*files), data=x[:40], refine=0, **budget)
    measured = result.plan.calibration["measured"]
    assert (measured["count"], measured["held_out"]) == (24, False)
    (warning,) = (one for one in result.warnings if "measured on 24 inputs, since the 5 that" in one)
    held_out = float(re.search(r"show only (\S+) and", warning)[1])
    true = output_error(files, result, x[40:], tmp_path / "out")
    assert held_out < true / 1.5
    low, high = map(float, re.search(r"may show (\S+) to (\S+);", warning).groups())
    assert low < true < high
    assert result.plan.measured_error == pytest.approx(true, rel=0.35)
    assert "measured on 24 inputs that factors were fitted to, too: " in str(result.plan)
    broken = [
        one for one in result.warnings if "that was asked for holds on the held-out inputs alone" in one
    ]
    assert len(broken) == ("error" in budget)


def test_batches_are_as_small_as_what_layers_give_is_large(files, monkeypatch):
    """A net of sounds has small inputs, and 83 million values inside: four of them took 10 GB."""
    layers = twofold.load(*files).convolutions()
    values = 144 * (16 + 64 + 64 + 64 + 64 + 5)  # in and out of three convolutions on 12 x 12
    assert activations(layers) == values
    for room, batch in ((1, 1), (3.5 * values, 3), (1e9, 16)):
        monkeypatch.setattr("twofold.decomposition.calibrate._ACTIVATIONS", int(room))
        used = calibrate(twofold.load(*files), CalibrationSource(data=samples(20)))
        assert used.inputs.batch == batch


def test_without_inputs_images_are_synthetic_and_it_is_said(files):
    result = twofold.decompose(twofold.load(*files), macs=0.5)
    assert result.plan.calibration["inputs"]["source_type"] == "synthetic"
    assert any("that are synthetic: yours may show half or twice" in one for one in result.warnings)
    assert any("synthetic" in note and "(assumed)" in note for note in result.plan.notes)
    assert re.search(r"output, measured on \d+ inputs that no factor was fitted to: 0\.\d+", str(result.plan))


def test_weights_only_where_no_image_can_be_synthesized(tmp_path):
    text = HEAD.replace("dim: 16", "dim: 40") + conv("one", "data")
    result = twofold.decompose(twofold.load(*write(tmp_path, text)), macs=0.5)
    assert result.plan.calibration is None
    assert any(
        note.startswith("weights only, since no calibration is possible") for note in result.plan.notes
    )
    with pytest.raises(InputError, match="shape"):
        twofold.decompose(twofold.load(*write(tmp_path, text)), macs=0.5, data=samples())


@pytest.mark.parametrize("asked", [["--synthetic", "8"], ["--range=-1:1"], ["--targets", "one"]])
def test_synthetic_images_that_are_asked_for_are_made_or_it_fails(tmp_path, capsys, asked):
    text = HEAD.replace("dim: 16", "dim: 40") + conv("one", "data")  # 40 channels: no image
    files = write(tmp_path, text)
    argv = ["decompose", *files, "--macs", "0.5", "-o", str(tmp_path / "out"), *asked]
    assert main(argv) == 1
    assert "takes (N, 40, 12, 12)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*argv, "--no-data"]) == 1
    assert "no_data: contradicts" in capsys.readouterr().err


@pytest.mark.parametrize("rule", ["amct", "evbmf"])
def test_rules_look_at_weights_alone_unless_inputs_are_given(files, rule):
    model = twofold.load(*files)
    assert twofold.decompose(model, rule=rule).plan.calibration is None
    assert twofold.decompose(model, rule=rule, data=samples()).plan.calibration is not None


def test_an_error_budget_is_kept_by_what_is_measured(files):
    model = twofold.load(*files)
    sizes = []
    for limit in (0.05, 0.2):
        plan = twofold.decompose(model, error=limit, data=samples(), multiple=4, schemes="spatial").plan
        assert plan.measured_error <= limit
        assert plan.options.budget.value == limit
        sizes.append(plan.totals.macs[1])
    assert sizes[1] < sizes[0] < plan.totals.macs[0]
    with pytest.raises(PlanError, match="needs measured sensitivities"):
        twofold.decompose(model, error=0.1, no_data=True)


def test_an_accuracy_budget_is_kept(files):
    model, x = twofold.load(*files), samples(40, seed=7)
    labels = to_torch(model)
    import torch

    with torch.no_grad():
        labels = labels(torch.from_numpy(x))["out"].mean(dim=(2, 3)).argmax(dim=1).numpy()

    def accuracy(predict):
        return float((predict({"data": x})["out"].mean(axis=(2, 3)).argmax(axis=1) == labels).mean())

    given = {"data": samples(), "multiple": 4, "schemes": "spatial"}
    plan = twofold.decompose(model, accuracy_drop=0.1, accuracy=accuracy, **given).plan
    assert 0 < plan.totals.macs_ratio < 0.7
    after = next(float(note.split()[-2]) for note in plan.notes if note.startswith("accuracy 1.0000 before"))
    assert 0.9 <= after <= 1
    with pytest.raises(OptionError, match="labelled images, or a function"):
        twofold.decompose(model, accuracy_drop=0.1, data=samples())
    with pytest.raises(PlanError, match="weights only"):
        twofold.decompose(model, accuracy_drop=0.1, no_data=True)


def test_a_metric_of_the_user_is_protected(files):
    """Only the first output channel counts, so the others may go wrong."""
    model = twofold.load(*files)
    calls = []

    def metric(outputs):
        calls.append(outputs["out"].shape)
        return float(np.sqrt((outputs["out"][:, 0] ** 2).mean()))

    plan = twofold.decompose(
        model, macs=0.4, data=samples(), metric=metric, multiple=4, schemes="spatial"
    ).plan
    assert plan.measured_error is not None
    assert calls
    assert all(shape[1:] == (5, 12, 12) for shape in calls)


def test_statistics_are_kept_for_the_next_plan(files, tmp_path, monkeypatch):
    model, kept = twofold.load(*files), tmp_path / "seen.npz"
    given = {"macs": 0.4, "schemes": "spatial", "statistics": kept}
    first = twofold.decompose(model, data=samples(), **given)
    monkeypatch.setattr("twofold.decomposition.calibrate.gather", lambda *_: pytest.fail("gathered again"))
    second = twofold.decompose(model, data=samples(), **given)
    assert replace(second.plan, notes=()) == replace(first.plan, notes=())
    assert any("were read from" in note for note in second.plan.notes)
    with pytest.raises(InputError, match="from other inputs"):
        twofold.decompose(model, macs=0.4, data=samples(seed=1), statistics=kept)
    other = tmp_path / "other"
    other.mkdir()
    blobs = random_blobs(NET, seed=1)
    with pytest.raises(InputError, match="for another model"):
        twofold.decompose(twofold.load(*write(other, NET, blobs)), data=samples(), statistics=kept)


def test_factors_are_refined_unless_told_otherwise(files):
    model = twofold.load(*files)
    closed, refined = (
        twofold.decompose(model, macs=0.4, data=samples(), schemes="spatial", multiple=4, **given)
        for given in ({"refine": 0}, {})
    )
    assert closed.plan.totals.macs == refined.plan.totals.macs
    assert refined.plan.measured_error < 0.95 * closed.plan.measured_error


def test_a_memory_limit_costs_passes_and_not_the_result(files):
    model = twofold.load(*files)
    one, two = (
        twofold.decompose(
            model,
            macs=0.4,
            data=samples(),
            calibration=CalibrationOptions(memory=memory),
            multiple=4,
            schemes="spatial",
            refine=0,  # alternations need the covariance as a whole
        )
        for memory in (1, None)
    )
    assert any("over the memory limit" in note for note in one.plan.notes)
    assert one.plan.measured_error == pytest.approx(two.plan.measured_error, rel=0.1)


def test_a_fitted_plan_takes_its_factors_from_the_model_beside_it(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", samples())
    assert main(["decompose", *files, "-o", "out", "--macs", "0.4", "--data", "x.npy", *SPATIAL]) == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    Path("train_val.prototxt").write_text(TRAIN_VAL)
    assert main(["apply", "out/plan.json", "train_val.prototxt", files[1], "-o", "out"]) == 0
    after = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert after.pop("train_val.prototxt")
    assert after == before
    capsys.readouterr()
    Path("elsewhere").mkdir()
    Path("elsewhere/plan.json").write_bytes(before["plan.json"])
    assert main(["apply", "elsewhere/plan.json", *files, "-o", "new"]) == 1
    assert "keep the plan where it was written" in capsys.readouterr().err
    edited = json.loads(before["plan.json"])
    edited["choices"][0]["ranks"] = [17]
    Path("out/plan.json").write_text(json.dumps(edited))
    assert main(["apply", "out/plan.json", *files, "-o", "new"]) == 1
    assert "were edited" in capsys.readouterr().err
    assert not Path("new").exists()


def images(folder, count=6):
    Image = pytest.importorskip("PIL.Image")
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        noise = ndimage.gaussian_filter(rng.normal(size=(40, 50, 3)), (2, 2, 0))
        Image.fromarray(np.uint8(np.clip(128 + 300 * noise, 0, 255))).save(folder / f"{index}.png")
    (folder / "bad.png").write_bytes(b"no image")


def test_a_folder_of_images_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files = write(tmp_path, COLOUR)
    images(tmp_path / "photos")
    options = [*SPATIAL, "--images", "photos", "--mean", "104,117,123", "--crops", "4", "--scale", "0.01"]
    assert main(["decompose", *files, "-o", "out", "--macs", "0.5", "--multiple", "4", *options]) == 0
    out, err = capsys.readouterr()
    assert "1 of 7 images were skipped" in err
    assert re.search(r"measured on \d+ inputs that", out)
    record = Plan.load("out/plan.json").calibration["inputs"]
    assert record["count"] == 6 * 4 - 2 * 4  # six images of four crops; two are held out, whole
    assert "synthetic" not in err
    assert record["skipped"][0][0].endswith("bad.png")
    more = ["--multiple", "4", "--synthetic", "10", *options]
    assert main(["decompose", *files, "-o", "more", "--macs", "0.5", *more]) == 0
    assert "10 synthetic images are looked at beside yours" in capsys.readouterr().err
    record = Plan.load("more/plan.json").calibration["inputs"]
    assert record["count"] == 4 * 4 + 10 - 5  # half of the ten stand beside those that are held out
    assert main(["compare", *files, "out", *options[len(SPATIAL) :]]) == 0
    text = capsys.readouterr().out
    assert "relative error" in text
    assert "time in PyTorch" in text


def test_layers_are_probed_with_synthetic_images_and_errors_measured_without(tmp_path, monkeypatch):
    probed = []

    def spy(runner, layers, factorizations, inputs, options, **named):
        probed.append(inputs.count)
        return measure_sensitivity(runner, layers, factorizations, inputs, options, **named)

    monkeypatch.setattr("twofold.decomposition.calibrate.measure_sensitivity", spy)
    model = twofold.load(*write(tmp_path, COLOUR))
    source = CalibrationSource(data=np.random.default_rng(0).random((24, 3, 20, 20), np.float32))
    for synthetic, more in ((None, 0), (10, 3)):
        options = replace(source, options=CalibrationOptions(synthetic=synthetic))
        prepared = Calibration.prepare(model, options)
        assert prepared.holdout.count == 3
        assert prepared.inputs.count == 21 + (synthetic or 0) - more
        run(model, PlanOptions(Budget("macs", 0.5), multiple=4, schemes=("spatial",)), prepared)
        assert probed.pop() == 3 + more


@pytest.mark.parametrize(
    ("argv", "pattern"),
    [
        (["--no-data", "--images", "photos"], "contradicts the inputs"),
        (["--images", "photos", "--data", "x.npy"], "give one of them"),
        (["--images", "nothing"], "no image of 1 or 3 channels"),
        (["--size", "big"], "--size: 'big' is no size"),
        (["--range", "1"], "--range: '1' is no range"),
        (["--synthetic", "-1"], "synthetic images are counted from 0, got -1"),
        (["--memory", "lots"], "'lots' is no amount"),
        (["--color", "cmyk"], "unknown color order 'cmyk'"),
        (["--targets", "nothing"], "no blob 'nothing'"),
        (["--accuracy-drop", "0.1", "--accuracy", "nothing:here"], "cannot find 'here'"),
        (["--metric", "math:pi"], "math:pi is no function"),
        (["--error", "0.1", "--macs", "0.5"], "--macs and --error"),
        (["--metric-of-mine"], "No such option"),
    ],
)
def test_what_is_refused_is_one_line(files, tmp_path, monkeypatch, capsys, argv, pattern):
    monkeypatch.chdir(tmp_path)
    assert main(["decompose", *files, "-o", "out", *argv]) in (1, 2)
    err = capsys.readouterr().err
    assert pattern in err
    assert "Traceback" not in err
    assert not Path("out").exists()


@pytest.mark.parametrize(("held", "runs"), [(1 << 20, 1), (0, 3)], ids=["held", "too large to hold"])
def test_the_original_runs_once_for_all_that_are_compared_with_it(tmp_path, monkeypatch, held, runs):
    monkeypatch.setattr("twofold.decomposition.calibrate._HELD", held)
    source = CalibrationSource(data=np.random.default_rng(0).random((24, 16, 12, 12), np.float32))
    prepared = Calibration.prepare(twofold.load(*write(tmp_path)), source)
    ran, run_it = [], prepared.runner.run

    def watched(batch, stacks=()):
        ran.append(len(stacks))
        return run_it(batch, stacks)

    monkeypatch.setattr(type(prepared.runner), "run", lambda _, batch, stacks=(): watched(batch, stacks))
    assert prepared.errors([(), (), ()]) == [0.0, 0.0, 0.0]
    assert len(ran) == (3 + runs) * len(prepared.holdout)
