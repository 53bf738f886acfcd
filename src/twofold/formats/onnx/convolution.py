"""What a node that is a layer says: its shape, and what keeps it from being replaced."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from ...conv import ConvGeometry, Size
from .graphs import Constant, Graphs, Scope, is_op
from .kinds import Kind
from .tensors import BITS

_QUANTIZED = "it is quantized (weight and input come from DequantizeLinear); decompose first, then quantize"


@dataclass(frozen=True, eq=False)
class Use:
    """One convolution node.

    Attributes:
        scope: the graph that holds it.
        position: where in it.
        node: itself.
        kind: what is known of its operator.
        name: its own, or that of its output where it has none.
        weight: its weight; None where that is no constant.
        bias: its bias; None where it has none.
        geometry: its shape; None where the weight does not tell.
        input_size: spatial size of its input; None where it is not known.
        reason: why it cannot be replaced; "" where it can.
    """

    scope: Scope
    position: int
    node: NodeProto
    kind: Kind
    name: str
    weight: Constant | None
    bias: Constant | None
    geometry: ConvGeometry | None
    input_size: Size | None
    reason: str

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image; 0 where they are not known."""
        if self.geometry is None or self.input_size is None:
            return 0
        return self.geometry.macs(self.input_size)


def read_use(
    graphs: Graphs, scope: Scope, position: int, kind: Kind, name: str, shape: tuple[int | None, ...] | None
) -> Use:
    """Read one node.

    Args:
        graphs: all graphs of the model.
        scope: the graph that holds the node.
        position: where in it.
        kind: of the node.
        name: what the layer is called.
        shape: of its input, None per axis that is not known.
    """
    node = scope.graph.node[position]
    size, reason, at = kind.size(shape), kind.refusal(node), kind.weight
    weight: Constant | None = None
    bias: Constant | None = None
    found = graphs.constant(scope, node.input[at]) if len(node.input) > at else "is missing"
    if isinstance(found, Constant):
        weight = found
        if "DequantizeLinear" in weight.steps and is_quantized(graphs, scope, node.input[0]):
            reason = reason or _QUANTIZED
        if not reason and weight.tensor.data_type not in BITS:
            reason = f"its weight is of type {_type_name(weight)}, which is not decomposed"
    else:
        reason = reason or f"its weight {found}"
    if not reason and len(node.input) > 2 and node.input[2]:
        found = graphs.constant(scope, node.input[2])
        if isinstance(found, Constant):
            bias = found
        else:
            reason = f"its bias {found}"
    geometry, problem = (None, "") if weight is None else kind.geometry(node, tuple(weight.tensor.dims), size)
    if bias is not None and geometry is not None and not _fits(bias, geometry):
        problem = problem or f"its bias has the shape {list(bias.tensor.dims)}, not [{geometry.c_out}]"
    return Use(scope, position, node, kind, name, weight, bias, geometry, size, reason or problem)


def _fits(bias: Constant, geometry: ConvGeometry) -> bool:
    """Whether a bias has a value per output channel; that of vectors may be a row."""
    dims = list(bias.tensor.dims)
    row = not geometry.meaning.spatial and dims == [1, geometry.c_out]
    return row or dims == [geometry.c_out]


def is_quantized(graphs: Graphs, scope: Scope, name: str) -> bool:
    """Whether a value is a rounded result: then a runtime computes with integers what reads it."""
    maker = graphs.maker(scope, name)
    return maker is not None and is_op(maker, "DequantizeLinear")


def _type_name(constant: Constant) -> str:
    return str(TensorProto.DataType.Name(constant.tensor.data_type))
