"""Several models in one call: each into a folder of its own, and one that fails does not stop the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..backends import is_definition_alone, model_files
from ..decomposition.result import Result
from ..errors import OptionError, TwofoldError
from ..formats.base import Model
from ..planning import Plan
from ..progress import QUIET
from ..system import explain
from ..terminal import echo, say, visible
from ..text import aligned, error_text

Others = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="MODEL",
        help="More models, each decomposed by itself into a folder of its name below --output.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Done:
    """What became of one model.

    Attributes:
        model: its first file.
        folder: where its files are; "" where there are none.
        decomposed: number of convolutions that were decomposed.
        macs: MACs after / before; None where it failed.
        error: measured error of the outputs; None where it was not measured.
        problem: why it failed; "" where it did not.
    """

    model: str
    folder: str = ""
    decomposed: int = 0
    macs: float | None = None
    error: float | None = None
    problem: str = ""


def models_of(definition: Path, weights: Path | None, others: Sequence[Path]) -> list[tuple[Path, ...]]:
    """The files of each model that a command line names.

    Raises:
        OptionError: the weights of one are missing, or a folder holds no single model.
    """
    every = [definition, *([] if weights is None else [weights]), *others]
    if len(every) == 1:
        return [(definition,)]
    found = model_files(every)
    alone = [files[0] for files in found if is_definition_alone(files)]
    if alone and len(every) == 2:
        return [(every[0], every[1])]  # opening them says what is wrong
    if alone:
        raise OptionError(f"{alone[0]}: this is the definition alone; give its weights after it")
    for first, *more in found:
        if len(found) > 1 and more and (more[0].suffix == ".prototxt" or first.suffix == ".caffemodel"):
            raise OptionError(
                f"{first} is followed by {more[0]}: of several models each prototxt is followed by its "
                "weights"
            )
    return found


def folders(models: Sequence[Sequence[Path]], output: Path) -> list[Path]:
    """The folder of each model below `output`: the name of its first file without the suffix.

    Where two have one name, the folders that they lie in tell them apart.

    Raises:
        OptionError: that does not tell them apart either.
    """
    firsts = [files[0] for files in models]
    names = [path.stem for path in firsts]
    if len(set(names)) < len(names):
        names = [f"{path.parent.resolve().name}-{path.stem}" for path in firsts]
    for number, name in enumerate(names):
        other = names.index(name)
        if other < number:
            raise OptionError(
                f"{firsts[other]} and {firsts[number]} would both be written into {output / name}; decompose "
                "them in two calls"
            )
    return [output / name for name in names]


def decompose_each(
    models: Sequence[Sequence[Path]],
    places: Sequence[Path],
    one: Callable[[Sequence[Path], Path], Result[Model]],
) -> Iterator[Done]:
    """Decompose models one after the other, each when it is asked for.

    Args:
        models: the files of each.
        places: the folder of each.
        one: decomposes the model of some files into a folder.
    """
    for number, (files, folder) in enumerate(zip(models, places, strict=True), 1):
        if not QUIET.get():
            say(f"{number} of {len(models)}: {files[0]}")
        try:
            yield _done(files[0], folder, one(files, folder).plan)
        except Exception as error:
            why = explain(error) or (str(error) if isinstance(error, TwofoldError) else None)
            if why is None:
                raise  # a bug: whoever reports it needs the traceback
            say(f"twofold: {why}")
            yield Done(str(files[0]), problem=why)


def _done(first: Path, folder: Path, plan: Plan) -> Done:
    return Done(str(first), str(folder), len(plan.choices), plan.totals.macs_ratio, plan.measured_error)


def tell(done: Sequence[Done], *, as_json: bool) -> None:
    """Print what became of all."""
    if as_json:
        echo(json.dumps([asdict(one) for one in done], indent=2))
        return
    rows = [("model", "decomposed", "MACs", "output error", "written to")]
    for one in done:
        failed = one.macs is None
        rows.append(
            (
                visible(one.model),
                "" if failed else str(one.decomposed),
                "" if one.macs is None else f"{one.macs:.3f}",
                "" if failed else "not measured" if one.error is None else error_text(one.error),
                f"failed: {visible(one.problem)}" if failed else visible(one.folder),
            )
        )
    echo("\n".join(aligned(rows, right=(1, 2, 3))))
