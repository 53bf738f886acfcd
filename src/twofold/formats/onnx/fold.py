"""Constant expressions: values that nodes compute from constants alone, such as a weight behind a Cast.

ONNX Runtime computes them, and ONNX's own reference evaluator what it has no kernel for, such as bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto, ValueInfoProto, helper

from ...errors import FormatError
from .tensors import Files, read_array

#: Domains of ONNX itself.
DOMAIN = ("", "ai.onnx")

#: Operators whose outputs are not determined by their inputs.
_RANDOM = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
)


def is_foldable(node: NodeProto) -> bool:
    """Whether a node with constant inputs gives constants that can be computed here.

    Not those with branches or a body, local functions, and operators of other domains.
    """
    holds_graph = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
    return node.domain in DOMAIN and node.op_type not in _RANDOM and not holds_graph


def evaluate(
    model: ModelProto,
    nodes: Sequence[NodeProto],
    constants: Mapping[str, NDArray[Any]],
    name: str,
) -> NDArray[Any] | str:
    """Compute a value.

    Args:
        model: the model, for the versions of its operators.
        nodes: what computes the value, in order.
        constants: what the nodes read, by name.
        name: the value.

    Returns:
        The value, or why it cannot be computed, as the end of a sentence.
    """
    graph = GraphProto(
        name="constant",
        node=nodes,
        input=[
            helper.make_tensor_value_info(one, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for one, array in constants.items()
        ],
        output=[ValueInfoProto(name=name)],
    )
    expression = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=graph)
    problems: list[str] = []
    for run in (_in_onnxruntime, _in_reference):
        try:
            found: Any = run(expression, dict(constants), name)
        except Exception as error:  # whatever an operator raises; ONNX Runtime's have no common base
            problems.append(" ".join(str(error).split())[:200])
        else:
            return found if isinstance(found, np.ndarray) else "is a constant expression that gives no tensor"
    steps = ", ".join(dict.fromkeys(node.op_type for node in nodes))
    return f"is a constant expression ({steps}) that cannot be computed: {problems[0]}"


def _in_onnxruntime(model: ModelProto, values: dict[str, NDArray[Any]], name: str) -> Any:
    import onnxruntime  # noqa: PLC0415 - slow, and seldom needed

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run([name], values)[0]


def _in_reference(model: ModelProto, values: dict[str, NDArray[Any]], name: str) -> Any:
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - slow, and seldom needed

    (found,) = ReferenceEvaluator(model).run([name], values)
    return found


def dense(sparse: SparseTensorProto, files: Files) -> NDArray[Any]:
    """The values of a sparse tensor, with its zeros.

    Raises:
        FormatError: its indices lie outside of its shape, or its data are not readable.
    """
    values, indices = read_array(sparse.values, files), read_array(sparse.indices, files)
    array = np.zeros(tuple(sparse.dims), values.dtype)
    try:
        if indices.ndim == 1:
            array.reshape(-1)[indices.astype(np.int64)] = values
        else:
            array[tuple(indices.astype(np.int64).T)] = values
    except (IndexError, ValueError) as error:
        raise FormatError(f"sparse tensor {sparse.values.name!r} cannot be read: {error}") from error
    return array
