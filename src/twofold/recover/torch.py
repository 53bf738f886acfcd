"""Trains PyTorch modules."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..calibration.inputs import Batch, Inputs
from ..calibration.runners.torch import TorchRunner
from ..errors import ModelError, OptionError
from ..formats.torch.copies import copied
from ..formats.torch.inputs import moved
from ..formats.torch.layer_types import adapter_of
from ..formats.torch.model import TorchModel


def make_student(
    original: TorchModel, decomposed: TorchModel, outputs: tuple[str, ...], device: torch.device
) -> TorchStudent:
    """The student of a decomposed module."""
    return TorchStudent(original, decomposed, outputs, device)


class TorchStudent:
    """A `Student` that is a copy of a module in evaluation: normalisations keep their statistics."""

    def __init__(
        self, original: TorchModel, decomposed: TorchModel, outputs: tuple[str, ...], device: torch.device
    ) -> None:
        self._decomposed = decomposed
        known = {name for name, one in original.module.named_modules() if adapter_of(one)}
        here = {name for name, one in decomposed.module.named_modules() if adapter_of(one)}
        # Each of those that modules share once.
        parameters = dict(decomposed.module.named_parameters())
        self._names = [name for name in parameters if name.rpartition(".")[0] in here - known]
        for name in self._names:
            if parameters[name].dtype not in (torch.float32, torch.float64):
                raise ModelError(
                    f"{name} is {parameters[name].dtype}, too coarse to be trained; recover the module in "
                    "float32 (module.float()) and convert what comes out"
                )
        module, examples = copied(decomposed.module).to(device), moved(original.example_inputs, device)
        try:
            self._runner = TorchRunner(module, examples, outputs)
        except OptionError as error:
            raise ModelError(f"the second module is not made of the first: {error}") from error
        if not self._runner.differentiable:
            class_name = type(decomposed.module).__name__
            raise ModelError(
                f"{class_name} gives no gradients, so it cannot be trained; its forward runs without them "
                "(torch.no_grad or inference_mode, perhaps)"
            )
        for parameter in self.parameters():
            parameter.requires_grad_(True)

    def parameters(self) -> list[Tensor]:
        """See `Student.parameters`."""
        return [self._runner.module.get_parameter(name) for name in self._names]

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """See `Student.outputs`."""
        return self._runner.tensors(batch)

    def finish(self, validation: Inputs) -> tuple[TorchModel, tuple[str, ...]]:
        """See `Student.finish`; a new copy of the module, in the mode in which it was given."""
        module = copied(self._decomposed.module)
        with torch.no_grad():
            for name in self._names:
                module.get_parameter(name).copy_(self._runner.module.get_parameter(name))
        return replace(self._decomposed, module=module), ()
