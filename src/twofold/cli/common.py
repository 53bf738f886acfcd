"""Arguments and options that commands share, and how they load a model and hand over a result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..backends import load
from ..conv import ConvLayer
from ..decomposition.result import Result
from ..errors import OptionError
from ..formats.base import Model
from ..progress import note, warn
from ..terminal import echo, paths_text
from . import inputs

Definition = Annotated[
    Path,
    typer.Argument(
        help="The net: a Caffe prototxt, an ONNX model, or a folder with one.", show_default=False
    ),
]
Weights = Annotated[
    Path | None, typer.Argument(help="The weights of a prototxt: a caffemodel.", show_default=False)
]
Folder = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the new files.", show_default=False),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing files.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE", help="Where the net and large matrices are computed: cpu (default), cuda or cuda:1."
    ),
]
Inputs = inputs.InputShapes


def load_model(
    definition: Path, weights: Path | None, given: Sequence[str] | None, *, whole: bool = False
) -> Model:
    """Load a model and print its notes; where it must be `whole`, its weights may not be missing."""
    model = load(definition, weights, inputs=inputs.shapes(given))
    if whole and any(isinstance(layer, ConvLayer) and layer.weight is None for layer in model.convolutions()):
        raise OptionError(f"{definition}: this is the definition alone; give its weights after it")
    for text in model.notes:
        note(text)
    return model


def finish(
    result: Result[Model], output: Path, *, as_json: bool, force: bool, keep: Path | None = None,
    extra: Mapping[str, bytes] | None = None, told: bool = True,
) -> None:  # fmt: skip
    """Save a result, with `extra` files, and print it.

    Args:
        result: what was made.
        output: the folder.
        as_json: print JSON.
        force: overwrite existing files.
        keep: the plan that is not to be written again.
        extra: more files, by name.
        told: whether it is printed, and not only saved.
    """
    for warning in result.warnings:
        warn(warning)
    files = result.save(output, force=force, keep=keep, extra=extra)
    if not told:
        return
    if as_json:
        echo(
            json.dumps(
                {"plan": json.loads(result.plan.to_json()), "files": [str(path) for path in files]}, indent=2
            )
        )
        return
    echo(result.plan)
    if not result.plan.choices:
        echo("\nno convolution was decomposed; the files were copied unchanged")
    echo("\nwritten: " + paths_text(files))
