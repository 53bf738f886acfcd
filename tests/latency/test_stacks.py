"""Small models of stacks: every runtime computes the same, and what was meant."""

from __future__ import annotations

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional

from twofold.conv import ConvGeometry, ConvLayer
from twofold.errors import ModelError, OptionError
from twofold.latency.runtimes import RUNTIMES, installed, register, runtime
from twofold.latency.stacks import Stack, caffe_bytes, onnx_bytes, uses

STACKS = {
    "one": Stack((ConvGeometry.of(6, 4, (3, 3), pad=1),), (9, 7)),
    "spatial": Stack(
        (ConvGeometry.of(5, 4, (3, 1), stride=(2, 1), pad=(1, 0)), ConvGeometry.of(6, 5, (1, 3), pad=(0, 1))),
        (9, 8), 2,
    ),
    "dilated": Stack((ConvGeometry.of(6, 4, (3, 3), pad=2, dilation=2),), (9, 7)),
    "transposed": Stack(
        (ConvGeometry.of(6, 4, (1, 1)),
         ConvGeometry(5, 6, (4, 4), (2, 2), ((1, 1), (1, 1)), (1, 1), layer_type="transposed")), (5, 6),
    ),
    "groups": Stack((ConvGeometry.of(6, 4, (3, 3), groups=2), ConvGeometry.of(3, 6, (1, 1))), (9, 7)),
}  # fmt: skip
UNEVEN = Stack((ConvGeometry(3, 2, (3, 3), (1, 1), ((0, 1), (1, 0)), (1, 1)),), (6, 6))


def exact(stack: Stack) -> np.ndarray:
    value = torch.from_numpy(stack.input()).double()
    for geometry, (weight, bias) in zip(stack.chain, stack.weights(), strict=True):
        if geometry.layer_type == "transposed":
            turned = torch.from_numpy(weight).double().transpose(0, 1)
            value = functional.conv_transpose2d(value, turned, torch.from_numpy(bias).double(), 2, 1)
            continue
        value = functional.pad(value, [side for pair in reversed(geometry.pad) for side in pair])
        value = functional.conv2d(
            value, torch.from_numpy(weight).double(),
            None if bias is None else torch.from_numpy(bias).double(),
            geometry.stride, 0, geometry.dilation, geometry.groups,
        )  # fmt: skip
    return value.numpy()


@pytest.mark.parametrize("name", STACKS)
def test_the_caffe_form_in_opencv(name):
    stack = STACKS[name]
    net = cv2.dnn.readNetFromCaffe(*(np.frombuffer(part, np.uint8) for part in caffe_bytes(stack)))
    net.setInput(stack.input(), "x")
    np.testing.assert_allclose(net.forward(), exact(stack), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [*STACKS, "uneven"])
def test_the_onnx_form_in_onnx_runtime(name):
    stack = STACKS.get(name, UNEVEN)
    session = onnxruntime.InferenceSession(onnx_bytes(stack), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["y"], {"x": stack.input()})[0], exact(stack), rtol=0, atol=1e-4)


def test_runtimes_without_a_converter_run_every_stack():
    """The others: `test_isolated`."""
    for name in ("onnxruntime", "opencv", "torch"):
        found = runtime(name)
        with found.running(1):
            for stack in STACKS.values():
                found.stack(stack, 1)()


def test_what_caffe_cannot_say_opencv_refuses():
    with pytest.raises(ModelError, match="Caffe pads both sides alike"):
        runtime("opencv").stack(UNEVEN, 1)
    found = runtime("torch")
    with found.running(1):
        found.stack(UNEVEN, 1)()


def test_keys_tell_stacks_apart():
    geometry = STACKS["one"].chain[0]
    others = [
        Stack((geometry,), (9, 7), 2), Stack((geometry,), (7, 9)), UNEVEN, *STACKS.values(),
        Stack((ConvGeometry.of(6, 4, (3, 3)),), (9, 7)),
    ]  # fmt: skip
    assert len({stack.key for stack in others}) == len(others)
    assert Stack((geometry,), (9, 7)).key == STACKS["one"].key


def test_a_shared_weight_runs_once_per_use():
    layer = ConvLayer("a", STACKS["one"].chain[0], None, input_sizes=((9, 7), (5, 5)))
    assert [stack.size for stack in uses(layer, (layer.geometry,), 3)] == [(9, 7), (5, 5)]


def test_unknown_and_doubled_runtimes():
    with pytest.raises(
        OptionError, match="known: onnxruntime, opencv, torch, torch-cuda, openvino, ncnn, mnn"
    ):
        runtime("tensorflow")
    with pytest.raises(OptionError, match="registered already"):
        register("torch", "x", "x", "x")
    assert {one.name for one in installed()} <= set(RUNTIMES)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_is_refused():
    with pytest.raises(OptionError, match="no CUDA device"):
        runtime("torch-cuda")
