"""An ONNX model: its graph, and the data that may lie in files beside it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import ModelProto

from ...conv import ConvLayer, Factors, Size, Skipped
from ...errors import FormatError, ModelError, OptionError, OutputError, option
from ...files.atomic import hidden_file
from ...files.source import Source, hashed_source, read_source
from ...fingerprint import digest_of
from ...system import is_dir
from ..base import commit, recover
from ..graph import NetGraph
from ..sniff import what_else
from .damage import damage
from .edit import Editor
from .external import copy_range, lay_out, write_pieces
from .functions import in_functions
from .graph import net_graph
from .graphs import Constant, Graphs, opset_of
from .groups import Group, as_layer, find_groups
from .tensors import Files, all_tensors, external_entry, external_files, is_external, new_tensor
from .turns import doubtful

#: Bytes that a protobuf message can have.
_LARGEST_MESSAGE = 2**31 - 1
_WANTED = "an ONNX model"


@dataclass(frozen=True, eq=False, repr=False)
class OnnxModel:
    """An ONNX model in memory; editing gives a new one.

    Attributes:
        path: the file that it was loaded from.
        proto: its message; never changed once it is here.
        files: the data files beside it, by the name that the model gives them.
        inputs: shapes of inputs that replace what the model says.
        replaced: name of each convolution that was replaced -> the names of its stack.
        edited: whether the message differs from the file's.
        read: its files as they were read; none for a model that is in none.
    """

    format: ClassVar[str] = "onnx"

    path: Path
    proto: ModelProto
    files: Files = field(default_factory=dict)
    inputs: Mapping[str, Size] = field(default_factory=dict)
    replaced: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    edited: bool = False
    read: tuple[Source, ...] = ()

    def __repr__(self) -> str:
        return f"<OnnxModel {self.path.name}>"

    @classmethod
    def load(cls, path: str | Path, inputs: Mapping[str, Size] | None = None) -> OnnxModel:
        """Load a model; data beside it are read when they are needed.

        Args:
            path: the .onnx file.
            inputs: shapes of inputs that replace what the model says, as {"images": (1, 3, 640, 640)}.

        Raises:
            FormatError: a file is missing or is not what it should be.
        """
        path = Path(path)
        if is_dir(path.parent):
            recover(path.parent)
        proto, source = _read(path, path)
        files = external_files(proto, path)
        read = (source.parsed(), *map(_data_source, files.values()))
        return cls(path, proto, files, dict(inputs or {}), read=read)

    @cached_property
    def _groups(self) -> dict[str, Group]:
        groups = find_groups(Graphs(self.proto, self.files), self.inputs, str(self.path))
        return {group.name: group for group in groups}

    @cached_property
    def _convolutions(self) -> tuple[ConvLayer | Skipped, ...]:
        try:
            layers = tuple(as_layer(group, self.files) for group in self._groups.values())
        except FormatError as error:
            raise FormatError(f"{self.path}: {error}") from error
        return (*layers, *in_functions(self.proto, self.inputs, str(self.path), self.files))

    def convolutions(self) -> tuple[ConvLayer | Skipped, ...]:
        """All convolutions of the model in its order; those that cannot be replaced as `Skipped`.

        Raises:
            ModelError: the shapes given for inputs do not fit.
            FormatError: a weight cannot be read.
        """
        return self._convolutions

    def group(self, name: str) -> Group:
        """All nodes of a layer that `convolutions` gives as `ConvLayer`."""
        return self._groups[name]

    def graph(self) -> NetGraph:
        """See `formats.base.Model.graph`."""
        return net_graph(self.proto, self._groups.values(), self.inputs, str(self.path))

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about the file but does no harm."""
        unknown = [
            layer.name
            for layer in self.convolutions()
            if isinstance(layer, ConvLayer) and not layer.input_sizes
        ]
        stored = {one.name for one in self.proto.graph.initializer}  # old files list weights as inputs, too
        inputs = [value for value in self.proto.graph.input if value.name not in stored]
        opened = [value for value in inputs if "N" in _declared(value)] or inputs
        if not unknown or not opened:
            return self.warnings
        name, sizes = opened[0].name, _declared(opened[0])
        example = option(f"inputs={{{name!r}: ({', '.join(sizes)},)}}", f"--input {name}={'x'.join(sizes)}")
        return (
            f"{self.path}: the input size of {len(unknown)} convolutions is not known, so their MACs are not "
            "known either, and a plan counts them per output position; give the shapes of the inputs "
            f"({', '.join(value.name for value in opened)}), as in {example} with numbers for N",
            *self.warnings,
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the counts of MACs take for granted."""
        uses = [use for group in self._groups.values() for use in group.uses if use.macs != 0]
        return tuple(
            f"{self.path}: both branches of {place} are counted, of which one runs"
            for place in doubtful(Graphs(self.proto, self.files), [use.scope for use in uses])
        )

    @property
    def unfit(self) -> str:
        """Why what is fitted to data could not be run; "" where it can."""
        opset = opset_of(self.proto)
        for name, group in self._groups.items():
            if not group.reason and not group.uses[0].adapter.runs_biased(opset):
                return (
                    f"{self.path}: {name}: fitted to data it has a bias, which ONNX Runtime does not add to "
                    f"{group.uses[0].node.op_type} of version {opset}; convert the model first "
                    "(onnx.version_converter.convert_version(model, 13)), or decompose it from its weights "
                    f"alone: {option('no_data=True', '--no-data')}"
                )
        return ""

    def sources(self) -> dict[str, str]:
        """The sha256 of each of its files, by file name."""
        names = (self.path.name, *self.files)
        return {name: source.sha256 for name, source in zip(names, self.read, strict=True)}

    def fingerprint(self) -> str:
        """Give the sha256 of what the model is now, edits and all, for the cache of results."""
        message = hashlib.sha256(self.proto.SerializeToString(deterministic=True)).hexdigest()
        beside = [source.sha256 for source in self.read[1:]]
        return digest_of(message, beside, list(self.files), self.inputs, self.replaced)

    def replace(self, factors: Mapping[str, Factors]) -> OnnxModel:
        """Put stacks of convolutions in the place of layers.

        The new nodes are called NAME_0, NAME_1 and so on; the last has the original's output, so nothing
        after it changes. Nodes that share the weight are replaced alike and share the new ones, each with its
        own bias.

        Args:
            factors: name of a layer that `convolutions` gives as `ConvLayer` -> its stack.

        Raises:
            ModelError: no such layer.
        """
        if not factors:
            return self
        editor, replaced = Editor(self.proto, self.files), dict(self.replaced)
        for name, stack in factors.items():
            group = self._groups.get(name)
            if group is None or group.reason:
                raise ModelError(f"{self.path}: the net has no convolution {name!r} that can be replaced")
            replaced[name] = editor.replace(group, stack)
        return replace(self, proto=editor.finish(), replaced=replaced, edited=True)

    def with_constants(self, arrays: Mapping[tuple[int, str], NDArray[Any]]) -> OnnxModel:
        """The same model with other values in some tensors.

        Args:
            arrays: `Constant.key` of an initializer or of what a Constant node gives -> its values, of the
                shape that it has; they are stored in its type, and where it is.

        Raises:
            ModelError: the type of a tensor cannot hold a value.
        """
        proto = ModelProto()
        proto.CopyFrom(self.proto)
        graphs = Graphs(proto)
        for (number, name), array in arrays.items():
            found = graphs.constant(graphs.scopes[number], name)
            assert isinstance(found, Constant), f"Bug: {name} is no constant"
            assert not found.steps, f"Bug: {name} is computed"
            assert tuple(found.tensor.dims) == array.shape, f"Bug: {name} has another shape"
            tensor = new_tensor(found.tensor.name, array, found.tensor)
            tensor.doc_string = found.tensor.doc_string
            found.tensor.CopyFrom(tensor)
        return replace(self, proto=proto, edited=True)

    def targets(self, folder: Path) -> tuple[Path, ...]:
        """See `formats.base.Model.targets`."""
        return (folder / self.path.name, *(folder / location for location in self.files))

    def save_to(
        self,
        folder: Path,
        *,
        force: bool,
        extra: Mapping[Path, bytes],
        check: Callable[[OnnxModel], None],
    ) -> tuple[Path, ...]:
        """See `formats.base.Model.save_to`."""
        self.save(folder / self.path.name, force=force, extra=extra, check=check)
        return (*self.targets(folder), *extra)

    def save(
        self,
        path: str | Path,
        *,
        force: bool = False,
        extra: Mapping[Path, bytes] | None = None,
        check: Callable[[OnnxModel], None] | None = None,
    ) -> None:
        """Write the model, and its data files beside it; all appear together or not at all.

        What was written is read again before the files take their final names, and passes ONNX's own checker
        with shape inference, unless the original did not either.

        Args:
            path: where the model goes.
            force: exchange files that exist.
            extra: more files to write with these, as a plan.
            check: gets the model as it was read again; what it raises stops the writing.

        Raises:
            OutputError: files exist and `force` is false, the system rejects, or a check fails.
            OptionError: two files would have the same name.
        """
        path = Path(path)
        writers = self._writers(path)
        for name, content in (extra or {}).items():
            writers[name] = partial(_write, content=content)
        if len(writers) < 1 + len(self.files) + len(extra or {}):
            raise OptionError(f"{path}: the model and its data need different files")

        def reread(places: Mapping[Path, Path]) -> None:
            for source in self.read:  # what is not edited is copied from its file
                source.reject_changed(needed=not (self.edited and source.held))
            proto, _ = _read(places[path], path)
            moved = {location: places[path.parent / location] for location in self.files}
            written = replace(self, path=path, proto=proto, files=moved)
            if self.edited:
                self._reject_invalid(written, places[path].parent)
            if check is not None:
                check(written)

        commit(writers, force=force, check=reread)

    def _writers(self, path: Path) -> dict[Path, Callable[[BinaryIO], None]]:
        if not self.edited:
            originals = {path: self.path, **{path.parent / name: file for name, file in self.files.items()}}
            return {target: partial(_copy, source=source) for target, source in originals.items()}
        layout = lay_out(self.proto, self.files)
        if layout.model.ByteSize() > _LARGEST_MESSAGE:
            raise OutputError(
                f"{path}: a model of {layout.model.ByteSize() / 2**30:.1f} GiB does not fit into one file; "
                "store the original's weights as external data (onnx.save, save_as_external_data) first"
            )
        content = layout.model.SerializeToString(deterministic=True)
        writers: dict[Path, Callable[[BinaryIO], None]] = {path: partial(_write, content=content)}
        for location, pieces in layout.files.items():
            writers[path.parent / location] = partial(write_pieces, pieces=pieces)
        return writers

    def _reject_invalid(self, written: OnnxModel, folder: Path) -> None:
        problem = _invalid(written, folder)
        if problem and not _problem(str(self.path) if self.files else _read(self.path, self.path)[0]):
            raise OutputError(f"{written.path}: what was written does not pass ONNX's checker: {problem}")


def _invalid(model: OnnxModel, folder: Path) -> str:
    """What ONNX's checker says against a model whose data files have hidden names yet; "" if nothing."""
    if not model.files:
        return _problem(model.proto)
    # The checker looks for data files beside the model, so it gets one that names them as they are.
    named = ModelProto()
    named.CopyFrom(model.proto)
    for tensor in filter(is_external, all_tensors(named)):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = os.path.relpath(model.files[external_entry(tensor, "location")], folder)
    with hidden_file(folder, named.SerializeToString(), ".onnx") as path:
        return _problem(str(path))


def _problem(model: ModelProto | str) -> str:
    """What ONNX's checker, with shape inference, says against a model or the file of one; "" if nothing."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return " ".join(str(error).split())
    return ""


def _data_source(path: Path) -> Source:
    try:
        return hashed_source(path)
    except OSError as error:
        raise FormatError(f"{path}: cannot read the model's data: {error.strerror or error}") from error


def _read(path: Path, shown: Path) -> tuple[ModelProto, Source]:
    """Read the message alone; messages call the file `shown`."""
    try:
        source = read_source(path)
    except OSError as error:
        raise FormatError(f"{shown}: cannot read the model: {error.strerror or error}") from error
    content = source.content or b""
    if not content:
        raise FormatError(f"{shown}: the file is empty")
    other = what_else(content[:4096], _WANTED)
    if other is not None:
        raise FormatError(f"{shown}: {other}")
    if content[4:8] == b"ORTM":
        raise FormatError(
            f"{shown}: this is ONNX Runtime's own format, not {_WANTED}; give the model it was made from"
        )
    proto = ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise FormatError(f"{shown}: not {_WANTED}, truncated or damaged ({len(content)} bytes)") from error
    problem = damage(proto.graph)
    if problem:
        raise FormatError(f"{shown}: the model is damaged: {problem}")
    if not proto.ir_version or not proto.graph.node:
        raise FormatError(f"{shown}: not {_WANTED}: no version and no nodes in it; fetch or export it again")
    return proto, source


def _write(stream: BinaryIO, content: bytes) -> None:
    stream.write(content)


def _copy(stream: BinaryIO, source: Path) -> None:
    copy_range(source, 0, None, stream)


def _declared(value: onnx.ValueInfoProto) -> list[str]:
    """The sizes that an input declares, N for those that it leaves open."""
    dims = value.type.tensor_type.shape.dim
    return [str(dim.dim_value) if dim.dim_value > 0 else "N" for dim in dims] or ["N"]
