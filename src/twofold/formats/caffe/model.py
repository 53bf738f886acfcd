"""A Caffe model: its definition and its weights, edited together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np

from ...conv import Array, ConvLayer, FactorConv, Factors, Size, Skipped
from ...errors import ModelError, OptionError, OutputError
from ...files.source import Source, reject_changed
from ...fingerprint import digest_of
from ...renamed import moved
from ...system import is_dir
from ..base import commit, recover
from ..graph import NetGraph
from .caffemodel import read_weights
from .definition import read_definition
from .emit import NewLayerText, replace_layer
from .graph import net_graph
from .groups import Group, Use, as_layer, find_groups
from .layer_types import plain
from .names import Names
from .net import NetDefinition, read_layers, read_net
from .prototxt import Document, parse
from .shapes import rule_of
from .upgrade_text import as_v1, is_v0
from .weights import NewWeights, WeightsFile, WeightsLayer


@dataclass(frozen=True, eq=False, repr=False)
class CaffeModel:
    """A Caffe model in memory; editing gives a new one.

    Attributes:
        definition: the prototxt.
        weights: the caffemodel; None where only the definition was loaded.
        inputs: shapes of inputs, (N, C, H, W), that replace what the definition says.
        new_layers: the arrays of those that replaced a layer, by name: what the files must hold once written.
        replaced: name of each convolution that was replaced -> the names of its stack.
        read: its files as they were read; none for a net that is in none.
    """

    format: ClassVar[str] = "caffe"

    definition: Document
    weights: WeightsFile | None = None
    inputs: Mapping[str, Size] = field(default_factory=dict)
    new_layers: Mapping[str, Sequence[Array]] = field(default_factory=dict)
    replaced: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    read: tuple[Source, ...] = ()

    def __repr__(self) -> str:
        return f"<CaffeModel {Path(self.definition.path).name}>"

    @classmethod
    def load(
        cls,
        prototxt: str | Path,
        caffemodel: str | Path | None = None,
        inputs: Mapping[str, Size] | None = None,
    ) -> CaffeModel:
        """Load a model.

        Args:
            prototxt: the definition.
            caffemodel: the weights; without them only shapes are known.
            inputs: shapes of inputs that replace what the definition says, as {"data": (1, 3, 224, 224)}.

        Raises:
            FormatError: a file is missing or is not what it should be.
            ModelError: the net is empty or cannot be built.
            OptionError: the files are given in the wrong order.
        """
        for path in (prototxt, caffemodel):
            if path is not None and is_dir(Path(path).parent):
                recover(Path(path).parent)
        document, source = read_definition(Path(prototxt), caffemodel)
        weights = None if caffemodel is None else read_weights(caffemodel)
        read = (source,) if weights is None or weights.source is None else (source, weights.source)
        model = cls(document, weights, dict(inputs or {}), read=read)
        if not read_layers(document):
            raise ModelError(f"{prototxt}: the net has no layers; is it a solver, or the wrong file?")
        names = {spec.name for spec in read_layers(document)}
        if weights is not None and not any(one.blobs and one.name in names for one in weights.layers):
            raise ModelError(
                f"{caffemodel} holds weights of other layers than {prototxt} has: "
                f"{_some(one.name for one in weights.layers if one.blobs)}; they do not belong together"
            )
        return model

    def net(self, phase: str = "TEST") -> NetDefinition:
        """The net as Caffe opens it in a phase."""
        return read_net(self.definition, phase)

    to_torch = moved(
        "CaffeModel.to_torch()", "twofold.caffe_torch:to_torch", "twofold.caffe_torch.to_torch(model)"
    )

    @cached_property
    def _groups(self) -> dict[str, Group]:
        groups = find_groups(self.definition, self.weights, self.inputs)
        return {group.name: group for group in groups}

    @cached_property
    def _convolutions(self) -> tuple[ConvLayer | Skipped, ...]:
        return tuple(as_layer(group, self.definition, self.weights) for group in self._groups.values())

    def convolutions(self) -> tuple[ConvLayer | Skipped, ...]:
        """All convolutions of the net in its order; those that cannot be replaced as `Skipped`.

        Raises:
            ModelError: weights do not fit the definition.
            FormatError: weights are damaged.
        """
        return self._convolutions

    def graph(self) -> NetGraph:
        """See `formats.base.Model.graph`."""
        return net_graph(self.definition, self._groups, self.inputs)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about the files but does no harm."""
        unknown: dict[str, list[str]] = {}
        variants: dict[str, list[str]] = {}
        for spec in read_layers(self.definition):
            if rule_of(spec.type) is None and spec.type not in _NO_RULE:
                unknown.setdefault(spec.type, []).append(spec.name)
            elif not spec.known_type:
                variants.setdefault(spec.variant, []).append(spec.name)
        return (
            *self.definition.notes,
            *(
                f"{self.definition.path}: layer type {layer_type!r} is unknown to BVLC Caffe "
                f"({_some(names)}); kept"
                for layer_type, names in unknown.items()
            ),
            *(
                f"{self.definition.path}: {variant} ({_counted(names)}): kept, never decomposed: "
                "it is not known what that does"
                for variant, names in variants.items()
            ),
            *self._repeated(),
        )

    def _repeated(self) -> Iterable[str]:
        """Of layers whose weights are in the file more than once, which count."""
        if self.weights is None:
            return
        weights, layers = self.weights, dict.fromkeys(spec.name for spec in read_layers(self.definition))
        if names := [name for name in layers if len(weights.entries(name)) > 1]:
            yield (
                f"{weights.path}: weights of {_counted(names)} are there more than once: the last count, "
                "as in Caffe; OpenCV takes the first"
            )

    def sources(self) -> dict[str, str]:
        """The sha256 of each of its files, by file name."""
        files = {Path(self.definition.path).name: hashlib.sha256(self.definition.source).hexdigest()}
        if self.weights is not None and self.weights.source is not None:
            files[self.weights.source.path.name] = self.weights.source.sha256
        return files

    def fingerprint(self) -> str:
        """Give the sha256 of what the model is now, edits and all, for the cache of results."""
        blobs = hashlib.sha256()
        for layer in () if self.weights is None else self.weights.layers:
            for blob in layer.blobs:
                array = blob.array()
                blobs.update(f"{layer.name} {array.dtype} {array.shape} ".encode())
                blobs.update(np.ascontiguousarray(array).data)
        definition = hashlib.sha256(self.definition.source).hexdigest()
        return digest_of(definition, blobs.hexdigest(), self.inputs, self.replaced)

    def replace(self, factors: Mapping[str, Factors]) -> CaffeModel:
        """Put stacks of convolutions in the place of layers.

        The new layers are called NAME_0, NAME_1 and so on; the last has the original's top, so nothing after
        it changes. Where the layer gives an output of the net, even one that a ReLU works on in place, the
        last keeps its name, by which users of OpenCV ask for the output. Layers that share the weight are
        replaced alike, each with its own bias. A V0 net becomes a V1 net, since V0 layers have one size for
        both axes.

        Args:
            factors: name of a layer that `convolutions` gives as `ConvLayer` -> its stack.

        Raises:
            ModelError: no such layer, or a value that the weights file's encoding cannot hold.
        """
        if is_v0(self.definition):
            return replace(self, definition=as_v1(self.definition)).replace(factors)
        names = Names(self.definition, self.weights)
        edits, entries, new_layers = [], {}, dict(self.new_layers)
        replaced = {name: names.of(name, name, stack)[0] for name, stack in factors.items()}
        for name, stack in factors.items():
            group = self._groups.get(name)
            if group is None:
                raise ModelError(f"{self.definition.path}: the net has no convolution {name!r}")
            for use in group.uses:
                layer_names, blobs = names.of(use.spec.name, name, stack)
                convs = self._with_own_bias(stack.convs, use, group)
                chain = [use.spec.bottoms[0], *blobs, use.spec.tops[0]]
                texts = [
                    NewLayerText(new, chain[i], chain[i + 1], conv.geometry, conv.bias is not None)
                    for i, (new, conv) in enumerate(zip(layer_names, convs, strict=True))
                ]
                edits.append(replace_layer(self.definition, use.message, texts))
                stack_weights = [
                    _new_weights(use, text, conv) for text, conv in zip(texts, convs, strict=True)
                ]
                stored = self.weights is not None and self.weights.layer(use.spec.name) is not None
                if stored:
                    entries[use.spec.name] = stack_weights
                if stored or self.weights is None:  # else what it shares is stored with another layer
                    new_layers.update((one.name, one.blobs) for one in stack_weights)
        weights = None if self.weights is None else self.weights.replace(entries)
        return replace(
            self,
            definition=self.definition.splice(edits),
            weights=weights,
            new_layers=new_layers,
            replaced={**self.replaced, **{name: tuple(new) for name, new in replaced.items()}},
        )

    def with_blobs(self, arrays: Mapping[str, Sequence[Array]]) -> CaffeModel:
        """The same net with other values in some layers.

        Args:
            arrays: layer name -> its blobs, each of the shape that it has.

        Raises:
            ModelError: the file has no weights of a layer, or a value that its encoding cannot hold.
        """
        if self.weights is None:
            raise ModelError(f"{self.definition.path}: only the definition was loaded; there are no weights")
        entries = {name: [NewWeights(name, tuple(blobs))] for name, blobs in arrays.items()}
        new_layers = {name: blobs for name, blobs in self.new_layers.items() if name not in arrays}
        return replace(self, weights=self.weights.replace(entries), new_layers=new_layers)

    def _with_own_bias(self, convs: tuple[FactorConv, ...], use: Use, group: Group) -> tuple[FactorConv, ...]:
        """The stack for a layer that shares its weight: its own bias plus the owner's correction."""
        if use.spec.name == group.name:
            return convs
        last, owner, own = convs[-1], self._own_bias(group.name), self._own_bias(use.spec.name)
        bias = np.zeros(last.geometry.c_out) if last.bias is None else last.bias.astype(np.float64)
        bias = bias - (0.0 if owner is None else owner)
        if not use.biased and not np.any(bias):
            return (*convs[:-1], replace(last, bias=None))
        total = bias + (0.0 if own is None else own)
        return (*convs[:-1], replace(last, bias=total.astype(np.float32)))

    def _own_bias(self, name: str) -> Array | None:
        entry: WeightsLayer | None = self.weights.layer(name) if self.weights is not None else None
        return entry.blobs[1].array().reshape(-1) if entry is not None and len(entry.blobs) > 1 else None

    def save(
        self,
        prototxt: str | Path,
        caffemodel: str | Path | None = None,
        *,
        force: bool = False,
        extra: Mapping[Path, bytes] | None = None,
        check: Callable[[CaffeModel], None] | None = None,
    ) -> None:
        """Write the model; all files appear together or not at all.

        What was written is read again before the files take their final names: the new layers must be there
        with their weights.

        Args:
            prototxt: where the definition goes.
            caffemodel: where the weights go; needed if there are any.
            force: exchange files that exist.
            extra: more files to write with these, as a plan.
            check: gets the model as it was read again; what it raises stops the writing.

        Raises:
            OutputError: files exist and `force` is false, the system rejects, or what was read again differs.
            OptionError: the model has weights and no place for them was given.
        """
        if self.weights is not None and caffemodel is None:
            raise OptionError("the model has weights; say where they go")
        files: dict[Path, Callable[[BinaryIO], None]] = {
            Path(prototxt): lambda stream: _write(stream, self.definition.source)
        }
        if self.weights is not None and caffemodel is not None:
            files[Path(caffemodel)] = self.weights.write
        for path, content in (extra or {}).items():
            files[path] = lambda stream, content=content: _write(stream, content)  # type: ignore[misc]
        if len(files) < 1 + (self.weights is not None) + len(extra or {}):
            raise OptionError("the definition and the weights need different files")

        def reread(places: Mapping[Path, Path]) -> None:
            document = parse(places[Path(prototxt)].read_bytes(), str(prototxt))
            weights = read_weights(places[Path(caffemodel)]) if caffemodel and self.weights else None
            written = replace(self, definition=document, weights=weights, new_layers={})
            self._compare(written)
            reject_changed(self)
            if check is not None:
                check(written)

        commit(files, force=force, check=reread)

    def targets(self, folder: Path) -> tuple[Path, ...]:
        """See `formats.base.Model.targets`."""
        prototxt = folder / Path(self.definition.path).name
        if self.weights is None:
            return (prototxt,)
        caffemodel = folder / (self.weights.path or prototxt.with_suffix(".caffemodel")).name
        if caffemodel == prototxt:
            raise OptionError(f"definition and weights are both called {prototxt.name!r}; rename one")
        return prototxt, caffemodel

    def save_to(
        self,
        folder: Path,
        *,
        force: bool,
        extra: Mapping[Path, bytes],
        check: Callable[[CaffeModel], None],
    ) -> tuple[Path, ...]:
        """See `formats.base.Model.save_to`."""
        paths = self.targets(folder)
        self.save(*paths, force=force, extra=extra, check=check)
        return (*paths, *extra)

    def _compare(self, written: CaffeModel) -> None:
        """Raise OutputError where what was read again is not what was to be written."""
        if written.definition.source != self.definition.source:
            raise OutputError(f"{written.definition.path}: what was read again differs from what was written")
        read_net_names = {spec.name for spec in read_layers(written.definition)}
        for name, blobs in self.new_layers.items():
            entry = None if written.weights is None else written.weights.layer(name)
            if name not in read_net_names or (written.weights is not None and entry is None):
                raise OutputError(f"layer {name!r} is missing in what was written")
            for blob, wanted in zip(entry.blobs if entry else (), blobs, strict=False):
                # Every encoding holds float32 exactly; half precision is used only where it does.
                if not np.array_equal(
                    blob.array().reshape(-1), wanted.astype(np.float32).reshape(-1), equal_nan=True
                ):
                    raise OutputError(f"layer {name!r}: its weights differ in what was read again")


#: Types of BVLC Caffe whose tops have no shape that the definition tells.
_NO_RULE = frozenset(
    {"HDF5Data", "HDF5Output", "Python", "Filter", "DetectionOutput", "Input", "WindowData", ""}
)


def _write(stream: BinaryIO, content: bytes) -> None:
    stream.write(content)


def _some(names: Iterable[str], count: int = 5) -> str:
    listed = list(names)
    more = f" and {len(listed) - count} more" if len(listed) > count else ""
    return ", ".join(map(repr, listed[:count])) + more


def _counted(names: Sequence[str]) -> str:
    return f"layer {names[0]!r}" if len(names) == 1 else f"{len(names)} layers: {_some(names)}"


def _new_weights(use: Use, text: NewLayerText, conv: FactorConv) -> NewWeights:
    weight = use.adapter.stored(use.spec, conv.weight, conv.geometry)
    blobs = (weight,) if conv.bias is None else (weight, conv.bias)
    adapter = plain(conv.geometry.layer_type, use.adapter)
    type_ = "" if adapter is use.adapter else adapter.types[0]
    return NewWeights(text.name, blobs, (text.bottom,), (text.top,), text.geometry, type_)
