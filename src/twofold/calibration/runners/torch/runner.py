"""Runs PyTorch modules: a copy of the module, so that the user's own stays as it is, hooks and all."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ....conv import ConvLayer, Factors
from ....device import current_device
from ....errors import InputError, option
from ....formats.torch.convolution import adapter_for, stack_like
from ....formats.torch.copies import copied, evaluated
from ....formats.torch.groups import Group, find_groups
from ....formats.torch.inputs import Arguments, moved
from ....formats.torch.model import TorchModel, with_own_bias
from ....formats.torch.outputs import flat
from ...inputs import Batch, SampleShape
from ...runner import LayerInputs, Norm, Outputs, Place, Stacks
from ..early import first_norm, first_place
from ..gradients import output_gradients, recurrent, runtime_text
from .hooks import Forward, Recorder, Tape, array_of, forwards_of
from .returned import Sources, Values, checked
from .sizes import varying_outputs, watched


def make_runner(model: TorchModel, targets: tuple[str, ...] = ()) -> TorchRunner:
    """The runner of a module; see `runner_for`."""
    if model.example_inputs is None:
        raise InputError(
            "what the forward takes is not known: give one input as example_inputs, such as "
            "torch.zeros(1, 3, 224, 224) for images of that size, or data"
        )
    return TorchRunner(model.module, model.example_inputs, targets)


class TorchRunner:
    """A `Runner` for a module.

    Attributes:
        module: the copy that is run.
        inputs: shapes of the samples of its tensor arguments, without the batch axis.
        network_outputs: names of the tensors in what forward returns.
        outputs: names of those that are protected, or of what they are read out of.
        examples: the tensors that it was called with first, by name.
        varying: those of `network_outputs` whose size depends on values.
        described: the user's own module.
        runtime: see `Runner`.
    """

    any_size = True
    notes: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()

    def __init__(self, module: nn.Module, example_inputs: Any, targets: tuple[str, ...] = ()) -> None:
        self.described = module
        self.module = evaluated(copied(module)).requires_grad_(False)
        self.runtime = runtime_text(current_device())
        if (device := current_device()) is not None:
            self.module, example_inputs = self.module.to(device), moved(example_inputs, device)
        self._call = Arguments.of(module, example_inputs)
        tensors = {name: tensor for name, tensor in self._call.tensors.items() if tensor.dim()}
        if not tensors:
            raise InputError("forward takes no tensor with a batch axis, so it cannot be calibrated")
        # Numbers as tensors, and tables that all samples share, are passed as they are.
        count = next(iter(tensors.values())).shape[0]
        tensors = {name: tensor for name, tensor in tensors.items() if tensor.shape[0] == count}
        self.inputs: dict[str, SampleShape] = {name: tuple(one.shape[1:]) for name, one in tensors.items()}
        self.examples = {name: array_of(tensor) for name, tensor in tensors.items()}
        self._groups = {group.name: group for group in find_groups(self.module)}
        self.differentiable = False
        self._names = self._probe(targets)

    def _probe(self, targets: tuple[str, ...]) -> dict[str, None]:
        """Run once: which convolutions the protected outputs depend on, in the order of their first call."""
        self.varying, before = varying_outputs(self.module, lambda: flat(self._call.call(self.module)))
        known = dict(self.module.named_modules())
        self._inner = {name.partition("#")[0] for name in (*before, *targets)} & known.keys() - {""}
        seen = Recorder({name: self._modules(name) for name in self._groups}, differentiate=True)
        with torch.enable_grad(), recurrent(self.module), seen.hooked():
            found = self._values(self._call)
        self.network_outputs = tuple(found.network_outputs)
        self.outputs = checked(targets, found) if targets else self._fixed(found, before)
        if not self.outputs:
            raise InputError(
                f"forward returns no tensor of numbers, but {', '.join(self.network_outputs) or 'nothing'}"
            )
        values = [found.values[name] for name in self.outputs if found.values[name].requires_grad]
        called = dict.fromkeys(use.layer for use in seen.uses)
        if not values:  # forward forbids gradients
            return called
        self.differentiable = True
        ones = [torch.ones_like(value) for value in values]
        try:
            by_use = torch.autograd.grad(values, [use.output for use in seen.uses], ones, allow_unused=True)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError:  # a function of its own without a gradient, or one that computes forward again
            self.differentiable = False
            return called
        names = {use.layer for use, gradient in zip(seen.uses, by_use, strict=True) if gradient is not None}
        return {name: None for name in called if name in names}

    def _fixed(self, found: Values, before: tuple[str, ...]) -> tuple[str, ...]:
        """What is protected by default: all of fixed size that is returned, or is the last before the rest.

        Raises:
            InputError: there is no such tensor.
        """
        if not self.varying:
            return found.read
        read = [name for name in found.read if name.partition(" before ")[0] not in self.varying]
        fixed = (*read, *(name for name in before if name in found.values))
        varying = ", ".join(map(repr, sorted(self.varying)))
        if not fixed:
            raise InputError(
                f"the size of {varying} depends on the values, and no module before gives a tensor of fixed "
                f"size; name modules whose results are to change least: {option('targets')}"
            )
        names = ", ".join(map(repr, fixed))
        self.notes = (
            *self.notes,
            f"the size of {varying} depends on the values, so errors are those of {names} before; "
            f"name others: {option('targets')}",
        )
        return fixed

    def entrance(self) -> Place | None:
        """See `Runner.entrance`."""
        return first_place(self.module, self._run, self._examples())

    def first_norm(self) -> Norm | None:
        """See `Runner.first_norm`."""
        return first_norm(self.module, self._run, self._examples())

    def _examples(self) -> Batch:
        return {name: value[:1] for name, value in self.examples.items()}

    def reached(self, layers: Sequence[ConvLayer]) -> tuple[ConvLayer, ...]:
        """See `Runner.reached`."""
        by_name = {layer.name: layer for layer in layers}
        return tuple(by_name[name] for name in self._names if name in by_name)

    def _modules(self, name: str) -> list[nn.Module]:
        return [module for module, _ in self._groups[name].modules]

    # ---- running

    def record_inputs(
        self, layers: Sequence[ConvLayer], batch: Batch, gradients: np.random.Generator | None = None,
        stacks: Stacks = (),
    ) -> Iterator[LayerInputs]:  # fmt: skip
        """See `Runner.record_inputs`."""
        seen = Recorder({layer.name: self._modules(layer.name) for layer in layers}, gradients is not None)
        if gradients is None:
            with torch.no_grad(), self._swapped(stacks), seen.hooked():
                self._run(batch)
            yield from (LayerInputs(use.layer, use.input) for use in seen.uses)
            return
        with torch.enable_grad(), recurrent(self.module), seen.hooked():
            found = self._run(batch)
        values = [found.values[name] for name in self.outputs]
        for use, gradient in zip(
            seen.uses, output_gradients(values, [use.output for use in seen.uses], gradients), strict=True
        ):
            yield LayerInputs(
                use.layer, use.input, array_of(adapter_for(use.module).images(use.module, gradient))
            )

    def run(self, batch: Batch, stacks: Stacks = ()) -> Outputs:
        """See `Runner.run`."""
        with torch.no_grad(), self._swapped(stacks):
            return self._outputs(self._run(batch))

    def tensors(self, batch: Batch) -> dict[str, Tensor]:
        """The protected outputs with their gradients, where those are on."""
        return self._protected(self._run(batch))

    def trials(
        self, candidates: Sequence[tuple[ConvLayer, Sequence[Factors]]], batch: Batch
    ) -> Iterator[tuple[str, int, Outputs]]:
        """See `Runner.trials`; what convolutions before the changed one give is computed once."""
        modules = [module for name in self._groups for module in self._modules(name)]
        with torch.no_grad():
            tape = Tape(modules)
            with forwards_of(tape.recording()):
                self._run(batch)
            for layer, stacks in candidates:
                first = tape.first_call(self._modules(layer.name))
                for index, stack in enumerate(stacks):
                    with forwards_of(tape.replaying(first, self._stacks(layer, stack))):
                        yield layer.name, index, self._outputs(self._run(batch))

    def _swapped(self, stacks: Stacks) -> AbstractContextManager[None]:
        forwards: dict[nn.Module, Forward] = {}
        for layer, stack in stacks:
            forwards |= self._stacks(layer, stack)
        return forwards_of(forwards)

    def _stacks(self, layer: ConvLayer, stack: Factors) -> dict[nn.Module, Forward]:
        """The module of each use of a layer -> what runs in its place."""
        group: Group = self._groups[layer.name]
        owner = group.modules[0][0]
        return {
            module: stack_like(module, with_own_bias(stack.convs, module, owner)).forward
            for module, _ in group.modules
        }

    def _run(self, batch: Batch) -> Values:
        like = self._call.tensors
        # A copy: arrays of calibration inputs are read-only, which tensors cannot be.
        tensors = {
            name: torch.from_numpy(np.array(array)).to(like[name].device, like[name].dtype)
            for name, array in batch.items()
        }
        return self._values(self._call.with_tensors(tensors))

    def _values(self, call: Arguments) -> Values:
        inner: dict[str, Tensor] = {}

        def note(name: str, output: Any) -> None:
            if isinstance(output, Tensor):
                inner[name] = output

        with Sources() as sources, watched(self.module, self._inner, note):
            result = call.call(self.module)
        found = Values.of(result, sources)
        return dataclasses.replace(found, values={**inner, **found.values})

    def _outputs(self, found: Values) -> Outputs:
        return {name: array_of(tensor) for name, tensor in self._protected(found).items()}

    def _protected(self, found: Values) -> dict[str, Tensor]:
        # A list of an image each has as many entries as the batch, which may be another than the examples'.
        wanted = [name for name in self.outputs if name in found.values or name not in self.varying]
        missing = [name for name in wanted if name not in found.values]
        if missing:
            raise InputError(f"forward returned no {missing[0]!r} this time, only {', '.join(found.values)}")
        return {name: found.values[name] for name in wanted}

    def _norms(self) -> list[_BatchNorm]:
        found = (one for one in self.module.modules() if isinstance(one, _BatchNorm))
        return [one for one in found if one.track_running_stats]

    @property
    def has_batch_statistics(self) -> bool:
        """See `Runner.has_batch_statistics`."""
        return bool(self._norms())

    @contextmanager
    def batch_statistics(self) -> Iterator[None]:
        """See `Runner.batch_statistics`."""
        norms = self._norms()
        momenta = [one.momentum for one in norms]
        for one in norms:
            one.training, one.momentum = True, 0.0  # the stored statistics stay
        try:
            yield
        finally:
            for one, momentum in zip(norms, momenta, strict=True):
                one.training, one.momentum = False, momentum
