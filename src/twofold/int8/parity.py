"""Whether an int8 model does in ONNX Runtime what it did in training.

Outputs cannot tell. A value that lies between two steps falls to either side by the last bit of a sum; in the
next layer that step moves many values across such edges, and some layers on the two round as if they had
nothing to do with each other. So each value is compared alone, as training makes it from the runtime's own
values before it: there only what lies between two steps may differ, be the net deep or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from onnx.numpy_helper import to_array
from torch import Tensor

from ..calibration.inputs import Batch
from ..calibration.measure import OutputErrorMetric
from ..calibration.runner import Outputs
from ..errors import ModelError
from .qdq import session, with_outputs

#: How far a value may lie beyond where training rounds it: in steps, as a root mean square.
_ALLOWED = 0.5
#: The same over all values together: what is a little off everywhere is no accident.
_TOGETHER = 0.1
#: How far one value may lie that an operator gives which ONNX Runtime computes in int8 from a table, up to
#: 1.5 steps off.
_COARSE = {"Softmax": 1.0}
#: How far outputs may be that are not rounded, as a fraction of what they vary.
_OUTPUT = 0.01

OTHERWISE = "ONNX Runtime computes the int8 model otherwise than training"


class Difference(NamedTuple):
    """How far the runtime is from training in one value.

    Attributes:
        name: of the value.
        steps: root mean square of what lies beyond rounding, in steps of 8 bits.
        allowed: how many are explained.
    """

    name: str
    steps: float
    allowed: float


class Agreement:
    """Compares training with ONNX Runtime, value by value, over batches."""

    def __init__(self, int8: ModelProto, outputs: Iterable[str]) -> None:
        """Open the int8 model.

        Args:
            int8: the model.
            outputs: its values that are compared even where they are not rounded.

        Raises:
            ModelError: ONNX Runtime rejects it.
        """
        stored = {one.name: one for one in int8.graph.initializer}
        makers = {name: node.op_type for node in int8.graph.node for name in node.output}
        rounding = [node for node in int8.graph.node if node.op_type == "QuantizeLinear"]
        self._ranges = {
            node.output[0]: (float(to_array(stored[node.input[1]])), int(to_array(stored[node.input[2]])))
            for node in rounding
        }
        self._makers = {node.output[0]: makers.get(node.input[0], "") for node in rounding}
        self._names = {node.output[0]: node.input[0] for node in rounding}
        self._outputs = tuple(outputs)
        self._session = session(with_outputs(int8, [*self._ranges, *self._outputs]))
        self._inputs = [one.name for one in self._session.get_inputs()]
        self._given: dict[str, NDArray[np.int8]] = {}
        self._sums: dict[str, tuple[float, int]] = {}
        self._others: dict[str, tuple[float, int]] = {}
        self._measure = OutputErrorMetric()

    def run(self, batch: Batch) -> Outputs:
        """What the runtime gives for a batch that training computes next, following it."""
        names = [*self._ranges, *self._outputs]
        feed = {name: batch[name] for name in self._inputs}
        found = dict(zip(names, self._session.run(names, feed), strict=True))
        self._given = {name: found[name] for name in self._ranges}
        return {name: found[name] for name in self._outputs}

    def follow(self, name: str, exact: Tensor, rounded: Tensor, found: tuple[float, int]) -> Tensor:
        """Take down how far the runtime is from training in one value.

        Args:
            name: what the value is called in the int8 model, as integers.
            exact: what training computes from the runtime's values before it.
            rounded: the same, as training rounds it.
            found: scale and zero point in training.

        Returns:
            The runtime's value, in float.
        """
        (scale, zero), (step, _) = self._ranges[name], found
        if not math.isclose(scale, step, rel_tol=1e-5) or zero != found[1]:
            self._others[name] = found
        integers = torch.from_numpy(self._given[name].astype(np.float32)).to(exact.device)
        theirs = ((integers - zero) * scale).reshape(rounded.shape)
        with torch.no_grad():
            # Beyond the range the nearest step may be far: what is lost there is not rounding.
            near = exact.clamp(rounded - step / 2, rounded + step / 2).double()
            beyond = (theirs - rounded).double() * ((theirs - near) + (rounded - near))
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + float(beyond.sum()) / step**2, count + beyond.numel()
        return theirs

    def compare(self, training: Outputs, runtime: Outputs) -> None:
        """Take down how far the runtime is from training in the outputs."""
        self._measure.add("", training, runtime)

    @property
    def differences(self) -> tuple[Difference, ...]:
        """How far the runtime is from training in each value that was followed, in their order."""
        return tuple(
            Difference(
                self._names[name],
                math.sqrt(max(total / max(count, 1), 0.0)) if math.isfinite(total) else math.inf,
                _COARSE.get(self._makers[name], _ALLOWED),
            )
            for name, (total, count) in self._sums.items()
        )

    def problem(self) -> str | None:
        """What differs more than rounding explains; None if nothing does."""
        if self._others:
            name, (scale, zero) = next(iter(self._others.items()))
            there, at = self._ranges[name]
            return (
                f"value {self._names[name]!r} has scale {there:.9g} and zero point {at}, in training "
                f"{scale:.9g} and {zero}"
            )
        most = max(self.differences, key=lambda one: one.steps / one.allowed, default=None)
        if most is not None and not most.steps <= most.allowed:
            return (
                f"value {most.name!r} lies {most.steps:.3g} steps beyond where training rounds it, "
                f"{most.allowed:g} is allowed"
            )
        fine = [one.steps for one in self.differences if one.allowed == _ALLOWED]
        together = math.sqrt(sum(steps**2 for steps in fine) / max(len(fine), 1))
        if most is not None and together > _TOGETHER:
            return (
                f"values lie {together:.3g} steps in the mean beyond where training rounds them, "
                f"{_TOGETHER:g} is allowed, {most.name!r} {most.steps:.3g}"
            )
        error = self._measure.error("")
        if not error <= _OUTPUT:
            return f"outputs differ by {error:.3g} of what they vary, {_OUTPUT:g} is allowed"
        return None

    def reject(self, remedy: str) -> None:
        """Reject a model that is computed otherwise than in training.

        Args:
            remedy: what can be done.

        Raises:
            ModelError: something differs more than rounding explains.
        """
        if (problem := self.problem()) is not None:
            raise ModelError(f"{OTHERWISE}: {problem}; {remedy}")


class Followed:
    """Training that can be compared with the runtime: it says each value to an agreement that it has."""

    _agreement: Agreement | None = None

    @contextmanager
    def following(self, agreement: Agreement) -> Iterator[None]:
        """Within the context values are taken down, and go on as the runtime gives them."""
        self._agreement = agreement
        try:
            yield
        finally:
            self._agreement = None
