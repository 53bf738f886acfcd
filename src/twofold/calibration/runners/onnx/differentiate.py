"""One batch through an ONNX graph in torch, forward and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....conv import ConvLayer
from ....device import current_device
from ....errors import ModelError
from ....onnx_torch import OnnxNet
from ...runner import LayerInputs
from ..gradients import output_gradients


def record_inputs(
    net: OnnxNet,
    places: Mapping[int, ConvLayer],
    values: Mapping[str, NDArray[Any]],
    generator: np.random.Generator,
) -> Iterator[LayerInputs]:
    """Inputs of convolutions, and the gradients of the outputs with respect to their outputs.

    Args:
        net: the graph.
        places: position of a node -> its layer.
        values: inputs by name.
        generator: draws the projection of the outputs.

    Raises:
        ModelError: the graph does not run on these values.
    """
    seen: list[tuple[ConvLayer, Tensor, Tensor]] = []
    found: Mapping[str, Tensor] = {}
    try:
        # A copy: arrays of calibration inputs are read-only, which tensors cannot be.
        feed = {
            name: torch.from_numpy(np.array(value)).to(current_device()) for name, value in values.items()
        }
        with torch.enable_grad():
            for step in net.walk(feed):
                found = step.values
                if step.position in places:
                    source, output = step.inputs[0], step.outputs[0]
                    assert source is not None, "Bug: a convolution without an input"
                    if not output.requires_grad:
                        output.requires_grad_()
                    seen.append((places[step.position], source, output))
            outputs = [found[name] for name in net.outputs]
            gradients = output_gradients(outputs, [output for *_, output in seen], generator)
    except (AssertionError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # whatever an operator raises where a model or its inputs are wrong
        raise ModelError(
            f"the model does not run on these inputs in torch, which gives its gradients: {error}; look at "
            "their values, or use CalibrationOptions(gradients=False)"
        ) from error
    for (layer, source, _), gradient in zip(seen, gradients, strict=True):
        found_there = (tensor.detach().float().cpu().numpy() for tensor in (source, gradient))
        yield LayerInputs(layer.name, *map(layer.geometry.semantics.images, found_there))
