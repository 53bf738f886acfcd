"""Values inside the net that are learned beside its outputs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.formats.onnx import small
from tests.recover.test_onnx import net, smaller_of
from tests.small import write
from tests.test_calibrated import samples

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import twofold  # noqa: E402
from twofold.calibration.inputs import from_arrays  # noqa: E402
from twofold.calibration.measure import OutputErrorMetric  # noqa: E402
from twofold.calibration.runners import runner_for  # noqa: E402
from twofold.cli import main  # noqa: E402
from twofold.distributed import joined  # noqa: E402
from twofold.errors import ModelError, OptionError  # noqa: E402
from twofold.recover import RecoverOptions, recover  # noqa: E402
from twofold.recover.caffe import CaffeStudent  # noqa: E402
from twofold.recover.loss import Loss, tempered  # noqa: E402
from twofold.recover.train import TeacherData  # noqa: E402


def caffe(folder):
    original = twofold.load(*write(folder))
    return original, twofold.decompose(original, macs=0.3, multiple=4, no_data=True).model, "one"


def of_onnx(folder):
    original = twofold.load(small.write(folder / "net.onnx", net()))
    return original, smaller_of(original).model, "c"


def error_of(value, original, model):
    """Relative error of a value inside, on inputs that no run has seen."""
    wanted, found = (runner_for(one, (value,)) for one in (original, model))
    measure = OutputErrorMetric()
    for batch in from_arrays(samples(40, seed=11), wanted.inputs).batched(8):
        measure.add("", wanted.run(batch), found.run(batch))
    return measure.error("")


@pytest.mark.parametrize("make", [caffe, of_onnx])
def test_a_hint_is_learned_and_only_outputs_are_measured(make, tmp_path):
    original, smaller, hint = make(tmp_path)
    options = {"steps": 60, "rate": 1e-2, "batch": 8}
    plain, hinted = (
        recover(original, smaller, data=samples(64, seed=3), options=RecoverOptions(**options, hints=hints))
        for hints in ((), (hint,))
    )
    assert hinted.before == plain.before
    assert hinted.after < 0.9 * hinted.before
    errors = [error_of(hint, original, one) for one in (plain.model, hinted.model)]
    assert errors[1] < 0.85 * errors[0]
    outputs = runner_for(original).outputs  # what is an output is no hint
    few = {**options, "steps": 2}
    told, untold = (
        recover(original, smaller, data=samples(16, seed=3), options=RecoverOptions(**few, hints=hints))
        for hints in (outputs, ())
    )
    assert told.curve == untold.curve


@pytest.mark.parametrize(("output", "hint"), [("one", "out"), ("out", "one")])
def test_a_hint_counts_as_much_as_an_output_at_the_start_or_less(output, hint, tmp_path):
    original, smaller, _ = caffe(tmp_path)
    teacher = runner_for(original, (output, hint))
    inputs = from_arrays(samples(20, seed=5), teacher.inputs).batched(20)
    with joined("cpu") as world:
        teacher_data = TeacherData(teacher, inputs, world, [hint])
    student = CaffeStudent(original, smaller, teacher.outputs, torch.device("cpu"))
    loss = Loss(student, teacher_data.spreads)
    (batch,) = inputs
    answer = teacher.run(batch)
    with torch.no_grad():
        errors, _ = loss.parts(batch, answer, [])
        loss.scales = teacher_data.scales(loss, None)
        total = float(loss(batch, answer))
    usual = {name: float(error.median()) for name, error in errors.items()}
    assert usual["one"] < 0.5 * usual["out"]
    weight = min(1.0, usual[output] / usual[hint])
    assert loss.scales.hints == pytest.approx({hint: weight}, rel=1e-3)
    parts = {name: float(tempered(errors[name], usual[name])) for name in (output, hint)}
    assert total == pytest.approx(parts[output] + weight * parts[hint], rel=1e-3)


def test_no_more_than_a_batch_is_computed_with_at_once(tmp_path, monkeypatch):
    """Hints of thousands of samples fill the memory already as they are."""
    original, _, hint = caffe(tmp_path)
    teacher = runner_for(original, ("out", hint))
    rows = []
    add = OutputErrorMetric.add
    monkeypatch.setattr(
        OutputErrorMetric, "add", lambda self, key, a, b: rows.append(len(a["out"])) or add(self, key, a, b)
    )
    with joined("cpu") as world:
        TeacherData(teacher, from_arrays(samples(20), teacher.inputs).batched(8), world, [hint])
    assert rows == [8, 8, 4]


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, smaller, hint = caffe(tmp_path)
    smaller.save("out/net.prototxt", "out/net.caffemodel")
    np.save("x.npy", samples(20))
    argv = [
        "recover",
        "net.prototxt",
        "net.caffemodel",
        "out",
        "-o",
        "new",
        "--data",
        "x.npy",
        "--steps",
        "8",
    ]
    assert main([*argv, "--hint", "nowhere"]) == 1
    told = capsys.readouterr().err
    assert "--hint" in told
    assert "'nowhere'" in told
    assert not (tmp_path / "new").exists()
    assert main([*argv, "--hint", hint, "--hint", "two", "--bf16", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["after"] < told["before"]


def test_what_is_refused(tmp_path):
    original, smaller, hint = caffe(tmp_path)
    for more in ({"hints": (hint,)}, {"bf16": True}):
        with pytest.raises(OptionError, match="leave one of them out"):
            RecoverOptions(qat=True, **more)
    module = nn.Sequential(nn.Conv2d(16, 64, 3), nn.ReLU(), nn.Conv2d(64, 8, 3)).eval()
    x = torch.from_numpy(samples(4))
    less = twofold.decompose(module, ranks={"2": 8}, example_inputs=x, no_data=True)
    with pytest.raises(OptionError, match="hints are for Caffe and ONNX"):
        recover(module, less, data=samples(8), options=RecoverOptions(hints=("0",)))
    renamed = tmp_path / "renamed"
    files = renamed / "net.prototxt", renamed / "net.caffemodel"
    smaller.save(*files)
    text = files[0].read_text()
    for end in ("top", "bottom"):
        text = text.replace(f'{end}: "one"', f'{end}: "1"')
    files[0].write_text(text)
    other = twofold.load(*files)
    with pytest.raises(ModelError, match="no blob 'one'"):
        recover(original, other, data=samples(8), options=RecoverOptions(hints=(hint,)))
