"""`compare` and `recover` on nets of transposed, one- and three-dimensional, and fully connected layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from onnx import helper  # noqa: E402
from tests.formats.onnx import small  # noqa: E402
from tests.small import opencv, write_weights  # noqa: E402
from torch import nn  # noqa: E402

import twofold  # noqa: E402
from twofold.calibration.source import CalibrationSource  # noqa: E402
from twofold.formats.torch.model import TorchModel  # noqa: E402
from twofold.recover import RecoverOptions, recover  # noqa: E402

Run = Callable[[np.ndarray], np.ndarray]
OPTIONS = RecoverOptions(steps=160, rate=1e-2, batch=8)


def numbers(*shape: int, seed: int) -> np.ndarray:
    """A weight (or a bias) whose outputs are of about the size of its inputs."""
    return small.weight(*shape, seed=seed) if len(shape) > 1 else 0.1 * small.weight(1, *shape, seed=seed)[0]


def samples(count: int, size: tuple[int, ...], seed: int) -> np.ndarray:
    """Inputs (N, 16, *size) whose channels depend on each other."""
    few = np.random.default_rng(seed).normal(size=(count, 4, *size))
    mixing = np.random.default_rng(1).normal(size=(16, 4))
    noise = np.random.default_rng(seed + 1).normal(size=(count, 16, *size))
    return (np.einsum("ck,nk...->nc...", mixing, few) + 0.2 * noise).astype(np.float32)


def onnx_up(folder: Path) -> Path:
    """ConvTranspose, the mean of each channel, Gemm, MatMul."""
    node = helper.make_node
    nodes = [
        node("ConvTranspose", ["x", "up.w", "up.b"], ["a"], "up", strides=[2, 2], pads=[1] * 4),
        node("Relu", ["a"], ["b"]), node("ReduceMean", ["b", "axes"], ["c"], keepdims=0),
        node("Gemm", ["c", "gemm.w", "gemm.b"], ["d"], "gemm", transB=1), node("Relu", ["d"], ["e"]),
        node("MatMul", ["e", "matmul.w"], ["y"], "matmul"),
    ]  # fmt: skip
    tensors = {
        "up.w": numbers(16, 24, 4, 4, seed=0) * 4, "up.b": numbers(24, seed=1), "axes": np.array([2, 3]),
        "gemm.w": numbers(32, 24, seed=2), "gemm.b": numbers(32, seed=3), "matmul.w": numbers(32, 24, seed=4),
    }  # fmt: skip
    made = small.model(nodes, tensors, {"x": ("n", 16, 6, 6)}, {"y": ("n", 24)})
    return small.write(folder / "net.onnx", made)


def onnx_axes(axes: int) -> Callable[[Path], Path]:
    """Two convolutions over so many axes."""

    def write(folder: Path) -> Path:
        kernel, pads = (3,) * axes, {"pads": [1] * 2 * axes}
        nodes = [
            small.conv("one", "x", "a", "one.w", "one.b", **pads), helper.make_node("Relu", ["a"], ["b"]),
            small.conv("two", "b", "y", "two.w", **pads),
        ]  # fmt: skip
        tensors = {
            "one.w": numbers(24, 16, *kernel, seed=0), "one.b": numbers(24, seed=1),
            "two.w": numbers(16, 24, *kernel, seed=2),
        }  # fmt: skip
        size = (6,) * axes
        made = small.model(nodes, tensors, {"x": ("n", 16, *size)}, {"y": ("n", 16, *size)})
        return small.write(folder / "net.onnx", made)

    return write


ONNX = {
    "transposed, Gemm, MatMul": (onnx_up, {"up": 8, "gemm": 8, "matmul": 8}, (6, 6)),
    "one axis": (onnx_axes(1), {"one": 8, "two": 8}, (6,)),
    "three axes": (onnx_axes(3), {"one": 8, "two": 8}, (6, 6, 6)),
}


def relative(out: np.ndarray, ref: np.ndarray) -> float:
    return float(np.linalg.norm(out - ref) / np.linalg.norm(ref - ref.mean()))


def check(original, result, size: tuple[int, ...], runs: Callable[[object], Run]) -> None:
    """`compare` says what a run says, and `recover` makes it less."""
    assert len(result.plan.choices) == len(result.plan.options.ranks)
    holdout = samples(6, size, seed=11)
    ref = runs(original)(holdout)
    before = relative(runs(result.model)(holdout), ref)
    (output,) = twofold.compare(original, result.model, CalibrationSource(data=holdout)).outputs
    assert output.error == pytest.approx(before, rel=1e-3)
    assert before > 0.05
    source = CalibrationSource(data=samples(64, size, seed=3))
    found = recover(original, result.model, source, OPTIONS)
    assert found.after < 0.9 * found.before
    after = relative(runs(found.model)(holdout), ref)
    assert after < 0.95 * before
    (output,) = twofold.compare(original, found.model, CalibrationSource(data=holdout)).outputs
    assert output.error == pytest.approx(after, rel=1e-3)


@pytest.mark.parametrize("kind", ONNX)
def test_onnx(kind, tmp_path):
    write, ranks, size = ONNX[kind]
    original = twofold.load(write(tmp_path))
    result = twofold.decompose(original, ranks=ranks, schemes="channel", no_data=True)
    saved = 0

    def runs(model) -> Run:
        nonlocal saved
        saved += 1
        path = tmp_path / f"{saved}.onnx"
        model.save(path)
        return lambda x: small.run(path, x=x)[0]

    check(original, result, size, runs)


CAFFE = """layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 16 dim: 6 dim: 6 } } }
layer { name: "up" type: "Deconvolution" bottom: "data" top: "up"
  convolution_param { num_output: 24 kernel_size: 4 stride: 2 pad: 1 } }
layer { name: "relu" type: "ReLU" bottom: "up" top: "up" }
layer { name: "pool" type: "Pooling" bottom: "up" top: "pool"
  pooling_param { pool: AVE kernel_size: 6 stride: 6 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 32 } }
layer { name: "relu_fc" type: "ReLU" bottom: "fc" top: "fc" }
layer { name: "out" type: "InnerProduct" bottom: "fc" top: "out" inner_product_param { num_output: 24 } }
"""


def test_caffe(tmp_path):
    (tmp_path / "net.prototxt").write_text(CAFFE)
    blobs = {
        "up": [numbers(16, 24, 4, 4, seed=0) * 4, numbers(24, seed=1)],
        "fc": [numbers(32, 96, seed=2), numbers(32, seed=3)],
        "out": [numbers(24, 32, seed=4), numbers(24, seed=5)],
    }
    write_weights(tmp_path / "net.caffemodel", blobs)
    original = twofold.load(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    ranks = {"up": 8, "fc": 8, "out": 8}
    result = twofold.decompose(original, ranks=ranks, schemes="channel", no_data=True)
    saved = 0

    def runs(model) -> Run:
        nonlocal saved
        saved += 1
        files = tmp_path / f"{saved}.prototxt", tmp_path / f"{saved}.caffemodel"
        model.save(*files)
        return lambda x: np.concatenate([opencv(*files, one[None])[0] for one in x])

    check(original, result, (6, 6), runs)


class Up(nn.Module):
    """A transposed convolution and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.fc, self.out = nn.ConvTranspose2d(16, 24, 4, 2, 1), nn.Linear(24, 32), nn.Linear(32, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.fc(self.up(x).relu().mean((2, 3))).relu())


def in_a_row(kind: type[nn.Module]) -> nn.Module:
    return nn.Sequential(kind(16, 24, 3, padding=1), nn.ReLU(), kind(24, 16, 3, padding=1))


TORCH = {
    "transposed, linear": (Up, {"up": 8, "fc": 8, "out": 8}, (6, 6)),
    "one axis": (lambda: in_a_row(nn.Conv1d), {"0": 8, "2": 8}, (6,)),
    "three axes": (lambda: in_a_row(nn.Conv3d), {"0": 8, "2": 8}, (6, 6, 6)),
}


@pytest.mark.parametrize("kind", TORCH)
def test_torch(kind):
    make, ranks, size = TORCH[kind]
    torch.manual_seed(0)
    x = torch.from_numpy(samples(1, size, seed=0))
    result = twofold.decompose(make().eval(), ranks=ranks, schemes="channel", no_data=True, example_inputs=x)

    def runs(model: TorchModel) -> Run:
        def run(x: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return model.module(torch.from_numpy(x)).numpy()

        return run

    check(result.original, result, size, runs)
