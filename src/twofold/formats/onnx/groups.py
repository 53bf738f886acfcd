"""The convolutions of an ONNX model: nodes that share a weight are one, changed together or not at all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from onnx import NodeProto

from ...conv import Array, ConvLayer, Size, Skipped
from .convolution import Use, is_first, read_use
from .graphs import Constant, Graphs, Scope
from .layer_types import LayerAdapter, adapter_of
from .shapes import ValueShapes, batch_of
from .tensors import BITS, Files, read_weight
from .turns import turns

Node = tuple[Scope, int, NodeProto]


@dataclass(frozen=True, eq=False)
class Group:
    """All uses of one weight.

    Attributes:
        uses: in the model's order; the first gives the name.
        reason: why they cannot be replaced; "" where they can.
    """

    uses: tuple[Use, ...]
    reason: str

    @property
    def name(self) -> str:
        """Name of the first."""
        return self.uses[0].name

    @property
    def weight(self) -> Constant:
        """The weight of all, where there is one."""
        weight = self.uses[0].weight
        assert weight is not None, "Bug: asked for a weight that is no constant"
        return weight


def find_groups(graphs: Graphs, inputs: Mapping[str, Size], path: str) -> tuple[Group, ...]:
    """All convolutions of a model's graphs.

    Raises:
        ModelError: `inputs` do not fit the model.
    """
    nodes, adapters = [], []
    own = {(function.domain, function.name) for function in graphs.model.functions}
    for place in graphs.nodes():
        adapter = None if (place[2].domain, place[2].op_type) in own else adapter_of(place[2])
        if adapter is not None and not _of_activations(graphs, place, adapter):
            nodes.append(place)
            adapters.append(adapter)
    shapes, batch = ValueShapes(graphs, inputs, path, nodes), batch_of(graphs.model, inputs)
    groups: dict[tuple[int, str] | str, list[Use]] = {}
    for (scope, position, node), adapter, name in zip(nodes, adapters, _names(graphs, nodes), strict=True):
        of_inputs, often = [shapes.of(scope, value) for value in node.input], turns(graphs, shapes, scope)
        use = read_use(graphs, scope, position, adapter, name, of_inputs, batch, often)
        groups.setdefault(use.weight.key if use.weight is not None else name, []).append(use)
    return tuple(Group(tuple(uses), _reason(graphs, uses)) for uses in groups.values())


def _of_activations(graphs: Graphs, place: Node, adapter: LayerAdapter) -> bool:
    """Whether a node multiplies two results, as attention does: that is no layer with a weight."""
    scope, _, node = place
    if not adapter.constant or len(node.input) <= adapter.weight:
        return False
    if graphs.is_weight(scope, node.input[adapter.weight], node.input[0]):
        return False
    return not is_first(graphs, scope, node)


def _names(graphs: Graphs, nodes: Sequence[Node]) -> list[str]:
    """A name for each node that tells it from all others: its own, else that of its output."""
    own = Counter(node.name for _, _, node in graphs.nodes())
    names: list[str] = []
    for _, _, node in nodes:
        base = node.name if node.name and own[node.name] == 1 else (node.output[0] if node.output else "conv")
        names.append(free_name(base, names))
    return names


def free_name(base: str, taken: Collection[str]) -> str:
    """A name that none of `taken` is: the base, else with a number."""
    name, number = base, 2
    while name in taken:
        name, number = f"{base}#{number}", number + 1
    return name


def _reason(graphs: Graphs, uses: list[Use]) -> str:
    for use in uses:
        if use.reason:
            return use.reason if use is uses[0] else f"shares its weight with {use.name!r}: {use.reason}"
        turned = [one.adapter.turned(one.node) for one in (use, uses[0])]
        if use.geometry != uses[0].geometry or turned[0] != turned[1]:
            return f"shares its weight with {use.name!r}, which has another shape or stride"
    weight = uses[0].weight
    assert weight is not None, "Bug: a node without weight has a reason"
    places = {(use.scope.number, use.position): use.adapter.weight for use in uses}
    for reader in graphs.final_readers(weight):
        if reader.node is None:
            return f"its weight {weight.name!r} is an output of the graph"
        if places.get((reader.graph, reader.node)) != reader.index:
            node = graphs.node(reader.graph, reader.node)
            return (
                f"its weight {weight.name!r} is also used by {node.name or node.output[0]!r} ({node.op_type})"
            )
    return ""


def as_layer(group: Group, files: Files) -> ConvLayer | Skipped:
    """A convolution as planners see it, or why it cannot be one.

    Raises:
        FormatError: its weight cannot be read.
    """
    first = group.uses[0]
    shaped = first.geometry
    if group.reason or shaped is None:
        return Skipped(group.name, group.reason, shaped, macs_of(group.uses), _params(group))
    sizes = tuple(use.input_size for use in group.uses if use.input_size is not None)
    known = len(sizes) == len(group.uses)
    return ConvLayer(
        group.name,
        shaped,
        first.adapter.canonical(first.node, read_weight(group.weight.tensor, files), shaped),
        bias_of(first, files),
        sizes if known else (),
        tuple(use.name for use in group.uses[1:]),
        BITS[group.weight.tensor.data_type],
        next((use.scope.place for use in group.uses if use.scope.place), ""),
        tuple(use.runs for use in group.uses) if known else (),
    )


def macs_of(uses: Sequence[Use]) -> int | None:
    """Multiply-accumulates per sample of several uses; None where those of one are not known."""
    counts = [use.macs for use in uses]
    return None if None in counts else round(sum(count for count in counts if count is not None))


def _params(group: Group) -> int:
    first = group.uses[0]
    if first.geometry is not None:
        return first.geometry.params
    return math.prod(first.weight.tensor.dims) if first.weight is not None else 0


def bias_of(use: Use, files: Files) -> Array | None:
    """The bias of one node."""
    return None if use.bias is None else read_weight(use.bias.tensor, files).reshape(-1)
