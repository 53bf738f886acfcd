"""The formats in which stacks and whole networks are handed to a device that is not here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType
from typing import Any, Protocol

from ..backends import backend_of
from ..errors import MissingExtraError, OptionError
from ..files.scratch import scratch_folder
from .nets import form_for, opened
from .runtimes import runtime
from .stacks import Stack, caffe_bytes, caffe_rejection, onnx_bytes

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
        return _network(model, "onnx", (".onnx",))


class _Caffe:
    def stack(self, stack: Stack) -> Contents:
        rejection = caffe_rejection(stack)
        if rejection is not None:
            raise OptionError(f"{stack.key}: {rejection}; write ONNX models instead")
        return dict(zip((".prototxt", ".caffemodel"), caffe_bytes(stack), strict=True))

    def network(self, model: Any) -> Contents:
        return _network(model, "caffe", (".prototxt", ".caffemodel"))


def _network(model: Any, form: str, suffixes: tuple[str, ...]) -> Contents:
    """The files of a network in a form of its format; nothing where it has none, or other files beside."""
    backend = backend_of(model)
    if form not in backend.forms:
        return {}
    with scratch_folder() as folder:
        paths = backend.form(form)(model, folder, {})
        if len(paths) != len(suffixes):
            return {}
        return {suffix: path.read_bytes() for suffix, path in zip(suffixes, paths, strict=True)}


class _Converted:
    """What the library of a runtime converts, once it has run here and computed what ONNX Runtime does."""

    def __init__(self, found: Any, suffixes: tuple[str, ...]) -> None:
        self._runtime, self._suffixes = found, suffixes

    def stack(self, stack: Stack) -> Contents:
        return self._files(self._runtime.stack(stack, 1))

    def network(self, model: Any) -> Contents:
        if form_for(self._runtime, backend_of(model)) is None:
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
