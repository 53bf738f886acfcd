"""Commands that make a smaller net: inspect, decompose, apply."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..backends import load_beside
from ..decomposition.apply import apply_plan
from ..decomposition.decompose import decompose as decompose_model
from ..decomposition.result import PLAN_FILE
from ..formats.base import reserved, sizes_of
from ..inspect import inspect as inspect_model
from ..lowrank import REFINE
from ..lowrank.schemes import SCHEMES
from ..planning import RULES, FixedRanks, Plan
from ..planning.devices import PRESETS, parse_multiple
from ..planning.options import DATA_SCHEMES
from ..terminal import echo
from . import inputs, times
from . import report as reports
from .common import AsJson, Definition, Folder, Force, Inputs, Weights, finish, load_model
from .config import FILE as RUN_FILE
from .config import Config, run_file

Multiple = Annotated[
    str,
    typer.Option(metavar="N", help="Ranks are multiples of N, or suit a device: " + ", ".join(PRESETS)),
]


def inspect(
    definition: Definition,
    weights: Annotated[
        Path | None, typer.Argument(help="The weights of a prototxt; without them only shapes.")
    ] = None,
    scheme: Annotated[
        list[str] | None,
        typer.Option(help=f"Schemes: {', '.join(SCHEMES)}. Default: those that decompose would use."),
    ] = None,
    multiple: Multiple = "16",
    input: Inputs = None,
    follow_links: inputs.FollowLinks = False,
    as_json: AsJson = False,
) -> None:
    """List every convolution: shape, schemes, what ranks would cost and keep.

    Example: twofold inspect net.prototxt net.caffemodel
    """
    model = load_model(definition, weights, input)
    found = inspect_model(model, scheme, parse_multiple(multiple)[0])
    if as_json:
        echo(json.dumps([asdict(layer) for layer in found.layers], indent=2))
    else:
        echo(found)


def decompose(
    context: typer.Context,
    definition: Definition,
    output: Folder,
    weights: Weights = None,
    macs: Annotated[str | None, typer.Option(metavar="R", help="Budget: MACs after / before.")] = None,
    params: Annotated[str | None, typer.Option(metavar="R", help="Budget: weights after / before.")] = None,
    error: Annotated[
        str | None,
        typer.Option(metavar="E", help="The cheapest net whose outputs have at most this relative error."),
    ] = None,
    accuracy_drop: Annotated[
        str | None,
        typer.Option(metavar="D", help="The cheapest net whose accuracy, a share, drops by at most this."),
    ] = None,
    energy: Annotated[
        str | None,
        typer.Option(metavar="E", help="Keep this share of every layer's energy."),
    ] = None,
    speedup: times.Speedup = None,
    latency: times.Latency = None,
    runtime: times.Runtime = None,
    threads: times.Threads = None,
    latency_table: times.LatencyTable = None,
    rule: Annotated[str | None, typer.Option(help="Choose ranks by a rule: " + ", ".join(RULES))] = None,
    multiple: Multiple = "16",
    scheme: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Schemes that compete: {', '.join(SCHEMES)}. "
            f"Default: {', '.join(DATA_SCHEMES)}; spatial alone with --no-data where enough; all by time."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Layers, or patterns of them, that may be decomposed."),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Layers, or patterns of them, to leave alone."),
    ] = None,
    rank: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=R", help="Fix a layer's rank (R1xR2 for two, 'full' for full rank)."),
    ] = None,
    refine: Annotated[
        int, typer.Option(metavar="N", help="Alternations that improve factors; 0 is quicker.")
    ] = REFINE,
    images: inputs.Images = None,
    data: inputs.Data = None,
    no_data: inputs.NoData = False,
    size: inputs.Size = None,
    crop: inputs.Crop = None,
    crops: inputs.Crops = 1,
    color: inputs.ColorOrder = None,
    mean: inputs.Mean = None,
    scale: inputs.Scale = None,
    preset: inputs.Preset = None,
    limit: inputs.Limit = None,
    range: inputs.Range = None,
    synthetic: inputs.Synthetic = None,
    memory: inputs.Memory = None,
    statistics: inputs.Saved = None,
    targets: inputs.Targets = None,
    accuracy: inputs.Labels = None,
    metric: inputs.UserMetric = None,
    seed: inputs.Seed = 0,
    input: Inputs = None,
    follow_links: inputs.FollowLinks = False,
    no_report: reports.NoReport = False,
    config: Config = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Write a smaller net, its weights, and the plan that tells what was done.

    Factors are fitted to the activations on your images or data; without any, on synthetic images.
    Without a budget it spends the MACs that AMCT's rank rule would spend, and never more.

    Example: twofold decompose net.prototxt net.caffemodel -o out/ --macs 0.4 --images photos/

    Example: twofold decompose net.onnx -o out/ --macs 0.4 --input images=1x3x640x640

    Example: twofold decompose net.prototxt net.caffemodel -o out/ --speedup 2 --runtime onnxruntime
    """
    source = inputs.source(
        images=images, data=data, size=size, crop=crop, crops=crops, color=color, mean=mean, scale=scale,
        preset=preset, limit=limit, values=range, memory=memory, statistics=statistics, targets=targets,
        accuracy=accuracy, metric=metric, seed=seed, synthetic=synthetic,
    )  # fmt: skip
    fixed = tuple(map(FixedRanks.parse, rank or ()))
    model = load_model(definition, weights, input, whole=True)
    names = (PLAN_FILE, RUN_FILE) if no_report else (PLAN_FILE, RUN_FILE, *reports.FILES)
    files = [*model.targets(output), *(output / name for name in names)]
    with reserved(files, force=force, sizes=sizes_of([model])):
        result = decompose_model(
            model, macs=macs, params=params, error=error, accuracy_drop=accuracy_drop, energy=energy,
            speedup=speedup, latency=latency, runtime=runtime, threads=threads, latency_table=latency_table,
            rule=rule, multiple=multiple, schemes=scheme or None, only=only or (), skip=skip or (),
            ranks=fixed, source=source, no_data=no_data, refine=refine,
        )  # fmt: skip
        extra = {RUN_FILE: run_file(context), **({} if no_report else reports.files_of(result))}
        finish(result, output, as_json=as_json, force=force, extra=extra)


def apply(
    plan: Annotated[Path, typer.Argument(help="A plan.json, perhaps edited.", show_default=False)],
    definition: Definition,
    output: Folder,
    weights: Weights = None,
    input: Inputs = None,
    follow_links: inputs.FollowLinks = False,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Carry out a plan, on its own net or on the training net.

    Example: twofold apply out/plan.json train_val.prototxt net.caffemodel -o out/
    """
    chosen = Plan.load(plan)
    model = load_model(definition, weights, input, whole=True)
    with reserved([*model.targets(output), output / PLAN_FILE], sizes=sizes_of([model])):
        fitted = None if chosen.calibration is None else load_beside(plan, chosen.sources)
        result = apply_plan(chosen, model, fitted)
        finish(result, output, as_json=as_json, force=force, keep=plan)
