"""The convolutions of an ONNX model: nodes that share a weight are one, changed together or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from ...conv import Array, ConvLayer, Size, Skipped
from .convolution import Use, read_use
from .graphs import Constant, Graphs, Scope, held, holder_of, is_op
from .kinds import Kind, kind_of
from .shapes import Shape, measured_shapes, value_shapes
from .tensors import BITS, Files, all_tensors, is_external, read_weight

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
    nodes, kinds = [], []
    for place in graphs.nodes():
        kind = kind_of(place[2])
        if kind is not None and not _of_activations(graphs, place, kind):
            nodes.append(place)
            kinds.append(kind)
    shapes = _input_shapes(graphs, nodes, inputs, path)
    groups: dict[tuple[int, str] | str, list[Use]] = {}
    for (scope, position, _), kind, name, shape in zip(
        nodes, kinds, _names(graphs, nodes), shapes, strict=True
    ):
        use = read_use(graphs, scope, position, kind, name, shape)
        groups.setdefault(use.weight.key if use.weight is not None else name, []).append(use)
    return tuple(Group(tuple(uses), _reason(graphs, uses)) for uses in groups.values())


def _of_activations(graphs: Graphs, place: Node, kind: Kind) -> bool:
    """Whether a node multiplies two results, as attention does: that is no layer with a weight."""
    scope, _, node = place
    if not kind.constant or len(node.input) <= kind.weight:
        return False
    return not isinstance(graphs.constant(scope, node.input[kind.weight]), Constant)


def _input_shapes(
    graphs: Graphs, nodes: Sequence[Node], inputs: Mapping[str, Size], path: str
) -> list[Shape | None]:
    """Shape of the first input of each node; what is inferred first, then what a run shows."""
    inferred = value_shapes(graphs.model, inputs, path)
    keys: list[tuple[int, str] | None] = []
    for scope, _, node in nodes:
        holder = holder_of(scope, node.input[0]) if node.input else None
        keys.append(None if holder is None else (holder.number, node.input[0]))

    def unknown(key: tuple[int, str] | None) -> bool:
        return key is not None and None in inferred.get(key, (None, None))[1:]

    wanted = dict.fromkeys(key[1] for key in keys if key is not None and unknown(key) and key[0] == 0)
    if wanted and not any(map(is_external, all_tensors(graphs.model))):
        for name, shape in measured_shapes(graphs.model, tuple(wanted), inputs).items():
            inferred[0, name] = shape
    return [None if key is None else inferred.get(key) for key in keys]


def _names(graphs: Graphs, nodes: Sequence[Node]) -> list[str]:
    """A name for each node that tells it from all others: its own, else that of its output."""
    own = Counter(node.name for _, _, node in graphs.nodes())
    names: list[str] = []
    for _, _, node in nodes:
        base = node.name if node.name and own[node.name] == 1 else (node.output[0] if node.output else "conv")
        names.append(_free(base, names))
    return names


def _free(base: str, taken: Collection[str]) -> str:
    name, number = base, 2
    while name in taken:
        name, number = f"{base}#{number}", number + 1
    return name


def _reason(graphs: Graphs, uses: list[Use]) -> str:
    for use in uses:
        if use.reason:
            return use.reason if use is uses[0] else f"shares its weight with {use.name!r}: {use.reason}"
        turned = [one.kind.turned(one.node) for one in (use, uses[0])]
        if use.geometry != uses[0].geometry or turned[0] != turned[1]:
            return f"shares its weight with {use.name!r}, which has another shape or stride"
    weight = uses[0].weight
    assert weight is not None, "Bug: a node without weight has a reason"
    places = {(use.scope.number, use.position): use.kind.weight for use in uses}
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
        known = all(use.input_size is not None for use in group.uses) and shaped is not None
        macs = sum(use.macs for use in group.uses) if known else None
        return Skipped(group.name, group.reason, shaped, macs, 0 if shaped is None else shaped.params)
    sizes = tuple(use.input_size for use in group.uses if use.input_size is not None)
    return ConvLayer(
        group.name,
        shaped,
        first.kind.canonical(first.node, read_weight(group.weight.tensor, files), shaped),
        bias_of(first, files),
        sizes if len(sizes) == len(group.uses) else (),
        tuple(use.name for use in group.uses[1:]),
        BITS[group.weight.tensor.data_type],
        next((use.scope.place for use in group.uses if use.scope.place), ""),
    )


def bias_of(use: Use, files: Files) -> Array | None:
    """The bias of one node."""
    return None if use.bias is None else read_weight(use.bias.tensor, files).reshape(-1)


def in_functions(model: ModelProto) -> tuple[Skipped, ...]:
    """Convolutions inside the model's functions, which are not decomposed, nor in branches there."""
    found: dict[str, Skipped] = {}
    for function in model.functions:
        reason = f"inside the function {function.name!r}; inline it first, see onnx.inliner"
        waiting = [list(function.node)]
        while waiting:
            nodes = waiting.pop(0)
            waiting += [list(graph.node) for node in nodes for graph in held(node)]
            makers = {name: node for node in nodes for name in node.output}
            for node in nodes:
                kind = kind_of(node)
                maker = makers.get(node.input[kind.weight]) if kind is not None and kind.constant else None
                results = maker is not None and not is_op(maker, "Constant", "DequantizeLinear")
                if kind is not None and not results:
                    name = _free(f"{function.name}/{node.name or node.output[0]}", found)
                    found[name] = Skipped(name, reason)
    return tuple(found.values())
