"""Commands that write other forms of a net: export, quantize."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..export import export as export_model
from ..formats.base import reserved
from ..int8.quantize import default_path as quantized_path
from ..int8.quantize import quantize as quantize_model
from ..terminal import echo, paths_text
from . import inputs
from . import report as reports
from .common import AsJson, Definition, Device, Folder, Force, Inputs, Weights, load_model


def export(
    definition: Definition,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The ONNX file.", show_default=False)
    ],
    weights: Weights = None,
    input: Inputs = None,
    follow_links: inputs.FollowLinks = False,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Write a Caffe net as ONNX, checked in ONNX Runtime against PyTorch.

    Example: twofold export net.prototxt net.caffemodel -o net.onnx
    """
    with reserved([output], force=force):
        model = load_model(definition, weights, input, whole=True)
        found = export_model(model, output, force=force)
    echo(json.dumps({**asdict(found), "path": str(found.path)}, indent=2) if as_json else found)
    if not as_json:
        echo(f"\nwritten: {paths_text([found.path])}")


def quantize(
    definition: Definition,
    output: Folder,
    samples: inputs.Samples,
    weights: Weights = None,
    input: Inputs = None,
    follow_links: inputs.FollowLinks = False,
    device: Device = None,
    no_report: reports.NoReport = False,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Write a net in int8, as ONNX, and say what that costs layer by layer.

    Example: twofold quantize net.prototxt net.caffemodel -o out/ --images photos/
    """
    source = samples.source()
    path = quantized_path(definition, output)
    files = [path, *(() if no_report else (output / name for name in reports.FILES))]
    with reserved(files, force=force):
        model = load_model(definition, weights, input, whole=True)
        extra = None if no_report else reports.quantized_files
        found = quantize_model(model, path, source, device=device, force=force, extra=extra)
    echo(json.dumps({**asdict(found), "path": str(path)}, indent=2) if as_json else found)
    if not as_json:
        echo(f"\nwritten: {paths_text([path])}")
