"""Int8 forms of models: what they give, what is said about them, and what is rejected."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from tests.small import opencv, write
from tests.test_calibrated import samples

import twofold
from twofold.calibration.source import CalibrationSource
from twofold.cli import main
from twofold.errors import InputError, OptionError, OutputError
from twofold.formats.onnx.model import OnnxModel
from twofold.int8.quantize import quantize

pytest.importorskip("torch")


@pytest.fixture
def files(tmp_path):
    return write(tmp_path)


def test_outputs_that_are_lost_are_said(files, tmp_path):
    x = samples(88)
    holdout = [round((index + 0.5) * 8 - 0.5) for index in range(11)]
    x[holdout] *= 50  # beyond the ranges of the others
    found = quantize(twofold.load(*files), tmp_path / "net_int8.onnx", CalibrationSource(data=x))
    assert found.samples == (77, 11)
    assert found.outputs["out"] > 0.5
    assert found.notes[0].startswith("out: the outputs are ")
    assert "qat" in str(found)


def weights_in_int8(path):
    """Names of operators whose weights are int8, with one scale per output channel."""
    graph = onnx.load(path).graph
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    makers = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    found = []
    for node in graph.node:
        if node.op_type == "Conv":
            weight, scale = (arrays[name] for name in makers[node.input[1]].input[:2])
            assert weight.dtype == np.int8
            assert scale.shape == (len(weight),)
            found.append(node.name)
    return found


def test_a_caffe_net_in_int8_gives_what_the_report_says(files, tmp_path):
    path = tmp_path / "out" / "net_int8.onnx"
    x = samples(88)
    found = quantize(twofold.load(*files), path, CalibrationSource(data=x[:64]))
    assert found.samples == (56, 8)
    assert list(found.layers) == ["one", "two", "out"]
    assert weights_in_int8(path) == ["one", "two", "out"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = x[64:]
    out = session.run(None, {"data": x})[0]
    ref = np.concatenate([opencv(*files, one[None])[0] for one in x])
    assert out.shape == ref.shape
    error = np.linalg.norm(out - ref) / np.linalg.norm(ref - ref.mean())
    # Other samples of the same kind, and OpenCV instead of ONNX Runtime: the error itself is alike.
    assert found.outputs["out"] == pytest.approx(error, rel=0.3)
    # 8 bits of about 3 standard deviations are 1/100 of them; a broken scale would give errors near 1.
    assert 0.001 < error < 0.05
    assert all(0.001 < one < 0.05 for one in found.layers.values())
    assert found.bytes[1] == path.stat().st_size < 0.5 * found.bytes[0]


def test_weights_are_rounded_to_what_layers_see(files, tmp_path, monkeypatch):
    model, source = twofold.load(*files), CalibrationSource(data=samples(88))
    found = quantize(model, tmp_path / "net_int8.onnx", source)
    monkeypatch.setattr("twofold.int8.weights.round_to_outputs", lambda *_: ("one by one",))
    before = quantize(model, tmp_path / "nearest_int8.onnx", source)
    assert before.notes[0] == "one by one"
    assert found.outputs["out"] < 0.95 * before.outputs["out"]


def test_an_onnx_net_gives_the_same(files, tmp_path):
    caffe = twofold.load(*files)
    twofold.export(caffe, tmp_path / "net.onnx")
    model = twofold.load(tmp_path / "net.onnx")
    assert isinstance(model, OnnxModel)
    paths = tmp_path / "a.onnx", tmp_path / "b.onnx"
    source = CalibrationSource(data=samples(64))
    results = [quantize(one, path, source) for one, path in zip((caffe, model), paths, strict=True)]
    assert results[0].layers == results[1].layers
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_decomposed_net_in_memory_can_be_quantized(files, tmp_path):
    result = twofold.decompose(twofold.load(*files), macs=0.5, multiple=4, no_data=True)
    found = quantize(result.model, tmp_path / "int8.onnx", CalibrationSource(data=samples(64)))
    assert [name for name in found.layers if name.startswith("two")] == list(result.model.replaced["two"])
    assert max(found.outputs.values()) < 0.05


def test_the_command_writes_and_reports(files, tmp_path, capsys):
    np.save(tmp_path / "data.npy", samples(32))
    argv = ["quantize", *map(str, files), "-o", str(tmp_path / "out"), "--data", str(tmp_path / "data.npy")]
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert "relative error" in text
    assert str(tmp_path / "out" / "net_int8.onnx") in text
    assert main(argv) == 1
    assert "--force" in capsys.readouterr().err
    assert main([*argv, "--force", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["layers"]) == {"one", "two", "out"}


def test_what_is_refused(files, tmp_path):
    model = twofold.load(*files)
    (tmp_path / "there.onnx").write_bytes(b"kept")
    with pytest.raises(OutputError):
        quantize(model, tmp_path / "there.onnx", CalibrationSource(data=samples(32)))
    assert (tmp_path / "there.onnx").read_bytes() == b"kept"
    twofold.export(model, tmp_path / "net.onnx")
    proto = onnx.load(tmp_path / "net.onnx")
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(proto, tmp_path / "four.onnx")
    with pytest.raises(InputError, match="batch"):
        quantize(
            twofold.load(tmp_path / "four.onnx"), tmp_path / "x.onnx", CalibrationSource(data=samples(32))
        )
    with pytest.raises(OptionError, match="a value of type PosixPath is no model"):
        quantize(tmp_path / "four.onnx", tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()
