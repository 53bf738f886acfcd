"""A Caffe net as a torch module: the same layers, blobs and numbers."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..conv import Size
from ..errors import InputError, ModelError
from ..formats.caffe.net import LayerSpec, NetDefinition
from ..formats.caffe.shapes import walk_shapes
from .data import Feed
from .layer import ROOM, Filling, Layer, Setup, Unavailable
from .layers import LayerMap
from .parameters import Learnable, Weights, arrays, check_count, learnables, load, share
from .registry import build_layer
from .schedule import live, outputs, schedule

Blobs = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Step:
    """One layer that has just run, as `CaffeNet.walk` yields it.

    Attributes:
        index: position of the layer.
        spec: its definition.
        module: what ran.
        bottoms: its inputs as it got them, whatever it did to blobs in place.
        tops: its outputs.
        blobs: all blobs that are alive, the tops among them. What is put here, the following layers read.
    """

    index: int
    spec: LayerSpec
    module: nn.Module
    bottoms: tuple[Tensor, ...]
    tops: tuple[Tensor, ...]
    blobs: MutableMapping[str, Tensor]


class CaffeNet(nn.Module):
    """A net in torch.

    `train()` and `eval()` switch between Caffe's phases TRAIN and TEST; a net starts in its definition's
    phase. Inputs may have any shape that the layers allow. No layer works in place on a tensor, even where
    the definition says so, so blobs that were given or kept never change.

    Attributes:
        definition: what it was built from; `definition.layers[i]` describes layer i.
        layers: the layers as submodules, by Caffe name or position; hooks go here.
        inputs: blobs to feed.
        outputs: blobs that a layer computes and none consumes.
        unfilled: layers that have parameters but none in the weights; they keep their filler's values.
    """

    def __init__(
        self,
        definition: NetDefinition,
        weights: Weights | None = None,
        *,
        until: str | None = None,
        shapes: Mapping[str, Size] | None = None,
        seed: int = 0,
        room: int = ROOM,
    ) -> None:
        """Build the net, or its beginning.

        Args:
            definition: a net for one phase.
            weights: arrays of each layer, in the order of the file; layers without any are filled.
            until: name of the last layer to build; None for all.
            shapes: shapes of inputs that replace what the definition says.
            seed: of the fillers.
            room: bytes that blobs may take which no weights hold.

        Raises:
            ModelError: weights do not fit the definition, or parameters do not fit the inputs.
        """
        super().__init__()
        if until is not None:
            last = definition.layers.index(definition.layer(until))
            definition = replace(definition, layers=definition.layers[: last + 1])
        stored = weights or {}
        filling = Filling(torch.Generator().manual_seed(seed), room)
        built = _build(definition, stored, shapes, filling)
        self.unfilled = tuple(
            layer.spec.name for layer in built if layer.blob_names and not stored.get(layer.spec.name)
        )
        self._join(definition, built, stored)

    def _join(self, definition: NetDefinition, built: Sequence[Layer], weights: Weights) -> None:
        self.definition = definition
        self.layers = LayerMap()
        for layer in built:
            self.layers.append(layer.spec.name, layer)
        self.inputs = tuple(top for layer in built if _is_fed(layer) for top in layer.spec.tops)
        self.outputs = outputs(definition.layers)
        self._loss_weights = tuple(_loss_weights(layer) for layer in built)
        self._owners = share(built, weights)
        for layer in built:
            layer.loaded()
        self.train(definition.phase == "TRAIN")

    def without(self, positions: Collection[int]) -> CaffeNet:
        """A net without the layers at some positions; it has the same modules for the others."""
        kept = [index for index in range(len(self.layers)) if index not in positions]
        specs = tuple(self.definition.layers[index] for index in kept)
        layers = [layer for index in kept if isinstance(layer := self.layers[index], Layer)]
        net = CaffeNet(replace(self.definition, layers=()))
        net.unfilled = tuple(spec.name for spec in specs if spec.name in self.unfilled)
        net._join(replace(self.definition, layers=specs), layers, {})
        return net.train(self.training)

    def placed(self, device: torch.device) -> CaffeNet:
        """The net itself, moved to a device, laid out to run fast there.

        On a CPU the weights of its convolutions along two axes lie channels last, and all activations with
        them: a step of the example's nets takes a fifth less time.
        """
        self.to(device)
        if device.type == "cpu":
            for one in (*self.parameters(), *self.buffers()):
                if one.dim() == 4:
                    one.data = one.data.contiguous(memory_format=torch.channels_last)
        return self

    # ---- running

    def forward(
        self, *inputs: Tensor | Blobs, blobs: Collection[str] | None = None, **named: Tensor
    ) -> dict[str, Tensor]:
        """Run the net.

        Args:
            inputs: one mapping from blob name to tensor, or tensors in the order of `self.inputs`.
            blobs: which blobs to return, as they are after their last change; None for `self.outputs`. Only
                layers that these depend on run.
            named: inputs by name.

        Raises:
            InputError: an input is missing or unknown.
            ModelError: a layer cannot be run, or its input does not fit.
        """
        return self.execute(self._feed(inputs, named), keep=blobs)

    def loss(self, *inputs: Tensor | Blobs, **named: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the net; gives the sum of its losses times their `loss_weight`, and its outputs."""
        # A loss counts even if it has no top, as in old nets, or if a Silence layer swallows it.
        losses = [position for position, weights in enumerate(self._loss_weights) if any(weights)]
        terms, kept = [], {}
        for step in self._walk(self._feed(inputs, named), 0, len(self.layers), self.outputs, losses):
            for weight, top in zip(self._loss_weights[step.index], step.tops, strict=False):
                if weight:
                    terms.append(weight * top.sum())
            kept.update({n: t for n, t in zip(step.spec.tops, step.tops, strict=False) if n in self.outputs})
        if not terms:
            raise ModelError(f"net {self.definition.name!r} has no loss layer; is it a deploy definition?")
        return torch.stack(terms).sum(), kept

    def execute(
        self, env: Blobs, start: int = 0, stop: int | None = None, keep: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Run the layers from position `start` up to `stop`.

        `net.execute(net.execute(env, 0, k), k)` is `net.execute(env)`.

        Args:
            env: blobs as they are before layer `start`; others that are not needed do not matter.
            start: position of the first layer.
            stop: position behind the last layer; None for the end.
            keep: blobs to return as they are at `stop`; only layers that these depend on run. None for
                `self.live(stop)`, all that a later `execute` from `stop` may need.

        Returns:
            The blobs to keep. `env` is not changed, nor are its tensors.
        """
        stop = len(self.layers) if stop is None else stop
        wanted = self.live(stop) if keep is None else keep
        blobs = dict(env)
        deque(self._walk(blobs, start, stop, wanted), maxlen=0)  # runs it and holds on to nothing
        for name in keep or ():
            if name not in blobs:
                where = f"blob {name!r} is wanted behind layer {stop} of {len(self.layers)}"
                raise self._missing(name, where)
        return {name: blobs[name] for name in wanted if name in blobs}

    def walk(
        self, env: Blobs, start: int = 0, stop: int | None = None, keep: Collection[str] | None = None
    ) -> Iterator[Step]:
        """Run like `execute`, and stop behind every layer to be looked at.

        Yields:
            A `Step` per layer that runs, in order. Layers that are fed do not run.
        """
        stop = len(self.layers) if stop is None else stop
        return self._walk(dict(env), start, stop, self.live(stop) if keep is None else keep)

    def _walk(
        self,
        blobs: dict[str, Tensor],
        start: int,
        stop: int,
        keep: Collection[str],
        also: Collection[int] = (),
    ) -> Iterator[Step]:
        for scheduled in schedule(self.definition.layers, start, stop, keep, also):
            index = scheduled.index
            spec, module = self.definition.layers[index], self.layers[index]
            if _is_fed(module) or (not spec.bottoms and blobs.keys() >= set(spec.tops)):
                continue
            for name in spec.bottoms:
                if name not in blobs:
                    raise self._missing(name, f"layer {spec.name!r} ({spec.type}) reads blob {name!r}")
            bottoms = tuple(blobs[name] for name in spec.bottoms)
            tops = _call(spec, module, bottoms)
            blobs.update(zip(spec.tops, tops, strict=False))
            yield Step(index, spec, module, bottoms, tops, blobs)
            # What is freed must be freed before the next layer needs the memory.
            del bottoms, tops
            for name in scheduled.frees:
                blobs.pop(name, None)

    def check(self) -> None:
        """Find out whether the net can be run, without running it.

        Raises:
            ModelError: a layer that its outputs or its loss need cannot be run.
        """
        losses = [position for position, weights in enumerate(self._loss_weights) if any(weights)]
        for step in schedule(self.definition.layers, 0, len(self.layers), self.outputs, losses):
            layer = self.layers[step.index]
            if isinstance(layer, Layer) and not _is_fed(layer) and layer.obstacle is not None:
                raise layer.obstacle

    def live(self, position: int) -> frozenset[str]:
        """Blobs that are there before layer `position` and read from there on, or outputs already."""
        return live(self.definition.layers, position, self.outputs, frozenset(self.inputs))

    def layer_index(self, name: str) -> int:
        """Position of a layer.

        Raises:
            ModelError: there is none of that name.
        """
        return self.layers.index(name)

    def _feed(self, inputs: tuple[Tensor | Blobs, ...], named: Blobs) -> dict[str, Tensor]:
        env: dict[str, Tensor] = dict(named)
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            env.update(inputs[0])
        elif len(inputs) > len(self.inputs):
            raise InputError(f"{len(inputs)} inputs given; the net takes {', '.join(self.inputs) or 'none'}")
        else:
            for name, value in zip(self.inputs, inputs, strict=False):
                assert isinstance(value, Tensor)
                env[name] = value
        sources = {top for spec in self.definition.layers if not spec.bottoms for top in spec.tops}
        for name in env:
            if name not in sources:
                raise InputError(f"the net has no input {name!r}; it has {', '.join(self.inputs) or 'none'}")
        return env

    def _missing(self, name: str, where: str) -> InputError | ModelError:
        if name in self.inputs:
            return InputError(
                f"{where}, an input that was not given; feed it, or ask only for blobs that do not need it"
            )
        return ModelError(f"{where}, which is not there; run the layer that computes it, or give it")

    # ---- exchanging layers

    def replace(self, name: str, module: nn.Module) -> nn.Module:
        """Put another module in the place of layer `name`; gives the old one.

        The module is called with the layer's bottoms and returns its top, or a tuple of them. It must not
        change its inputs.
        """
        old = self.layers[name]
        self.layers[name] = module.train(self.training)
        return old

    @contextmanager
    def swapped(self, modules: Mapping[str, nn.Module]) -> Iterator[CaffeNet]:
        """Within the context other modules stand in the place of the named layers."""
        old: dict[str, nn.Module] = {}
        try:
            for name, module in modules.items():
                old[name] = self.replace(name, module)
            yield self
        finally:
            for name, module in old.items():
                self.layers[name] = module

    # ---- parameters

    def learnables(self) -> list[Learnable]:
        """All parameter blobs in the order of Caffe's solver, shared ones once."""
        own = {i: layer for i, layer in enumerate(self.layers) if isinstance(layer, Layer)}
        return learnables(own, self._owners)

    def load_arrays(self, weights: Weights) -> None:
        """Copy weights into the layers of their names; other layers keep what they have.

        Raises:
            ModelError: a layer has other blobs.
        """
        load((layer for layer in self.layers if isinstance(layer, Layer)), weights)

    def arrays(self) -> dict[str, list[NDArray[np.float32]]]:
        """The parameter blobs of every layer that has any, as a weight file holds them."""
        return arrays(layer for layer in self.layers if isinstance(layer, Layer))


def _build(
    definition: NetDefinition, weights: Weights, shapes: Mapping[str, Size] | None, filling: Filling
) -> list[Layer]:
    built = []
    for spec, (bottoms, _) in zip(definition.layers, walk_shapes(definition, shapes), strict=True):
        stored = weights.get(spec.name)
        layer = build_layer(Setup(spec, bottoms, stored or None, filling))
        check_count(layer, stored)
        built.append(layer)
    return built


def _is_fed(layer: nn.Module) -> bool:
    """Whether the caller gives a layer's tops: so it is with data layers, those of unknown type too."""
    return isinstance(layer, Feed) or (isinstance(layer, Unavailable) and not layer.spec.bottoms)


def _call(spec: LayerSpec, module: nn.Module, bottoms: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Run one layer; an error tells which it was and what it was given."""
    # `propagate_down: false` stops the gradient of that bottom.
    stopped = spec.fields.all("propagate_down")
    given = [b.detach() if i < len(stopped) and not stopped[i] else b for i, b in enumerate(bottoms)]
    try:
        tops = module(*given)
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        shapes = ", ".join(str(list(bottom.shape)) for bottom in given) or "none"
        raise ModelError(
            f"layer {spec.name!r} ({spec.type}) cannot run on inputs of shape {shapes}: {error}"
        ) from error
    return (tops,) if isinstance(tops, Tensor) else tuple(tops)


def _loss_weights(layer: Layer) -> tuple[float, ...]:
    given = layer.spec.fields.numbers("loss_weight")
    if given or not isinstance(layer, Unavailable):
        return given or (layer.default_loss_weight,)
    # A loss that cannot be run is no loss that may be left out.
    return (float(layer.spec.type.rpartition("Loss")[1] != ""),)
