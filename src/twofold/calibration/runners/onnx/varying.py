"""Values of a graph whose size depends on values of the inputs, such as the boxes that a detector finds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnx import ModelProto, NodeProto

from ....formats.onnx.graphs import held, is_op
from ....formats.onnx.turns import is_counted
from .graph import reads

#: Operators whose outputs have as many values as their inputs' values say.
_BY_VALUE = ("NonZero", "NonMaxSuppression", "Unique", "Compress", "Range", "StringSplit")
#: Operator -> its inputs that say the size of the output.
_SIZES: dict[str, tuple[int, ...]] = {
    "Reshape": (1,), "Expand": (1,), "Slice": (1, 2, 3, 4), "ConstantOfShape": (0,), "Tile": (1,),
    "Resize": (1, 2, 3), "Upsample": (1,), "Pad": (1,), "TopK": (1,), "OneHot": (1,), "Split": (1,),
    "CenterCropPad": (1,),
}  # fmt: skip
#: What gives the size of a value, which is a value that is known beforehand where that size is.
_OF_SIZE = ("Shape", "Size")


def varying_values(model: ModelProto) -> frozenset[str]:
    """Names of the values of the main graph whose size depends on values of the inputs."""
    functions = {
        (one.domain, one.name): any(is_op(node, *_BY_VALUE) for node in one.node) for one in model.functions
    }
    found = _Found(set(), {value.name for value in model.graph.input}, functions)
    found.walk(model.graph.node)
    return frozenset(found.varying)


class _Found:
    """What has been found in a graph, from its first node to its last.

    Attributes:
        varying: values whose size depends on the inputs' values.
        known_late: values that depend on the inputs' values, not on their sizes alone.
    """

    def __init__(
        self, varying: set[str], known_late: set[str], functions: dict[tuple[str, str], bool]
    ) -> None:
        self.varying, self.known_late, self._functions = varying, known_late, functions

    def walk(self, nodes: Iterable[NodeProto]) -> None:
        for node in nodes:
            outputs = [name for name in node.output if name]
            names = reads(node)
            sized = not self.varying.isdisjoint(names)
            if is_op(node, *_OF_SIZE):
                self.known_late.update(outputs if sized else ())
                continue
            if not self.known_late.isdisjoint(names):
                self.known_late.update(outputs)
                if sized or self._sizes_late(node) or any(self._changes(node)):
                    self.varying.update(outputs)

    def _sizes_late(self, node: NodeProto) -> bool:
        """Whether a node's own operator makes the size of its outputs of values that come late."""
        if (node.domain, node.op_type) in self._functions:
            return self._functions[node.domain, node.op_type]
        if is_op(node, *_BY_VALUE):
            return True
        inputs = [node.input[one] for one in _SIZES.get(node.op_type, ()) if one < len(node.input)]
        return not self.known_late.isdisjoint(filter(None, inputs))

    def _changes(self, node: NodeProto) -> Iterable[bool]:
        """Whether a branch or body gives something whose size varies, or a loop's length does."""
        for graph in held(node):
            inner = {value.name for value in graph.input}
            # What a loop hands on is taken to keep its size; the number of its turns is not.
            first = graph.input[0].name if is_op(node, "Loop") and graph.input else None
            late = (inner - {first}) | self.known_late
            found = _Found(set(self.varying), late, self._functions)
            found.walk(graph.node)
            yield any(value.name in found.varying for value in graph.output)
            if is_op(node, "Loop"):
                yield bool(node.input[0]) and node.input[0] in self.known_late
                yield not is_counted(graph)


def listed(names: Sequence[str], most: int = 4) -> str:
    """Names in a sentence."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more
