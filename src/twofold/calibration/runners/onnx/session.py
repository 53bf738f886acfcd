"""Running models in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from ....errors import ModelError

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
        self._outputs = list(outputs)
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # classes of its own that have no common base
            raise ModelError(f"ONNX Runtime does not take the model: {_first_line(error)}") from error
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


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
