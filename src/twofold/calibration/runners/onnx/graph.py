"""What a graph's outputs depend on, and models made of parts of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from ....errors import ModelError, remedy
from ....formats.onnx.fold import dense
from ....formats.onnx.graphs import DEFAULTS_SINCE_IR, opset_of
from ....formats.onnx.shapes import fed_inputs
from ....formats.onnx.tensors import Files, is_external, read_array

#: Bytes that a protobuf message can have.
_LARGEST_MESSAGE = 2**31 - 1


class Graph:
    """The main graph of a model, seen from some of its values.

    Attributes:
        model: the model.
        outputs: the values.
        fed: names of the inputs that they depend on.
        positions: of the nodes that they and the inputs depend on, in order; what depends on no input is left
            out, since every part takes it along.
    """

    def __init__(self, model: ModelProto, outputs: Sequence[str], files: Files) -> None:
        self.model, self.outputs, self._files = model, tuple(outputs), files
        self._nodes = model.graph.node
        self._makers = {name: i for i, node in enumerate(self._nodes) for name in node.output if name}
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._sparse = {sparse.values.name: sparse for sparse in model.graph.sparse_initializer}
        inputs = [value.name for value in fed_inputs(model)]
        changing = set(inputs)
        for node in self._nodes:
            if not changing.isdisjoint(reads(node)):
                changing.update(filter(None, node.output))
        needed = set(self.outputs)
        found = []
        for position in reversed(range(len(self._nodes))):
            node = self._nodes[position]
            if not needed.isdisjoint(node.output):
                needed |= reads(node)
                if not changing.isdisjoint(node.output):
                    found.append(position)
        self.positions = tuple(reversed(found))
        self.fed = tuple(name for name in inputs if name in needed)
        self._changing = changing

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators."""
        return opset_of(self.model)

    def depends(self, name: str) -> bool:
        """Whether a value depends on the inputs."""
        return name in self._changing

    def maker(self, name: str) -> NodeProto | None:
        """The node that makes a value."""
        return self._nodes[self._makers[name]] if name in self._makers else None

    def stored(self, name: str) -> NDArray[Any] | None:
        """An initializer; None where the value is none."""
        tensor = self._stored.get(name)
        return None if tensor is None else read_array(tensor, self._files)

    def position(self, name: str) -> int:
        """Position of the node that makes a value; -1 where the outputs do not depend on it."""
        found = self._makers.get(name, -1)
        return found if found in self._needed else -1

    @cached_property
    def _needed(self) -> frozenset[int]:
        return frozenset(self.positions)

    def live(self, position: int) -> set[str]:
        """Values made before a position, or fed, that outputs need from there on."""
        after = [self._nodes[one] for one in self.positions if one >= position]
        made = {name for node in after for name in node.output}
        wanted = {name for node in after for name in reads(node)} | set(self.outputs)
        return {name for name in wanted if name in self._changing and name not in made}

    def part(
        self,
        first: int,
        stop: int,
        inputs: Mapping[str, int],
        outputs: Iterable[str],
        instead: Mapping[int, Sequence[NodeProto]] | None = None,
    ) -> ModelProto:
        """A model of the nodes from `first` to before `stop`, with all constants that they read.

        Args:
            first: position of the first node.
            stop: position after the last one.
            inputs: what the part is fed with -> ONNX's number of its type.
            outputs: what it gives.
            instead: nodes that take the place of others, by position.

        Raises:
            ModelError: it does not fit into a message.
        """
        chosen = {one for one in self.positions if first <= one < stop}
        waiting = [self._nodes[one] for one in chosen]
        tensors: dict[str, TensorProto] = {}
        while waiting:
            for name in reads(waiting.pop()):
                if name in self._stored:
                    tensors[name] = self._stored[name]
                elif name in self._sparse:
                    tensors[name] = numpy_helper.from_array(dense(self._sparse[name], self._files), name)
                elif name not in self._changing and self._makers.get(name, -1) not in {*chosen, -1}:
                    chosen.add(self._makers[name])
                    waiting.append(self._nodes[self._makers[name]])
        nodes = [node for one in sorted(chosen) for node in (instead or {}).get(one, [self._nodes[one]])]
        fed = [helper.make_tensor_value_info(name, elem_type, None) for name, elem_type in inputs.items()]
        graph = GraphProto(
            name="part", node=nodes, input=fed, output=[ValueInfoProto(name=name) for name in outputs]
        )
        graph.initializer.extend(self._inline(one) for one in tensors.values() if one.name not in inputs)
        made = ModelProto(
            # Older versions want every initializer among the inputs, which a part's are not.
            ir_version=max(self.model.ir_version, DEFAULTS_SINCE_IR),
            opset_import=self.model.opset_import, graph=graph,
            functions=self.model.functions,
        )  # fmt: skip
        if made.ByteSize() > _LARGEST_MESSAGE:
            raise ModelError(
                f"a part of the model has {made.ByteSize() / 2**30:.1f} GiB, more than ONNX Runtime takes at "
                f"once{remedy('; use weights only ({})', 'no_data=True')}"
            )
        return made

    def _inline(self, tensor: TensorProto) -> TensorProto:
        if not is_external(tensor):
            return tensor
        found = TensorProto()
        found.CopyFrom(tensor)
        found.ClearField("external_data")
        found.data_location = TensorProto.DEFAULT
        found.raw_data = read_array(tensor, self._files).tobytes()
        return found


def reads(node: NodeProto) -> set[str]:
    """Values that a node reads; names inside its branches and loops, too, whether theirs or from around."""
    found = set(filter(None, node.input))
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            found.update(name for inner in graph.node for name in reads(inner))
            found.update(value.name for value in graph.output)
    return found


def types_of(model: ModelProto, names: Collection[str]) -> dict[str, int]:
    """ONNX's numbers of the types of a model's inputs."""
    return {
        value.name: value.type.tensor_type.elem_type for value in model.graph.input if value.name in names
    }
