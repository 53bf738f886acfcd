"""Runtimes that run in processes of their own, and that nets reach by way of ONNX.

What they compute is held against ONNX Runtime before it is timed: a converter that misreads a net must not
look like a fast one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...errors import ModelError
from ...files.scratch import scratch_folder
from ..guest import Guest, GuestRun
from ..stacks import Stack, onnx_bytes
from .base import Arrays, Run, Whole, cpu_name
from .onnxruntime import outputs_of, session_of, typed_feed

#: Largest relative difference from ONNX Runtime; Winograd's method in single precision has some 1e-5.
TOLERANCE = 1e-3
#: The same of models in int8: libraries round a value between two steps differently, and layers add that up.
#: A net that is misread differs by about its own size.
TOLERANCE_INT8 = 0.1
_QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"})


class IsolatedRuntime:
    """A library that reads ONNX or converts it; see `Runtime`.

    Args:
        name: key in the registry; its module has the `Engine`.
        label: what people call it.
        block: channels that it computes together.
        version: of the library.
        write_stack: writes a stack in the library's own format beside its ONNX file; whether it did. Others
            are converted, which takes longer.
        simplified: whether nets are given as ONNX Runtime simplifies them (constants folded, normalisations
            merged into convolutions), since the library's converter does less.
    """

    reads = ("onnx",)

    def __init__(
        self, name: str, label: str, block: int, version: str, *, simplified: bool,
        write_stack: Callable[[Stack, Path], bool] = lambda stack, onnx_file: False,
    ) -> None:  # fmt: skip
        self.name, self.label, self.block, self.version = name, label, block, version
        self._simplified, self._write_stack = simplified, write_stack
        self._engine = f"{__package__}.{name}"
        self._folder, self._guests = Path(), ExitStack()
        self._stacks: Guest | None = None
        self._count = 0

    @property
    def device(self) -> str:
        """See `Runtime.device`."""
        return cpu_name()

    @contextmanager
    def running(self, threads: int) -> Iterator[None]:
        """Within the context processes run."""
        before = self._folder, self._guests, self._stacks
        with scratch_folder() as folder, ExitStack() as guests:
            self._folder, self._guests, self._stacks = folder, guests, None
            try:
                yield
            finally:
                self._folder, self._guests, self._stacks = before

    def stack(self, stack: Stack, threads: int) -> Run:
        """See `Runtime.stack`; stacks share a process."""
        self._stacks = self._stacks or self._started()
        path = self._next()
        path.write_bytes(onnx_bytes(stack))
        if not self._write_stack(stack, path):
            self._stacks("convert", path)
        return self._ready(self._stacks, path, {"x": stack.input()}, threads, TOLERANCE)

    def whole(self, whole: Whole, threads: int) -> Run:
        """See `Runtime.whole`; every network has a process of its own, as where it is deployed."""
        guest, path = self._started(), self._next()
        proto = onnx.load(whole.content[0])
        fix_sizes(proto, whole.inputs)
        onnx.save(proto, path)
        if self._simplified:
            path = simplified(path)
        quantized = any(node.op_type in _QUANTIZED for node in proto.graph.node)
        tolerance = TOLERANCE_INT8 if quantized else TOLERANCE
        guest("convert", path)
        return self._ready(guest, path, whole.inputs, threads, tolerance)

    def _started(self) -> Guest:
        guest = Guest(self._engine, self.label, self._folder)
        self._guests.callback(guest.close)
        return guest

    def _next(self) -> Path:
        self._count += 1
        return self._folder / f"model{self._count}.onnx"

    def _ready(self, guest: Guest, path: Path, inputs: Arrays, threads: int, tolerance: float) -> Run:
        """A model that is converted, opened and found to compute what ONNX Runtime does."""
        session = session_of(path, threads)
        feed = typed_feed(session, inputs)
        right = outputs_of(session, feed)
        number: int = guest("open", path, feed, tuple(right), threads)
        answers = guest("run", number)
        self._check(answers, right, tolerance)
        missing = [name for name in right if name not in answers]
        if missing:
            # Converters leave out what no input changes, such as the prior boxes of a detector.
            others = outputs_of(session, {name: array[..., ::-1] for name, array in feed.items()})
            for name in missing:
                if not np.array_equal(others[name], right[name]):
                    raise ModelError(f"{self.label} does not give the model's output {name!r}")
        return GuestRun(guest, number, path)

    def _check(self, answers: Arrays, right: Arrays, tolerance: float) -> None:
        """Hold outputs against those of ONNX Runtime.

        Raises:
            ModelError: one differs.
        """
        for name, value in answers.items():
            difference = relative_difference(value, right[name])
            if not difference <= tolerance:
                raise ModelError(
                    f"{self.label} computes another {name!r} than ONNX Runtime: they differ by "
                    f"{difference:.3g} of its size, allowed is {tolerance:g}; it is not timed"
                )


def relative_difference(value: NDArray[Any], right: NDArray[Any]) -> float:
    """Root mean square of the difference over that of the right values; NaN where one is no number.

    Of whole numbers, such as classes, the fraction that differs. Shapes may differ by axes of one element,
    which some libraries do not have.
    """
    if value.size != right.size:
        return float("inf")
    if not np.issubdtype(right.dtype, np.floating):
        return float(np.mean(value.ravel() != right.ravel())) if right.size else 0.0
    a, b = (np.asarray(each, np.float64).ravel() for each in (value, right))
    size = max(float(np.linalg.norm(b)), float(np.finfo(np.float32).tiny))
    return float(np.linalg.norm(a - b)) / size


def fix_sizes(proto: onnx.ModelProto, inputs: Arrays) -> None:
    """Give all inputs of a model the sizes that they will have, and forget the others: in place."""
    for value in proto.graph.input:
        if value.name in inputs:
            dims = value.type.tensor_type.shape.dim
            del dims[:]
            for size in inputs[value.name].shape:
                dims.add().dim_value = size
    for value in proto.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    del proto.graph.value_info[:]


def simplified(path: Path) -> Path:
    """Write a model as ONNX Runtime simplifies it, in ONNX's own operators.

    Raises:
        ModelError: ONNX Runtime cannot run it.
    """
    target = path.with_suffix(".simple.onnx")
    session_of(path, 1, simplified_to=target)
    return target
