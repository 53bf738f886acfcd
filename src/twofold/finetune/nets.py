"""The nets that a solver trains and tests, from files of their own or from its text.

Source: BVLC Caffe 1.0, `solver.cpp`, `InitTrainNet` and `InitTestNets`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import FormatError, ModelError, OptionError
from ..formats.caffe.fields import Fields
from ..formats.caffe.net import NetDefinition, read_net
from ..formats.caffe.prototxt import Document, parse
from ..formats.caffe.tree import Message
from .data import Locator
from .definition import UNHEEDED, SolverDefinition, read_document
from .rates import Schedule
from .rules import rule_of

#: Fields that name or hold a net: for both phases, for training alone, for testing alone.
NET_FIELDS = {
    "both": ("net", "net_param"),
    "train": ("train_net", "train_net_param"),
    "test": ("test_net_param", "test_net"),
}


@dataclass(frozen=True)
class SolverFile:
    """A solver prototxt with its nets.

    Attributes:
        path: where it is.
        definition: its options.
        train: the net to train.
        tests: the nets to test with.
        locate: finds the files that the nets name.
        notes: what is unusual, or not done as Caffe does it.
    """

    path: Path
    definition: SolverDefinition
    train: NetDefinition
    tests: tuple[NetDefinition, ...]
    locate: Locator
    notes: tuple[str, ...]


def open_solver(
    path: str | Path,
    locate: Locator,
    adapt: Callable[[SolverDefinition], SolverDefinition] = lambda definition: definition,
) -> SolverFile:
    """Read a solver and its nets.

    Args:
        path: of the solver.
        locate: finds the files that it names.
        adapt: changes its options.

    Raises:
        FormatError: a file cannot be read.
        OptionError: a value that Caffe rejects.
        ModelError: a net that cannot be built.
    """
    document = read_document(path)
    param = document.root.to_fields()
    nets = {use: _documents(document, names, locate) for use, names in NET_FIELDS.items()}
    if len(nets["both"]) > 1 or len(nets["both"]) + len(nets["train"]) != 1:
        fields = ", ".join((*NET_FIELDS["both"], *NET_FIELDS["train"]))
        raise OptionError(f"{path}: a solver names one net to train, by one of {fields}")
    (train,) = (*nets["both"], *nets["train"])
    definition = _definition(path, param, adapt)
    tests = _test_documents(path, definition, nets["both"], nets["test"])
    states = param.messages("test_state") or (Fields("NetState"),) * len(tests)
    if len(states) != len(tests):
        raise OptionError(f"{path}: {len(states)} test_state for {len(tests)} test nets; Caffe needs as many")
    notes = [*document.notes, *(note for one in (train, *nets["test"]) for note in one.notes)]
    notes += [f"{path}: {name} is not heeded: {UNHEEDED[name]}" for name in UNHEEDED if param.has(name)]
    return SolverFile(
        Path(path),
        definition,
        _in_state(train, "TRAIN", param.message("train_state")),
        tuple(_in_state(one, "TEST", state) for one, state in zip(tests, states, strict=True)),
        locate,
        tuple(notes),
    )


def _definition(
    path: str | Path, param: Fields, adapt: Callable[[SolverDefinition], SolverDefinition]
) -> SolverDefinition:
    """The options, all of them checked before any work is done."""
    try:
        definition = adapt(SolverDefinition.of(param))
        rule_of(definition)
        Schedule(definition)
    except OptionError as error:
        raise OptionError(f"{path}: {error}") from error
    return definition


def _documents(solver: Document, names: Sequence[str], locate: Locator) -> list[Document]:
    """The nets that some fields of a solver name or hold."""
    found = []
    for name in names:
        for field in solver.root.all(name):
            for value in field.values:
                if isinstance(value, Message):
                    found.append(_inline(solver, value))
                else:
                    found.append(_read(locate(str(value.value), f"{solver.path}: its {name}")))
    return found


def _inline(solver: Document, message: Message) -> Document:
    """A net in the text of a solver as a document in which every place is that in the solver."""
    start, end = message.body
    blank = bytes(byte if byte in b"\r\n" else ord(" ") for byte in solver.source[:start])
    return parse(blank + solver.source[start:end], solver.path)


def _read(path: Path) -> Document:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: cannot read the net: {error.strerror or error}") from error
    return parse(source, str(path))


def _test_documents(
    path: str | Path, definition: SolverDefinition, both: Sequence[Document], tests: Sequence[Document]
) -> list[Document]:
    """One net per test_iter: those for testing alone first, then the common one."""
    count = len(definition.test_iter)
    if len(tests) > count or (len(tests) < count and not both):
        raise OptionError(
            f"{path}: {count} test_iter for {len(tests)} test nets; Caffe needs one for each, and more only "
            "where 'net' serves for testing, too"
        )
    if count and definition.test_interval < 1:
        raise OptionError(f"{path}: test_iter needs a positive test_interval")
    return [*tests, *(both[0] for _ in range(count - len(tests)))]


def _in_state(document: Document, phase: str, state: Fields) -> NetDefinition:
    net = read_net(document, phase, state.integer("level"), state.texts("stage"))
    if not net.layers:
        raise ModelError(f"{document.path}: the net has no layers in phase {phase}")
    return net
