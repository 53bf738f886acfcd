"""Commands that check what was made: compare."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from ..backends import grouped, load
from ..compare import compare as compare_models
from ..formats.base import reserved
from ..terminal import echo
from . import inputs, times
from . import report as reports
from .common import AsJson, Device, Force, Inputs


def compare(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="Two models: each a prototxt and a caffemodel, an ONNX file, or the folder of a plan.",
            show_default=False,
        ),
    ],
    samples: inputs.Compared,
    runtime: times.Compared = None,
    threads: times.Threads = None,
    input: Inputs = None,
    follow_links: inputs.FollowLinks = False,
    device: Device = None,
    report: reports.ReportFolder = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Run two models on the same inputs: errors of the outputs, cost, and time.

    Example: twofold compare net.prototxt net.caffemodel out/ --images photos/ --report compared/
    """
    files = [] if report is None else [report / name for name in reports.FILES]
    source = samples.source()
    with reserved(files, force=force):
        first, second = grouped(models)
        shapes = inputs.shapes(input)
        pair = load(*first, inputs=shapes), load(*second, inputs=shapes)
        on_batch = reports.Watch(report, samples.color or ("bgr" if pair[0].format == "caffe" else "rgb"))
        found = compare_models(
            *pair, source, runtimes=times.compared(runtime), threads=threads, device=device, on_batch=on_batch
        )
        sizes = [sum(path.stat().st_size for path in files) for files in (first, second)]
        found = replace(found, bytes=(sizes[0], sizes[1]))
        on_batch.write(found, f"{first[0]} and {second[0]}", force=force)
    echo(json.dumps(asdict(found), indent=2) if as_json else found)
