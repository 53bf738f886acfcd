"""A Caffe net that is trained as it computes in int8, and its int8 form as ONNX.

Where ONNX Runtime's quantizer rounds the exported net, the net in training rounds: the weights of layers to
the ranges that they have at the moment, the values between layers to ranges that are trained. A weight is
rounded per output channel, and so it does not matter that the exported net has BatchNorm and Scale multiplied
into it: each channel's scale is multiplied, too, and its values fall to the same steps. These layers train as
they always do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor

from ..caffe_onnx.net import graph_outputs, value_names
from ..caffe_torch import CaffeNet, Layer
from ..caffe_torch.schedule import schedule
from ..calibration.inputs import Inputs, Provenance
from ..conv import Size
from ..errors import ModelError
from ..export import Graph, net_to_onnx
from ..formats.caffe.net import NetDefinition
from ..int8.parity import Agreement
from ..int8.qdq import quantized, session
from ..int8.quantized_tensors import find_places, scale_names
from .evaluate import Source
from .rounding import Rounding, State, Top
from .solver import Batch, DivergedError
from .storage import Write

Arrays = dict[str, NDArray[np.float32]]

#: Types of layers that int8 is for.
_WEIGHTED = ("Convolution", "Deconvolution", "InnerProduct")
#: Samples with which a model is compared before it is written, and whose values give the first ranges.
_PROBE, _SAMPLES = 8, 256


class Int8Net:
    """The int8 form of a net in training.

    Attributes:
        outputs: blobs that the int8 model gives.
        output_shapes: their shapes for one sample.
        floats: names of layers with weights that stay in float32.
    """

    def __init__(
        self,
        net: CaffeNet,
        deployed: NetDefinition,
        shapes: Mapping[str, Size],
        probe: Batch,
        device: torch.device,
    ) -> None:
        """Find out where it rounds.

        Args:
            net: the net in training.
            deployed: the net whose int8 form is written: that of the test phase, or that in training.
            shapes: shapes of the deployed net's inputs.
            probe: a batch of these inputs; what is written is run on its beginning.
            device: where nets compute.

        Raises:
            ModelError: the net cannot be exported, or nothing of it quantized.
            MissingExtraError: torchao, onnx or ONNX Runtime is not installed.
        """
        self._net, self._device = net, device
        # One sample at a time, where the batch cannot stay open.
        self._shapes = {name: (1, *shape[1:]) for name, shape in shapes.items()}
        self._deployed = CaffeNet(deployed, net.arrays(), shapes=self._shapes).eval()
        self.outputs = _trained_outputs(self._deployed)
        graph = self._graph()
        self.output_shapes: Mapping[str, Size] = {
            name: tuple(one.shape) for name, one in graph.traces[0].outputs.items()
        }
        self._probe = {name: probe[name][:_PROBE].numpy() for name in graph.traces[0].inputs}
        tops = _tops(self._deployed, net, graph)
        weights = {name: blobs[0].shape for name, blobs in net.arrays().items()}
        self._places = find_places(graph.proto, _sample(graph), tops.keys(), weights)
        self._rounding = Rounding(self._places, tops, device)
        rounded = self._places.weights
        self.floats = tuple(
            spec.name for spec in deployed.layers if spec.type in _WEIGHTED and spec.name not in rounded
        )
        self._made: bytes | None = None

    # ---- training

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and outputs of the net in int8.

        Raises:
            ModelError: a weight is no number any more.
        """
        try:
            with self._rounding.within(self._net):
                return self._net.loss(self._rounding.fed(batch))
        except AssertionError as error:  # as torchao says it
            if all(bool(one.isfinite().all()) for one in self._net.parameters()):
                raise
            raise DivergedError("a weight is not finite, so it has no range in int8") from error

    def learn(self, fraction: float) -> None:
        """A step of the ranges; see `Rounding.learn`. Comes behind every step of the solver."""
        self._made = None
        self._rounding.learn(fraction)

    @torch.no_grad()
    def begin(self, batches: Source, state: State) -> None:
        """Set the ranges, and hold that the int8 model can be made.

        Args:
            batches: what the net is trained with.
            state: of a training that is resumed; if empty, ranges are those that the net in float32 has.

        Raises:
            ModelError: the int8 model cannot be made.
        """
        if state:
            self._rounding.set_state(state)
        else:
            size = next(iter(batches.shapes().values()))[0]
            self._net.eval()
            with self._rounding.observing():
                for batch in batches.over(range(-(-_SAMPLES // size))):
                    self.loss({name: blob.to(self._device) for name, blob in batch.items()})
            self._net.train()
        self.content()

    def state(self) -> State:
        """What training goes on from, beside the net's weights."""
        return self._rounding.state()

    # ---- the int8 model

    def content(self) -> bytes:
        """The int8 model, with weights and ranges as they are now.

        Raises:
            ModelError: it cannot be made, or ONNX Runtime computes it otherwise than training.
        """
        if self._made is None:
            graph = self._graph()
            plain = self._run(self._probe)
            if not all(np.isfinite(one).all() for one in plain.values()):
                raise DivergedError("what the net gives is not finite, so it has no int8 form")
            int8 = quantized(graph.proto, _sample(graph), self._rounding.ranges(), self._places.floats)
            assert set(scale_names(int8)) <= self._places.scales.keys(), "Bug: what is rounded has changed"
            self._agreement(int8).reject("train without --qat, and quantize what comes out")
            self._made = int8.SerializeToString(deterministic=True)
        return self._made

    def writer(self) -> Write:
        """What writes the int8 model as it is now; see `content`."""
        content = self.content()

        def write(stream: BinaryIO) -> None:
            stream.write(content)

        return write

    def _graph(self) -> Graph:
        """The deployed net in float32, with the weights as they are now."""
        names = {spec.name for spec in self._deployed.definition.layers}
        arrays = {name: blobs for name, blobs in self._net.arrays().items() if name in names}
        self._deployed.load_arrays(arrays)
        return net_to_onnx(self._deployed, self._shapes, self.outputs)

    @torch.no_grad()
    def _run(self, batch: Arrays, *, rounds: bool = False) -> Arrays:
        """What the deployed net gives in torch, in float32 or as in training."""
        there = {name: torch.from_numpy(one.copy()).to(self._device) for name, one in batch.items()}
        net = self._deployed.to(self._device)
        if rounds:
            with self._rounding.within(net):
                blobs = net.execute(self._rounding.fed(there), keep=self.outputs)
        else:
            blobs = net.execute(there, keep=self.outputs)
        self._deployed.cpu()
        return {name: blob.cpu().numpy() for name, blob in blobs.items()}

    def _agreement(self, int8: ModelProto) -> Agreement:
        """Run an int8 model in ONNX Runtime beside the net as it is in training."""
        agreement = Agreement(int8, self.outputs)
        for row in range(len(next(iter(self._probe.values())))):
            # One by one: the batch may be fixed.
            part = {name: one[row : row + 1] for name, one in self._probe.items()}
            runtime = agreement.run(part)
            with self._rounding.following(agreement):
                agreement.compare(self._run(part, rounds=True), runtime)
        return agreement


class Int8Model:
    """A model in ONNX Runtime, for batches of any size."""

    def __init__(self, content: bytes) -> None:
        self._session = session(content)
        self._inputs = {one.name: one.shape for one in self._session.get_inputs()}
        self._outputs = [one.name for one in self._session.get_outputs()]

    def run(self, batch: Mapping[str, NDArray[np.float32]]) -> Arrays:
        """The outputs for a batch.

        Raises:
            ModelError: the model does not take it.
        """
        count = len(next(iter(batch.values())))
        fixed = any(shape and isinstance(shape[0], int) for shape in self._inputs.values())
        step = 1 if fixed else count
        parts = []
        for start in range(0, count, step):
            feed = {name: batch[name][start : start + step] for name in self._inputs}
            try:
                parts.append(self._session.run(self._outputs, feed))
            except Exception as error:  # whatever the runtime meets
                raise ModelError(f"ONNX Runtime cannot run the int8 model: {error}") from error
        joined = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return dict(zip(self._outputs, joined, strict=True))


def _trained_outputs(net: CaffeNet) -> tuple[str, ...]:
    """The outputs of a net to which layers with weights lead, which labels are not.

    Raises:
        ModelError: there are none.
    """
    specs = net.definition.layers
    with_weights = {i for i, layer in enumerate(net.layers) if isinstance(layer, Layer) and layer.blobs}
    every, _ = graph_outputs(net)
    found = tuple(
        name
        for name in every
        if any(one.index in with_weights for one in schedule(specs, 0, len(specs), [name]))
    )
    if not found:
        raise ModelError(
            f"net {net.definition.name!r} has no layers with weights that could be trained in int8"
        )
    return found


def _tops(deployed: CaffeNet, net: CaffeNet, graph: Graph) -> dict[str, Top]:
    """The values of an exported net that the net in training has, too."""
    types = {spec.name: spec.type for spec in net.definition.layers}
    found = {name: Top(None) for name in graph.traces[0].inputs}
    for index, values in value_names(deployed, graph.traces[0]).items():
        spec = deployed.definition.layers[index]
        if types.get(spec.name) == spec.type:
            found.update((value, Top(spec.name, number)) for number, value in enumerate(values))
    return found


def _sample(graph: Graph) -> Inputs:
    return Inputs(dict(graph.traces[0].inputs), Provenance("arrays"))
