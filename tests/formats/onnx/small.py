"""Small ONNX models, and what ONNX Runtime computes with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

OPSET = 18


def weight(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    """A seeded weight whose outputs have a variance of about 1."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(dtype)


def tensor(name: str, array: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(array, name)


def conv(name: str, source: str, target: str, *rest: str, **attributes: Any) -> NodeProto:
    """A Conv node that reads `source` and the names in `rest`."""
    return helper.make_node("Conv", [source, *rest], [target], name, **attributes)


def model(
    nodes: Sequence[NodeProto],
    tensors: Mapping[str, np.ndarray],
    inputs: Mapping[str, Sequence[int | str | None]],
    outputs: Mapping[str, Sequence[int | str | None] | None],
    *,
    kind: int = TensorProto.FLOAT,
    opset: int = OPSET,
    ir: int = 10,
    **more: Any,
) -> ModelProto:
    """A model; outputs without a shape have as many axes as the first input."""
    rank = len(next(iter(inputs.values())))
    outputs = {name: [None] * rank if shape is None else shape for name, shape in outputs.items()}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()],
        [tensor(name, array) for name, array in tensors.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **more)
    made.ir_version = ir
    return made


def two(**more: Any) -> ModelProto:
    """Conv `one` (16 to 64), Relu, conv `two` (64 to 64), each 3x3 with a bias."""
    nodes = [
        conv("one", "x", "a", "one.w", "one.b", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        conv("two", "b", "y", "two.w", "two.b", pads=[1, 1, 1, 1]),
    ]
    tensors = {
        "one.w": weight(64, 16, 3, 3),
        "one.b": weight(64, 1, seed=1).ravel(),
        "two.w": weight(64, 64, 3, 3, seed=2),
        "two.b": weight(64, 1, seed=3).ravel(),
    }
    return model(nodes, tensors, {"x": (1, 16, 12, 12)}, {"y": (1, 64, 12, 12)}, **more)


def write(path: Path, made: ModelProto) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(made, path)
    return path


def run(path: Path | str, **inputs: np.ndarray) -> list[np.ndarray]:
    """All outputs, by ONNX Runtime without its own rewriting."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def image(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(9).normal(size=shape).astype(dtype)


def assert_close(got: Sequence[np.ndarray], wanted: Sequence[np.ndarray], tolerance: float = 1e-5) -> None:
    """Compare in units of the range of the wanted values."""
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.ptp(other))
