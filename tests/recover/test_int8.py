"""Recovery of int8 forms: closer to the original than quantization after training, in ONNX Runtime."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from tests.processes import together
from tests.small import opencv, write
from tests.test_calibrated import samples

import twofold
from twofold.calibration.runners import runner_for
from twofold.calibration.source import CalibrationSource, calibration_inputs
from twofold.calibration.split import split
from twofold.cli import main
from twofold.errors import ModelError, OutputError
from twofold.formats.onnx.model import OnnxModel
from twofold.int8.quantize import quantize
from twofold.recover import RecoverOptions, recover

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")

QAT = RecoverOptions(steps=60, batch=8, rate=3e-3, qat=True)


@pytest.fixture
def pair(tmp_path):
    """A network and a decomposition of it."""
    original = twofold.load(*write(tmp_path))
    twofold.decompose(original, macs=0.5, multiple=4, no_data=True).save(tmp_path / "out")
    return original, twofold.load(tmp_path / "out" / "net.prototxt", tmp_path / "out" / "net.caffemodel")


def error(path, x, ref):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    out = session.run(None, {session.get_inputs()[0].name: x})[0]
    return np.linalg.norm(out - ref) / np.linalg.norm(ref - ref.mean())


def ranges(path):
    """Scale of every rounded value, and number of layers with int8 weights."""
    graph = onnx.load(path).graph
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    scales = {node.input[0]: arrays[node.input[1]] for node in graph.node if node.op_type == "QuantizeLinear"}
    return scales, sum(one.dtype == np.int8 and one.ndim == 4 for one in arrays.values())


def test_the_trained_int8_net_is_closer_than_the_quantized_one(pair, tmp_path):
    original, decomposed = pair
    source = CalibrationSource(data=samples(64, seed=3))
    found = recover(original, decomposed, source, QAT)
    assert isinstance(found.model, OnnxModel)
    (written, *_) = found.model.save_to(tmp_path / "qat", force=False, extra={}, check=lambda model: None)
    assert written == tmp_path / "qat" / "net_int8.onnx"
    quantize(decomposed, tmp_path / "ptq.onnx", source)
    x = samples(24, seed=11)
    files = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    ref = np.concatenate([opencv(*files, one[None])[0] for one in x])
    after, before = error(written, x, ref), error(tmp_path / "ptq.onnx", x, ref)
    # The runtime and other samples say the same as training did.
    assert after < 0.8 * before
    assert found.before == pytest.approx(before, rel=0.3)
    assert found.after == pytest.approx(after, rel=0.3)
    # The same places are rounded, with other ranges.
    (own, count), (theirs, same) = ranges(written), ranges(tmp_path / "ptq.onnx")
    assert own.keys() == theirs.keys()
    assert count == same == 5
    assert any(own[name] != theirs[name] for name in own)


def test_the_int8_form_of_the_original_can_be_trained(pair):
    original, _ = pair
    found = recover(original, original, CalibrationSource(data=samples(64, seed=3)), QAT)
    assert found.after < 0.8 * found.before


def test_onnx_models_and_modules_too(pair, tmp_path):
    original, decomposed = pair
    source = CalibrationSource(data=samples(64, seed=3))
    caffe = recover(original, decomposed, source, QAT)
    for name, model in (("a", original), ("b", decomposed)):
        twofold.export(model, tmp_path / f"{name}.onnx")
    found = recover(twofold.load(tmp_path / "a.onnx"), twofold.load(tmp_path / "b.onnx"), source, QAT)
    np.testing.assert_allclose(found.curve, caffe.curve, rtol=1e-4)
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(16, 24, 3), torch.nn.ReLU(), torch.nn.Conv2d(24, 8, 3), torch.nn.Flatten(),
        torch.nn.Linear(512, 10),
    )  # fmt: skip
    off = copy.deepcopy(module)  # as a decomposition leaves it
    with torch.no_grad():
        for weight in off.parameters():
            weight.add_(0.1 * weight.std() * torch.randn_like(weight))
    x = samples(64, seed=3)
    numbers = replace(QAT, classes=False)  # ten numbers, which name no classes
    found = recover(module, off, CalibrationSource(data=x), numbers)
    assert found.after < 0.8 * found.before
    found.model.save(tmp_path / "module.onnx")
    x = samples(24, seed=11)
    with torch.no_grad():
        ref = module(torch.from_numpy(x)).numpy()
    assert error(tmp_path / "module.onnx", x, ref) == pytest.approx(found.after, rel=0.3)


def breaking(monkeypatch, first: int) -> list[int]:
    """Let ranges be written wrongly from a call on that has them."""
    from twofold.recover import int8

    write_int8, calls = int8.write_int8, []

    def broken(plain, path, inputs, ranges=None):
        if ranges is not None:
            calls.append(len(ranges))
        wider = {name: (9 * scale, zero) for name, (scale, zero) in (ranges or {}).items()}
        write_int8(plain, path, inputs, wider if ranges and len(calls) >= first else ranges)

    monkeypatch.setattr(int8, "write_int8", broken)
    return calls


def test_what_runs_otherwise_than_it_would_be_trained_is_refused_before_training(pair, monkeypatch):
    original, decomposed = pair
    breaking(monkeypatch, 1)
    monkeypatch.setattr(import_module("twofold.recover.train"), "train", lambda *_: pytest.fail("trained"))
    with pytest.raises(
        ModelError, match=r"otherwise than training: .* has scale .*; recover without qat=True"
    ):
        recover(original, decomposed, CalibrationSource(data=samples(32)), RecoverOptions(steps=1, qat=True))


def test_the_command_names_its_own_option(pair, monkeypatch, tmp_path, capsys):
    breaking(monkeypatch, 1)
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", samples(20))
    argv = ["recover", "net.prototxt", "net.caffemodel", "out", "-o", "int8", "--data", "x.npy", "--qat"]
    assert main(argv) == 1
    assert "recover without --qat, and quantize what comes out" in " ".join(capsys.readouterr().err.split())
    assert not Path("int8").exists()


def test_what_was_trained_is_kept_and_told_when_it_runs_otherwise(pair, monkeypatch, tmp_path):
    """The error told beside it is that of the model in the runtime."""
    original, decomposed = pair
    calls = breaking(monkeypatch, 2)
    source = CalibrationSource(data=samples(32))
    found = recover(original, decomposed, source, RecoverOptions(steps=1, qat=True))
    assert len(calls) == 2
    assert "ONNX Runtime computes the int8 model otherwise than training: value " in str(found)
    found.model.save(tmp_path / "kept.onnx")
    validation = split(calibration_inputs(runner_for(original), source)).holdout
    files = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    ref = np.concatenate([opencv(*files, one[None])[0] for one in validation.arrays["data"]])
    (told,) = re.findall(r"in ONNX Runtime the error of the int8 model is ([0-9.]+)", str(found))
    assert float(told) == pytest.approx(
        error(tmp_path / "kept.onnx", validation.arrays["data"], ref), rel=1e-3
    )
    assert float(told) > 1.02 * found.after


def test_from_the_command_line(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", samples(20))
    argv = ["recover", "net.prototxt", "net.caffemodel", "out", "-o", "int8", "--data", "x.npy", "--qat"]
    assert main([*argv, "--steps", "5"]) == 0
    assert "in ONNX Runtime the error of the int8 model is" in capsys.readouterr().out
    written = {path.name for path in Path("int8").iterdir()}
    assert written == {"net_int8.onnx", "report.html", "report.json"}
    assert main([*argv, "--steps", "5"]) == 1
    assert "exists already" in capsys.readouterr().err


def test_two_processes_are_one_with_the_whole_batch(pair, tmp_path):
    original, decomposed = pair
    np.save(tmp_path / "x.npy", samples(21, seed=3))
    done = together(
        tmp_path, "recover", "net.prototxt", "net.caffemodel", "out", "-o", "two", "--data", "x.npy",
        "--device", "cpu", "--steps", "6", "--batch", "4", "--rate", "0.001", "--qat", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    options = RecoverOptions(steps=6, batch=4, rate=0.001, device="cpu", qat=True)
    alone = recover(original, decomposed, CalibrationSource(data=tmp_path / "x.npy"), options)
    # A rounding that falls to the other side is no longer small.
    np.testing.assert_allclose(json.loads(done.stdout)["curve"], alone.curve, rtol=0.02)
    with pytest.raises(OutputError):
        alone.model.save_to(tmp_path / "two", force=False, extra={}, check=lambda model: None)
