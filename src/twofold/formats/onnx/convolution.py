"""What a node that is a layer says: its shape, and what keeps it from being replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from onnx import NodeProto, TensorProto

from ...conv import ConvGeometry, Size
from .graphs import Constant, Graphs, Scope, is_op
from .layer_types import LayerAdapter
from .layer_types.base import Shape
from .tensors import BITS

_QUANTIZED = "it is quantized (weight and input come from DequantizeLinear); decompose first, then quantize"


@dataclass(frozen=True, eq=False)
class Use:
    """One convolution node.

    Attributes:
        scope: the graph that holds it.
        position: where in it.
        node: itself.
        adapter: what is known of its operator.
        name: its own, or that of its output where it has none.
        weight: its weight; None where that is no constant.
        bias: its bias; None where it has none.
        geometry: its shape; None where the weight does not tell.
        input_size: spatial size of its input; None where it is not known.
        runs: how often it runs per sample of the model's inputs.
        reason: why it cannot be replaced; "" where it can.
        product: its multiply-accumulates per sample where it has no geometry; None where they are not known.
    """

    scope: Scope
    position: int
    node: NodeProto
    adapter: LayerAdapter
    name: str
    weight: Constant | None
    bias: Constant | None
    geometry: ConvGeometry | None
    input_size: Size | None
    runs: Fraction
    reason: str
    product: Fraction | None = None

    @property
    def macs(self) -> Fraction | None:
        """Multiply-accumulates per sample; None where they are not known."""
        if self.geometry is None:
            return self.product
        return None if self.input_size is None else self.runs * self.geometry.macs(self.input_size)


def read_use(
    graphs: Graphs, scope: Scope, position: int, adapter: LayerAdapter, name: str,
    shapes: Sequence[Shape], batch: int, turns: int | None,
) -> Use:  # fmt: skip
    """Read one node.

    Args:
        graphs: all graphs of the model.
        scope: the graph that holds the node.
        position: where in it.
        adapter: of the node.
        name: what the layer is called.
        shapes: of its inputs, None per axis that is not known.
        batch: samples that the model takes at a time.
        turns: how often the graph runs for a run of the model; None where that is not known.
    """
    node = scope.graph.node[position]
    shape = adapter.arranged(node, shapes[0]) if shapes else None
    size, reason, at = adapter.size(shape), adapter.rejection(node), adapter.weight
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
    # What is no constant may have a shape, too, which says what the layer costs.
    dims = tuple(weight.tensor.dims) if weight is not None else shapes[at] if len(shapes) > at else None
    geometry, problem = None, ""
    if dims is not None and None not in dims:
        geometry, problem = _geometry(adapter, node, tuple(one for one in dims if one is not None), size)
    if adapter.constant and weight is None and is_first(graphs, scope, node):
        geometry, reason = None, "its weight is the first factor of the product, not the second"
    if geometry is not None and reason and not _takes(geometry, shape):
        geometry = None
    if bias is not None and geometry is not None and not _fits(bias, geometry):
        problem = problem or f"its bias has the shape {list(bias.tensor.dims)}, not [{geometry.c_out}]"
    # A lone vector is read once, whatever the batch.
    leading = None if shape is None else shape[0] if len(shape) > 1 else 1
    runs = (turns or 0) * (Fraction(1) if leading is None else Fraction(leading, batch))
    macs = adapter.macs(node, [dims if i == at else one for i, one in enumerate(shapes)])
    product = None if macs is None else (turns or 0) * Fraction(macs, batch)
    if turns is None:
        size, product = None, None
        reason = reason or f"how often {scope.place} runs it depends on values, and so does what it costs"
    elif turns == 0:
        product, reason = Fraction(0), f"{scope.place} never runs it"
        geometry = None if size is None else geometry
    return Use(
        scope, position, node, adapter, name, weight, bias, geometry, size, runs, reason or problem, product
    )


def is_first(graphs: Graphs, scope: Scope, node: NodeProto) -> bool:
    """Whether the first factor of a product is a constant."""
    return bool(node.input) and isinstance(graphs.constant(scope, node.input[0]), Constant)


def _takes(geometry: ConvGeometry, shape: Shape) -> bool:
    """Whether a value of a shape can be a layer's input; a fork's operator may order its weight otherwise."""
    axis = 1 if geometry.semantics.spatial else -1
    channels = None if shape is None or len(shape) < 2 else shape[axis]
    return channels in (None, geometry.c_in)


def _geometry(
    adapter: LayerAdapter, node: NodeProto, dims: Size, size: Size | None
) -> tuple[ConvGeometry | None, str]:
    """The shape that a weight and attributes say, and what is wrong with it."""
    try:
        geometry, problem = adapter.geometry(node, dims, size)
    except (ValueError, IndexError, ZeroDivisionError, OverflowError) as error:
        return None, f"its weight of shape {list(dims)} does not go with its attributes: {error}"
    if geometry is not None and size is not None and len(size) != len(geometry.kernel):
        return None, f"its input has {len(size)} spatial axes, its kernel {len(geometry.kernel)}"
    return geometry, problem


def _fits(bias: Constant, geometry: ConvGeometry) -> bool:
    """Whether a bias has a value per output channel; that of vectors may be a row."""
    dims = list(bias.tensor.dims)
    row = not geometry.semantics.spatial and dims == [1, geometry.c_out]
    return row or dims == [geometry.c_out]


def is_quantized(graphs: Graphs, scope: Scope, name: str) -> bool:
    """Whether a value is a rounded result: then a runtime computes with integers what reads it."""
    maker = graphs.maker(scope, name)
    return maker is not None and is_op(maker, "DequantizeLinear")


def _type_name(constant: Constant) -> str:
    return str(TensorProto.DataType.Name(constant.tensor.data_type))
