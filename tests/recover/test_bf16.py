"""Training in bfloat16: coarser steps, but float32 weights and float32 errors."""

from __future__ import annotations

import numpy as np
import pytest
from tests.recover.test_hints import caffe, of_onnx
from tests.recover.test_torch import made
from tests.small import random_blobs, write
from tests.test_calibrated import samples

torch = pytest.importorskip("torch")

import twofold  # noqa: E402
from twofold.caffe_torch import to_torch  # noqa: E402
from twofold.recover import RecoverOptions, recover  # noqa: E402
from twofold.recover.loss import Loss, Spread  # noqa: E402

OPTIONS = {"steps": 16, "rate": 1e-2, "batch": 8}


def of_torch(folder):
    net = made().eval()
    x = torch.from_numpy(samples(4))
    return net, twofold.decompose(net, ranks={"*": 8}, example_inputs=x, no_data=True), None


@pytest.mark.parametrize("make", [caffe, of_onnx, of_torch])
def test_it_learns_as_well_from_coarser_numbers(make, tmp_path):
    original, smaller, _ = make(tmp_path)
    fine, coarse = (
        recover(original, smaller, data=samples(64, seed=3), options=RecoverOptions(**OPTIONS, bf16=bf16))
        for bf16 in (False, True)
    )
    assert coarse.before == fine.before  # errors are measured in float32
    assert coarse.losses != fine.losses
    assert coarse.losses[0][1] == pytest.approx(fine.losses[0][1], rel=0.05)
    assert coarse.after < 1.1 * fine.after


def test_outputs_come_as_float32():
    class Student:
        def __init__(self):
            self.layer = torch.nn.Conv2d(3, 4, 3)
            self.kinds = []

        def parameters(self):
            return list(self.layer.parameters())

        def outputs(self, batch):
            found = self.layer(torch.ones(2, 3, 8, 8))
            self.kinds.append(found.dtype)
            return {"y": found}

    wanted = {"y": np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)}
    for bf16, kind in ((False, torch.float32), (True, torch.bfloat16)):
        student = Student()
        loss = Loss(student, {"y": Spread(1.0, 1.0)}, bf16=bf16)({}, wanted)
        loss.backward()
        assert student.kinds == [kind]
        assert loss.dtype == torch.float32
        assert all(p.grad.dtype == torch.float32 for p in student.parameters())


def test_deconvolutions_stay_in_float32(tmp_path):
    """They are slow in bfloat16 on CPUs, and make the last, large maps."""
    text = """name: "up"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 16 dim: 6 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 } }
layer { name: "up" type: "Deconvolution" bottom: "conv" top: "up"
  convolution_param { num_output: 2 kernel_size: 4 stride: 2 pad: 1 } }
"""
    blobs = random_blobs(text)
    blobs["up"] = [
        np.random.default_rng(1).normal(size=(8, 2, 4, 4)).astype(np.float32),
        np.zeros(2, np.float32),
    ]
    model = twofold.load(*write(tmp_path, text, blobs))
    net = to_torch(model, "TEST").eval()
    x = {"data": torch.from_numpy(np.random.default_rng(0).normal(size=(1, 16, 6, 6)).astype(np.float32))}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = net.execute(x, keep=("conv", "up"))
        assert found["conv"].dtype == torch.bfloat16
        assert found["up"].dtype == torch.float32
        again = torch.nn.functional.conv_transpose2d(
            found["conv"].double(), torch.from_numpy(blobs["up"][0]).double(), stride=2, padding=1
        )
    np.testing.assert_allclose(found["up"].numpy(), again.numpy(), rtol=1e-5, atol=1e-5)
