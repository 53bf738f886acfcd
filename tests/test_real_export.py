"""Real Caffe networks as ONNX: ONNX Runtime's outputs beside OpenCV's and PyTorch's."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from zoo.models import model, models
from zoo.photographs import as_inputs, crops, photographs

import twofold
from twofold.caffe_torch import to_torch
from twofold.formats.caffe.model import CaffeModel

pytestmark = pytest.mark.models

#: Input sizes smaller than the model's own, where only the time suffers from a large one.
SMALL = {"hed": (96, 96)}


@pytest.mark.parametrize("name", list(models()))
def test_the_exported_net_agrees_with_pytorch_on_photographs(name, tmp_path):
    real = model(name)
    size = SMALL.get(name, real.size)
    caffe = CaffeModel.load(real.prototxt, real.caffemodel, {real.input: (1, 3, *size)})
    found = twofold.export(caffe, tmp_path / "net.onnx")
    assert found.inputs[real.input] == (None, 3, *size)
    options = real.options
    cut = crops(photographs().holdout, 2, size, seed=3)
    x = as_inputs(cut, options.color or "bgr", options.channel_mean(3), options.scale or 1.0)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    got = session.run(None, {real.input: x})
    with torch.inference_mode():
        want = to_torch(caffe).eval()(torch.from_numpy(x), blobs=found.outputs)
    for value, blob in zip(got, found.outputs, strict=True):
        assert value.shape == tuple(want[blob].shape)
        np.testing.assert_allclose(value, want[blob].numpy(), rtol=0, atol=1e-4 * np.ptp(want[blob].numpy()))
