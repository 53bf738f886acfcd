"""Exported nets in ONNX Runtime against numbers that the real Caffe gave (tests/data/caffe/forward)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from twofold.caffe_onnx import emit_net, trace
from twofold.caffe_onnx.net import graph_outputs
from twofold.caffe_onnx.registry import LEFT_OUT, known_types
from twofold.caffe_torch import CaffeNet
from twofold.formats.caffe.caffemodel import read_weights
from twofold.formats.caffe.net import read_net
from twofold.formats.caffe.prototxt import parse

CASES = sorted((Path(__file__).parents[1] / "data/caffe/forward").iterdir())
#: Recorded cases that no graph can express.
REFUSED = {
    "LSTM": "state that carries over", "RNN": "state that carries over", "LSTMUnit": "a part of LSTM",
}  # fmt: skip


def about(case: Path) -> dict:
    return json.loads((case / "case.json").read_text())


def is_inference(case: Path) -> bool:
    kinds = {kind.casefold() for kind in about(case)["layers"]}
    known = {kind.casefold() for kind in known_types()} - {kind.casefold() for kind in REFUSED}
    return about(case)["phase"] == "TEST" and kinds <= known | {"input"}


def load(case: Path) -> tuple[CaffeNet, dict[str, np.ndarray]]:
    definition = read_net(parse((case / "net.prototxt").read_bytes()), "TEST")
    weights = None
    if about(case)["weights"]:
        file = read_weights(case / "weights.caffemodel")
        weights = {layer.name: [blob.array() for blob in layer.blobs] for layer in file.layers}
    with np.load(case / "input.npz") as arrays:
        inputs = {name: arrays[name].astype(np.float32) for name in arrays.files}
    return CaffeNet(definition, weights), inputs


def run(proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    wanted = {value.name for value in session.get_inputs()}
    return session.run(None, {name: array for name, array in inputs.items() if name in wanted})


def check(got: np.ndarray, want: np.ndarray, tol: float) -> None:
    assert got.shape == want.shape
    scale = np.abs(want[np.abs(want) < 1e30]).max(initial=1e-6)  # a few cases hold values near FLT_MAX
    np.testing.assert_allclose(got, want, rtol=tol, atol=tol * scale, equal_nan=True)


@pytest.mark.parametrize("case", list(filter(is_inference, CASES)), ids=lambda case: case.name)
def test_same_numbers_as_caffe(case: Path) -> None:
    net, inputs = load(case)
    outputs, _ = graph_outputs(net)
    proto = emit_net(net, trace(net, inputs, outputs), None)
    onnx.checker.check_model(proto, full_check=True)
    with np.load(case / "output.npz") as want:
        assert set(outputs) <= set(want.files)
        for name, got in zip(outputs, run(proto, inputs), strict=True):
            check(got, want[name], about(case).get("tol", 1e-5))


def test_every_recorded_type_is_exported_or_left_out_for_a_reason() -> None:
    recorded = {kind for case in CASES for kind in about(case)["layers"]}
    known = {*known_types(), *LEFT_OUT, *REFUSED, "Input"}
    assert {kind.casefold() for kind in recorded} <= {kind.casefold() for kind in known}
