"""Running models in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from ....device import current_device
from ....errors import ModelError, OptionError, option

if TYPE_CHECKING:
    import torch

Arrays = Mapping[str, NDArray[Any]]


class Session:
    """A model that ONNX Runtime has opened."""

    def __init__(self, model: ModelProto, outputs: Sequence[str]) -> None:
        """Open a model.

        Raises:
            ModelError: ONNX Runtime does not take it.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # it would warn of what others exported
        # A network is cut into many sessions: threads of one that wait would take the cores from the next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._outputs = list(outputs)
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=_providers(current_device())
            )
        except Exception as error:  # classes of its own that have no common base
            raise ModelError(f"ONNX Runtime does not take the model: {_first_line(error)}") from error
        wanted = _providers(current_device())[0]
        if wanted != _CPU and _CUDA not in self._session.get_providers():
            raise OptionError(
                f"{option('device')}: this ONNX Runtime is built for GPUs and does not run on "
                f"{current_device()}, mostly since libraries of CUDA or cuDNN are missing; install them, or "
                "choose cpu"
            )
        self.inputs = tuple(one.name for one in self._session.get_inputs())

    def __call__(self, values: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name; what the model does not take is left aside.

        Raises:
            ModelError: it does not run.
        """
        try:
            found = self._session.run(self._outputs, {name: values[name] for name in self.inputs})
        except Exception as error:
            raise ModelError(f"ONNX Runtime does not run the model: {_first_line(error)}") from error
        for name, value in zip(self._outputs, found, strict=True):
            if not isinstance(value, np.ndarray):
                raise ModelError(f"value {name!r} is no tensor, so the model cannot be calibrated")
        return dict(zip(self._outputs, found, strict=True))


def where(device: torch.device | None) -> tuple[str, str]:
    """What runs models on a device in words, and what a user should know of that; "" where it is nothing."""
    if device is None:
        return "ONNX Runtime", ""
    if _CUDA in onnxruntime.get_available_providers():
        return f"ONNX Runtime on {device.type}", ""
    return (
        "ONNX Runtime",
        "this ONNX Runtime runs on no GPU, so that the network runs on the CPU, and only gradients and "
        f"matrices are computed on {device}; install onnxruntime-gpu in its place",
    )


_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def _providers(device: torch.device | None) -> list[Any]:
    """What a session may run on, best first; without the coarser float32 of GPUs."""
    if device is None or device.type != "cuda" or _CUDA not in onnxruntime.get_available_providers():
        return [_CPU]
    # The network is cut into many sessions: each takes what it needs, and none tries all ways to convolve.
    options = {
        "device_id": str(device.index or 0), "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }  # fmt: skip
    return [(_CUDA, options), _CPU]


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
