"""Runs Caffe models in torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...caffe_torch import CaffeNet, batch_statistics
from ...caffe_torch.model import to_torch
from ...caffe_torch.normalization import Normalization
from ...caffe_torch.runnable import Runnable, runnable
from ...caffe_torch.schedule import Scheduled, schedule
from ...conv import ConvLayer, Factors, Size
from ...device import current_device
from ...errors import InputError, ModelError, OptionError, remedy, shape_option
from ...formats.caffe.layer_types import LayerAdapter, adapter_of
from ...formats.caffe.model import CaffeModel
from ...formats.caffe.net import LayerSpec
from ...formats.caffe.shapes import walk_shapes
from ...formats.torch.layer_types import convolve
from ...layer_types import LAYER_TYPES
from ..inputs import Batch, SampleShape
from ..preprocessing.transform_param import CaffeDescription
from ..runner import LayerInputs, Norm, Outputs, Place, Stacks
from .gradients import output_gradients, runtime_text
from .readout import CAFFE as READOUT

#: Types whose values do not depend on those of their bottoms.
CONSTANT = frozenset(("PriorBox", "Shape"))


def make_runner(model: CaffeModel, targets: tuple[str, ...] = ()) -> CaffeRunner:
    """The runner of a Caffe model; see `runner_for`."""
    path = model.definition.path
    return CaffeRunner(to_torch(model, "TEST"), targets, model.inputs, Path(path).parent if path else Path())


class CaffeRunner:
    """A `Runner` for a net in torch.

    Attributes:
        net: the net, in its test phase and without gradients of its weights.
        outputs: blobs that are protected.
        inputs: shapes of the samples that must be fed, without the batch axis.
        runtime: see `Runner`.
        examples: none; a file holds no inputs.
    """

    examples: Mapping[str, NDArray[np.float32]] = {}

    differentiable = True
    any_size = False
    varying: frozenset[str] = frozenset()

    def __init__(
        self, net: CaffeNet, targets: tuple[str, ...] = (), shapes: Mapping[str, Size] | None = None,
        folder: Path = Path(),
    ) -> None:  # fmt: skip
        self._device = current_device() or torch.device("cpu")
        self.runtime = runtime_text(current_device())
        self._part = runnable(net.eval().requires_grad_(False).placed(self._device))
        self.net = self._part.net
        self._specs = self.net.definition.layers
        self._folder = folder
        self.outputs = _checked(self._part, targets) if targets else _protected(self._part)
        self._scheduled = [one.index for one in self._schedule(0)]
        self.inputs = self._inputs(shapes)

    def _schedule(self, position: int) -> list[Scheduled]:
        return schedule(self._specs, position, len(self._specs), self.outputs)

    def _inputs(self, shapes: Mapping[str, Size] | None) -> dict[str, SampleShape]:
        found: dict[str, SampleShape] = {}
        # One layer may feed several, of which some, such as im_info, go to what cannot be run alone.
        read = {*self.outputs, *(name for index in self._scheduled for name in self._specs[index].bottoms)}
        for index, (_, tops) in enumerate(walk_shapes(self.net.definition, shapes)):
            for name, shape in tops.items():
                if name in self.net.inputs and name in read and index in self._scheduled:
                    if shape is None:
                        raise InputError(
                            f"the shape of input {name!r} is not known; give it: {shape_option(name)}"
                        )
                    found[name] = tuple(shape[1:])
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """See `Runner.notes`."""
        return self._part.notes

    @property
    def described(self) -> CaffeDescription:
        """See `Runner.described`."""
        return CaffeDescription(self.net.definition, self._folder)

    def entrance(self) -> Place | None:
        """See `Runner.entrance`; a Caffe net says itself what it takes, or follows Caffe's convention."""
        return None

    def first_norm(self) -> Norm | None:
        """See `Runner.first_norm` and `entrance`."""
        return None

    @property
    def stopped(self) -> tuple[str, ...]:
        """See `Runner.stopped`."""
        return self._part.stopped

    @property
    def network_outputs(self) -> tuple[str, ...]:
        """See `Runner.network_outputs`."""
        return self.net.outputs

    # ---- layers

    def _uses(self, layer: ConvLayer) -> list[int]:
        """Positions of a layer and of those that share its weight, as far as outputs depend on them."""
        names = {layer.name, *layer.sharers}
        return [index for index in self._scheduled if self._specs[index].name in names]

    def reached(self, layers: Sequence[ConvLayer]) -> tuple[ConvLayer, ...]:
        """See `Runner.reached`."""
        first = {layer.name: min(self._uses(layer), default=-1) for layer in layers}
        found = [layer for layer in layers if first[layer.name] >= 0]
        return tuple(sorted(found, key=lambda layer: first[layer.name]))

    # ---- running

    def record_inputs(
        self, layers: Sequence[ConvLayer], batch: Batch, gradients: np.random.Generator | None = None,
        stacks: Stacks = (),
    ) -> Iterator[LayerInputs]:  # fmt: skip
        """See `Runner.record_inputs`."""
        names = {index: layer.name for layer in layers for index in self._uses(layer)}
        if gradients is not None:
            yield from self._watch_gradients(names, batch, gradients)
            return
        # Layers behind the last that is looked at need not run.
        stop = max(names, default=-1) + 1
        with torch.no_grad(), self._swapped(stacks):
            for step in self.net.walk(self._tensors(batch), 0, stop, self._needed(stop)):
                if step.index in names:
                    for bottom in step.bottoms:
                        yield LayerInputs(names[step.index], _array(self._images(step.index, bottom)))

    def _watch_gradients(
        self, names: Mapping[int, str], batch: Batch, generator: np.random.Generator
    ) -> Iterator[LayerInputs]:
        seen: list[tuple[int, Tensor, Tensor]] = []
        blobs: Mapping[str, Tensor] = {}
        feed = {name: tensor.requires_grad_() for name, tensor in self._tensors(batch).items()}
        for step in self.net.walk(feed, keep=self.outputs):
            blobs = step.blobs
            if step.index in names:
                for bottom, top in zip(step.bottoms, step.tops, strict=True):
                    seen.append((step.index, bottom, top))
        values = [blobs[name] for name in self.outputs]
        found = output_gradients(values, [top for *_, top in seen], generator)
        for (index, bottom, _), gradient in zip(seen, found, strict=True):
            images = _array(self._images(index, bottom))
            yield LayerInputs(names[index], images, _array(self._images(index, gradient, made=True)))

    def _images(self, index: int, blob: Tensor, *, made: bool = False) -> Tensor:
        """What a layer is given, or what it made, as (N, C, *size)."""
        spec = self._specs[index]
        adapter = _adapter(spec)
        images: Tensor = LAYER_TYPES[adapter.layer_type].images(blob if made else adapter.values(spec, blob))
        return images

    def run(self, batch: Batch, stacks: Stacks = ()) -> Outputs:
        """See `Runner.run`."""
        with torch.no_grad(), self._swapped(stacks):
            return _arrays(self.net.execute(self._tensors(batch), keep=self.outputs))

    def trials(
        self, candidates: Sequence[tuple[ConvLayer, Sequence[Factors]]], batch: Batch
    ) -> Iterator[tuple[str, int, Outputs]]:
        """See `Runner.trials`."""
        env: Mapping[str, Tensor] = self._tensors(batch)
        position = 0
        with torch.no_grad():
            for layer, stacks in candidates:
                uses = self._uses(layer)
                env = self.net.execute(env, position, min(uses), self._needed(min(uses)))
                position = min(uses)
                for index, stack in enumerate(stacks):
                    with self._swapped([(layer, stack)]):
                        yield layer.name, index, _arrays(self.net.execute(env, position, keep=self.outputs))

    def _swapped(self, stacks: Stacks) -> AbstractContextManager[CaffeNet]:
        modules: dict[str, nn.Module] = {}
        for layer, stack in stacks:
            specs = [self._specs[use] for use in self._uses(layer)]
            modules |= {spec.name: _Stack(stack, spec, self._device) for spec in specs}
        return self.net.swapped(modules)

    def _tensors(self, batch: Batch) -> dict[str, Tensor]:
        # A copy: arrays of calibration inputs are read-only, which tensors cannot be.
        return {
            name: torch.from_numpy(np.array(array, np.float32)).to(self._device)
            for name, array in batch.items()
        }

    def _needed(self, position: int) -> frozenset[str]:
        """Blobs at a position that the protected outputs depend on from there."""
        needed = set(self.outputs)
        for one in reversed(self._schedule(position)):
            needed.difference_update(self._specs[one.index].tops)
            needed.update(self._specs[one.index].bottoms)
        return frozenset(needed)

    @property
    def has_batch_statistics(self) -> bool:
        """See `Runner.has_batch_statistics`."""
        return any(isinstance(layer, Normalization) and layer.uses_stored for layer in self.net.layers)

    def batch_statistics(self) -> AbstractContextManager[None]:
        """See `Runner.batch_statistics`."""
        return batch_statistics(self.net)


class _Stack(nn.Module):
    """A stack in the place of a layer, called with the layer's bottoms."""

    def __init__(self, factors: Factors, spec: LayerSpec, device: torch.device) -> None:
        super().__init__()
        self._spec = spec
        self._convs = [
            (conv, _tensor(conv.weight, device), _tensor(conv.bias, device)) for conv in factors.convs
        ]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Convolve every bottom."""
        return tuple(self._convolve(bottom) for bottom in bottoms)

    def _convolve(self, blob: Tensor) -> Tensor:
        adapter = _adapter(self._spec)
        like = adapter.values(self._spec, blob)
        x = LAYER_TYPES[adapter.layer_type].images(like)
        for conv, weight, bias in self._convs:
            assert weight is not None
            x = convolve(conv.geometry, x, weight, bias)
        made: Tensor = LAYER_TYPES[adapter.layer_type].values(x, like)
        return made


def _adapter(spec: LayerSpec) -> LayerAdapter:
    adapter = adapter_of(spec.type)
    assert adapter is not None, "Bug: a layer of a type that is not decomposed"
    return adapter


def _tensor(array: np.ndarray | None, device: torch.device) -> Tensor | None:
    if array is None:
        return None
    tensor = torch.from_numpy(np.array(array, np.float32)).to(device)
    # As `CaffeNet.placed` has it.
    on_cpu = device.type == "cpu" and tensor.ndim == 4
    return tensor.contiguous(memory_format=torch.channels_last) if on_cpu else tensor


def _array(blob: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = blob.detach().cpu().numpy()
    return found


def _arrays(blobs: Mapping[str, Tensor]) -> Outputs:
    # Functions of the user's that look at outputs may rely on their layout.
    return {name: np.ascontiguousarray(_array(blob)) for name, blob in blobs.items()}


# ---- what is protected


def _checked(part: Runnable, names: tuple[str, ...]) -> tuple[str, ...]:
    net = part.net
    computed = {top for spec in net.definition.layers if spec.bottoms for top in spec.tops}
    for name in names:
        if name not in computed:
            why = f" ({'; '.join(part.stopped)})" if part.stopped else ""
            raise OptionError(
                f"the net computes no blob {name!r}; its outputs are {', '.join(net.outputs)}{why}"
            )
    return names


def _protected(part: Runnable) -> tuple[str, ...]:
    """What the outputs of the part of a net that can be run are read out of.

    Raises:
        ModelError: nothing that depends on the inputs can be computed.
    """
    net, specs = part.net, part.net.definition.layers
    alive = set(net.inputs)
    for spec in specs:
        if spec.bottoms and spec.type not in CONSTANT and not alive.isdisjoint(spec.bottoms):
            alive.update(spec.tops)
    last = {name: index for index, spec in enumerate(specs) for name in spec.tops}
    found: dict[str, None] = {}
    for name in net.outputs:
        if name in alive:
            found |= dict.fromkeys(_read_from(name, specs, last))
    protected = tuple(name for name in found if name in alive and name not in net.inputs)
    if not protected:
        why = "; ".join(part.stopped[:3]) or "none depends on the inputs"
        raise ModelError(
            f"no output of the net can be computed: {why}. "
            "Register a type (twofold.caffe_torch.register)"
            + remedy(", or use weights only ({})", "no_data=True")
        )
    return protected


def _read_from(name: str, specs: Sequence[LayerSpec], last: Mapping[str, int]) -> list[str]:
    """The blobs that layers of type `READOUT` make `name` of, or itself; for places of maxima the maxima."""
    producer = specs[last[name]]
    if producer.type == "Pooling" and name != producer.tops[0]:
        return [producer.tops[0]]
    in_place = not set(producer.bottoms).isdisjoint(producer.tops)
    # A name that a later layer uses again stands for another value in the end.
    hidden = any(last.get(bottom, -1) > last[name] for bottom in producer.bottoms)
    if producer.type not in READOUT or in_place or hidden:
        return [name]
    return [blob for bottom in producer.bottoms if bottom in last for blob in _read_from(bottom, specs, last)]
