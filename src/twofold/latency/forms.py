"""The formats in which stacks and whole networks are handed to a device that is not here."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType
from typing import Any, Protocol

from ..errors import MissingExtraError, OptionError
from ..export import to_onnx
from .nets import opened
from .runtimes import runtime
from .stacks import Stack, caffe_bytes, caffe_refusal, onnx_bytes

#: Files by their suffix; the first is the one that tables name.
Contents = dict[str, bytes]


class Form(Protocol):
    """Writes models in one format."""

    def stack(self, stack: Stack) -> Contents:
        """The files of a stack.

        Raises:
            OptionError: the format has no such layer.
        """

    def network(self, model: Any) -> Contents:
        """The files of a whole network; nothing where it has none in this format."""


class _Onnx:
    def stack(self, stack: Stack) -> Contents:
        try:
            return {".onnx": onnx_bytes(stack)}
        except ImportError as error:
            raise MissingExtraError("writing ONNX models", "onnx", "onnx") from error

    def network(self, model: Any) -> Contents:
        name = type(model).__name__
        if name == "CaffeModel":
            return {".onnx": to_onnx(model).proto.SerializeToString(deterministic=True)}
        if name == "OnnxModel" and not model.files:
            return {".onnx": model.proto.SerializeToString(deterministic=True)}
        return {}


class _Caffe:
    def stack(self, stack: Stack) -> Contents:
        refusal = caffe_refusal(stack)
        if refusal is not None:
            raise OptionError(f"{stack.key}: {refusal}; write ONNX models instead")
        return dict(zip((".prototxt", ".caffemodel"), caffe_bytes(stack), strict=True))

    def network(self, model: Any) -> Contents:
        if type(model).__name__ != "CaffeModel":
            return {}
        weights = io.BytesIO()
        model.weights.write(weights)
        return {".prototxt": model.definition.source, ".caffemodel": weights.getvalue()}


class _Converted:
    """What the library of a runtime converts, once it has run here and computed what ONNX Runtime does."""

    def __init__(self, found: Any, suffixes: tuple[str, ...]) -> None:
        self._runtime, self._suffixes = found, suffixes

    def stack(self, stack: Stack) -> Contents:
        return self._files(self._runtime.stack(stack, 1))

    def network(self, model: Any) -> Contents:
        if type(model).__name__ not in self._runtime.kinds:
            return {}
        # A runtime of its own: the processes of this one stay.
        with opened(runtime(self._runtime.name), 1, model) as (run,):
            return self._files(run)

    def _files(self, run: Any) -> Contents:
        return {suffix: run.path.with_suffix(suffix).read_bytes() for suffix in self._suffixes}


@contextmanager
def _converted(name: str, suffixes: tuple[str, ...]) -> Iterator[Form]:
    found = runtime(name)
    with found.running(1):
        yield _Converted(found, suffixes)


#: Formats by name: each gives what writes it, within a context.
FORMS: MappingProxyType[str, Callable[[], AbstractContextManager[Form]]] = MappingProxyType(
    {
        "onnx": lambda: nullcontext(_Onnx()),
        "caffe": lambda: nullcontext(_Caffe()),
        "ncnn": lambda: _converted("ncnn", (".param", ".bin")),
        "mnn": lambda: _converted("mnn", (".mnn",)),
    }
)
