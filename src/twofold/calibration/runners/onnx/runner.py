"""The runner for ONNX models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from ....conv import ConvLayer, Factors
from ....device import current_device
from ....errors import InputError, option
from ....formats.onnx.graphs import is_op
from ....formats.onnx.groups import bias_of
from ....formats.onnx.model import OnnxModel
from ....formats.onnx.shapes import input_shapes
from ....lowrank.measure import composed
from ...inputs import Batch, SampleShape
from ...runner import LayerInputs, Norm, Outputs, Place, Stacks
from .batches import Batching, Values, other_sizes
from .early import first_norm, first_place
from .graph import Graph, types_of
from .norms import with_batch_statistics
from .pieces import Pieces
from .session import Session, where
from .targets import checked, found_in
from .varying import listed, varying_values

if TYPE_CHECKING:
    from ....onnx_torch import OnnxNet

Weights = tuple[NDArray[Any], NDArray[Any]]


def make_runner(model: OnnxModel, targets: tuple[str, ...] = ()) -> OnnxRunner:
    """The runner of an ONNX model; see `runner_for`."""
    return OnnxRunner(model, targets)


class OnnxRunner:
    """A `Runner` for an ONNX model.

    Attributes:
        network_outputs: names of the graph's outputs.
        outputs: values that are protected.
        varying: values whose size depends on those of the inputs.
        inputs: shapes of the samples that must be fed, without the batch axis; None where any size will do.
        examples: none; a file holds no inputs.
        runtime: see `Runner`.
    """

    any_size = False
    stopped: tuple[str, ...] = ()
    examples: Mapping[str, NDArray[np.float32]] = {}

    def __init__(self, model: OnnxModel, targets: tuple[str, ...] = ()) -> None:
        self._model = model
        self.runtime, self._on_device = where(current_device())
        proto = model.proto
        self.network_outputs = tuple(value.name for value in proto.graph.output)
        everything = Graph(proto, self.network_outputs, model.files)
        self.varying = varying_values(proto)
        self.outputs = checked(everything, targets) if targets else found_in(everything, self.varying)
        self._normal = _Network(proto, self.outputs, model)
        self._network = self._normal
        self._types = types_of(proto, self._normal.graph.fed)
        for name, elem_type in self._types.items():
            if elem_type in (TensorProto.UNDEFINED, TensorProto.STRING):
                type_ = TensorProto.DataType.Name(elem_type)
                raise InputError(
                    f"input {name!r} is of type {type_}, which is no number; it cannot be calibrated"
                )
        in_file = input_shapes(model.proto)
        shapes = {**in_file, **model.inputs}
        self._sizes = partial(other_sizes, in_file, model.inputs)
        self.batching = Batching.of({name: shapes[name] for name in self._normal.graph.fed})
        self.inputs: Mapping[str, SampleShape] = self.batching.shapes
        self._stacks: tuple[Stacks, _Network, Session] | None = None

    @property
    def _gradients(self) -> tuple[OnnxNet | None, str]:
        """The graph in torch, or why there is none."""
        return self._normal.in_torch

    @property
    def differentiable(self) -> bool:
        """See `Runner.differentiable`."""
        return self._gradients[0] is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """See `Runner.notes`."""
        why = self._gradients[1]
        return (*self._before_varying(), *filter(None, (self._on_device, why)))

    def _before_varying(self) -> tuple[str, ...]:
        """What is protected instead of outputs whose size varies."""
        ends = [name for name in self.network_outputs if name in self.varying]
        if not ends or not self.varying.isdisjoint(self.outputs):
            return ()
        return (
            f"the size of {listed(ends)} depends on the values, so errors are those of "
            f"{listed(self.outputs)} before; name others: {option('targets')}",
        )

    @property
    def described(self) -> Mapping[str, str]:
        """See `Runner.described`."""
        return {entry.key: entry.value for entry in self._model.proto.metadata_props}

    def entrance(self) -> Place | None:
        """See `Runner.entrance`."""
        return first_place(self._normal.graph, self._types, self.parts)

    def first_norm(self) -> Norm | None:
        """See `Runner.first_norm`."""
        return first_norm(self._normal.graph, self._types, self.parts)

    # ---- layers

    def reached(self, layers: Sequence[ConvLayer]) -> tuple[ConvLayer, ...]:
        """See `Runner.reached`; what stands in a branch or a loop cannot be watched."""
        first = {layer.name: min(self._normal.uses(layer), default=-1) for layer in layers}
        found = [layer for layer in layers if first[layer.name] >= 0]
        return tuple(sorted(found, key=lambda layer: first[layer.name]))

    # ---- running

    def record_inputs(
        self, layers: Sequence[ConvLayer], batch: Batch, gradients: np.random.Generator | None = None,
        stacks: Stacks = (),
    ) -> Iterator[LayerInputs]:  # fmt: skip
        """See `Runner.record_inputs`."""
        places = {use: layer for layer in layers for use in self._network.uses(layer)}
        if gradients is not None:
            with self._sizes():
                yield from self._network.watch_gradients(places, self.parts(batch), gradients)
            return
        envs, pieces = self.parts(batch), self._network.pieces
        changed: dict[int, Weights] = {}
        for layer, stack in stacks:
            changed |= self._weights(layer, stack)
        for number in range(pieces.number(max(places, default=0))):
            envs = [pieces.advance(values, number, changed.get(number)) for values in envs]
            position = pieces.cuts[number]
            if position in places:
                node, layer = self._network.graph.model.graph.node[position], places[position]
                for values in envs:
                    given = values[node.input[0]].astype(np.float32, copy=False)
                    yield LayerInputs(layer.name, layer.geometry.semantics.images(given))

    def run(self, batch: Batch, stacks: Stacks = ()) -> Outputs:
        """See `Runner.run`; with stacks the changed model itself is run."""
        session = self._changed(stacks) if stacks else self._network.session(self._types)
        with self._sizes():
            found = [session(values) for values in self.parts(batch)]
        return self.batching.joined(found, _count(batch), self.varying)

    def _changed(self, stacks: Stacks) -> Session:
        # The same stacks come batch by batch.
        if self._stacks is None or self._stacks[0] is not stacks or self._stacks[1] is not self._network:
            model = self._model.replace({layer.name: factors for layer, factors in stacks})
            proto = model.proto if self._network is self._normal else with_batch_statistics(model.proto)
            session = _Network(proto, self.outputs, model).session(self._types)
            self._stacks = stacks, self._network, session
        return self._stacks[2]

    def trials(
        self, candidates: Sequence[tuple[ConvLayer, Sequence[Factors]]], batch: Batch
    ) -> Iterator[tuple[str, int, Outputs]]:
        """See `Runner.trials`."""
        network, pieces, envs, piece = self._network, self._network.pieces, self.parts(batch), 0
        for layer, stacks in candidates:
            while piece < pieces.number(min(network.uses(layer))):
                envs = [pieces.advance(values, piece) for values in envs]
                piece += 1
            for index, stack in enumerate(stacks):
                changed = self._weights(layer, stack)
                found = envs
                for number in range(piece, len(pieces)):
                    found = [pieces.advance(values, number, changed.get(number)) for values in found]
                yield layer.name, index, self.batching.joined(found, _count(batch), self.varying)

    def _weights(self, layer: ConvLayer, stack: Factors) -> dict[int, Weights]:
        """Weight and bias of the convolution that a stack equals, by the number of each use's piece."""
        group, pieces = self._model.group(layer.name), self._network.pieces
        first, dtype = group.uses[0], helper.tensor_dtype_to_np_dtype(group.weight.tensor.data_type)
        whole = composed(stack).reshape(layer.geometry.weight_shape)
        weight = first.adapter.stored(first.node, whole, layer.geometry).astype(dtype)
        zeros = np.zeros(layer.geometry.c_out)
        biases = [bias_of(use, self._model.files) for use in group.uses]
        last = stack.convs[-1].bias
        shift = (zeros if last is None else last) - (zeros if biases[0] is None else biases[0])
        return {
            pieces.number(position): (weight, (shift + (zeros if own is None else own)).astype(dtype))
            for position, own in zip(self._network.uses(layer), biases, strict=True)
        }

    def parts(self, batch: Batch) -> list[Values]:
        """A batch as what the model takes at a time."""
        typed = {
            name: array.astype(helper.tensor_dtype_to_np_dtype(self._types[name]), copy=False)
            for name, array in batch.items()
        }
        return self.batching.parts(typed)

    @property
    def has_batch_statistics(self) -> bool:
        """See `Runner.has_batch_statistics`."""
        return any(is_op(node, "BatchNormalization") for node in self._model.proto.graph.node)

    @contextmanager
    def batch_statistics(self) -> Iterator[None]:
        """See `Runner.batch_statistics`."""
        self._network = self._by_batch
        try:
            yield
        finally:
            self._network = self._normal

    @cached_property
    def _by_batch(self) -> _Network:
        if not self.has_batch_statistics:
            return self._normal
        return _Network(with_batch_statistics(self._model.proto), self.outputs, self._model)


class _Network:
    """A graph with its protected outputs, in the forms in which it is run."""

    def __init__(self, proto: ModelProto, outputs: tuple[str, ...], model: OnnxModel) -> None:
        self.graph = Graph(proto, outputs, model.files)
        self._model = model
        self._session: Session | None = None

    def uses(self, layer: ConvLayer) -> list[int]:
        """Positions of all nodes of a layer; none where outputs do not depend on all of them."""
        uses = self._model.group(layer.name).uses
        found = [self.graph.position(use.node.output[0]) for use in uses if use.scope.number == 0]
        return found if len(found) == len(uses) and min(found) >= 0 else []

    @cached_property
    def pieces(self) -> Pieces:
        """The graph cut at every convolution that can be replaced."""
        layers = [layer for layer in self._model.convolutions() if isinstance(layer, ConvLayer)]
        return Pieces(self.graph, [use for layer in layers for use in self.uses(layer)])

    def session(self, types: Mapping[str, int]) -> Session:
        """The graph as a whole."""
        if self._session is None:
            outputs, stop = self.graph.outputs, len(self.graph.model.graph.node)
            self._session = Session(self.graph.part(0, stop, types, outputs), outputs)
        return self._session

    @cached_property
    def in_torch(self) -> tuple[OnnxNet | None, str]:
        """The graph in torch, or why there is none."""
        blind = "fits cannot be weighted by gradients of the outputs"
        try:
            from ....onnx_torch import OnnxNet, UnsupportedError  # noqa: PLC0415 - an extra
        except ModuleNotFoundError:
            return None, f"{blind}: that needs PyTorch (pip install 'twofold[torch]')"
        try:
            net = OnnxNet(self.graph.model, self.graph.outputs, self._model.files)
        except UnsupportedError as error:
            return None, f"{blind}: no gradients are known of {error}"
        net.constants = {name: one.to(current_device()) for name, one in net.constants.items()}
        return net, ""

    def watch_gradients(
        self, places: Mapping[int, ConvLayer], parts: Sequence[Values], generator: np.random.Generator
    ) -> Iterator[LayerInputs]:
        """Run in torch, forward and back."""
        from .differentiate import record_inputs  # noqa: PLC0415 - an extra

        net, _ = self.in_torch
        assert net is not None, "Bug: asked for gradients that there are not"
        for values in parts:
            yield from record_inputs(net, places, values, generator)


def _count(batch: Batch) -> int:
    """Number of samples."""
    return len(next(iter(batch.values())))
