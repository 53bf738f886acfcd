"""The command line: a thin shell over the public functions.

Results go to stdout, or as JSON with --json; progress and notes go to stderr. Exit codes: 0 done, 1 refused
(one line says why and what to do), 2 the command line itself is wrong, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from . import cli_inputs, cli_latency
from .apply import apply_plan
from .compare import compare as compare_models
from .conv import ConvLayer
from .decompose import DATA_SCHEMES, calibrate, default_schemes, run
from .errors import OptionError, TwofoldError
from .export import export as export_model
from .formats.base import Model, refuse_existing
from .inspect import inspect as inspect_model
from .latency.choose import stopwatch, time_budget
from .load import grouped, load, load_beside
from .lowrank import FitOptions
from .lowrank.schemes import SCHEMES
from .planning import RULES, Budget, FixedRanks, Plan, PlanOptions
from .planning.devices import PRESETS, parse_multiple
from .quantize import default_path as quantized_path
from .quantize import quantize as quantize_model
from .recover import RecoverOptions
from .recover import recover as recover_model
from .result import PLAN_FILE, Result

app = typer.Typer(
    name="twofold",
    help="Make trained convolutional networks faster: replace large convolutions by stacks of smaller ones.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

app.add_typer(cli_latency.app, name="latency")

Definition = Annotated[
    Path, typer.Argument(help="The net: a Caffe prototxt, or an ONNX model.", show_default=False)
]
Weights = Annotated[
    Path | None, typer.Argument(help="The weights of a prototxt: a caffemodel.", show_default=False)
]
Folder = Annotated[Path, typer.Option("--output", "-o", help="Folder for the new files.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="Exchange files that exist.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Inputs = cli_inputs.InputShapes


@app.command()
def inspect(
    definition: Definition,
    weights: Annotated[
        Path | None, typer.Argument(help="The weights of a prototxt; without them only shapes.")
    ] = None,
    scheme: Annotated[list[str] | None, typer.Option(help="Schemes: " + ", ".join(SCHEMES))] = None,
    input: Inputs = None,
    as_json: AsJson = False,
) -> None:
    """List every convolution: shape, cost, eligible or why not, what ranks would cost and keep.

    Example: twofold inspect net.prototxt net.caffemodel
    """
    model = _load(definition, weights, input)
    found = inspect_model(model, tuple(scheme or ("spatial",)))
    if as_json:
        print(json.dumps([asdict(layer) for layer in found.layers], indent=2))
    else:
        print(found)


@app.command()
def decompose(
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
    speedup: cli_latency.Speedup = None,
    latency: cli_latency.Latency = None,
    runtime: cli_latency.Runtime = None,
    threads: cli_latency.Threads = None,
    latency_table: cli_latency.LatencyTable = None,
    rule: Annotated[str | None, typer.Option(help="Choose ranks by a rule: " + ", ".join(RULES))] = None,
    multiple: Annotated[
        str,
        typer.Option(metavar="N", help="Ranks are multiples of N, or suit a device: " + ", ".join(PRESETS)),
    ] = "16",
    scheme: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Schemes that compete: {', '.join(SCHEMES)}. "
            f"Default: {', '.join(DATA_SCHEMES)}; spatial with --no-data; all by time."
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
    refine: Annotated[int, typer.Option(metavar="N", help="Alternations that improve factors further.")] = 0,
    images: cli_inputs.Images = None,
    data: cli_inputs.Data = None,
    no_data: cli_inputs.NoData = False,
    size: cli_inputs.Size = None,
    crop: cli_inputs.Crop = None,
    crops: cli_inputs.Crops = 1,
    color: cli_inputs.ColorOrder = None,
    mean: cli_inputs.Mean = None,
    scale: cli_inputs.Scale = None,
    limit: cli_inputs.Limit = None,
    range: cli_inputs.Range = None,
    memory: cli_inputs.Memory = None,
    statistics: cli_inputs.Saved = None,
    protect: cli_inputs.Protect = None,
    accuracy: cli_inputs.Labels = None,
    metric: cli_inputs.UserMetric = None,
    seed: cli_inputs.Seed = 0,
    input: Inputs = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Write a smaller net, its weights, and the plan that tells what was done.

    Factors are fitted to what the layers see on your pictures or data; without any, on made-up pictures.
    Without a budget it spends the MACs that the reference's rule would spend, and never more.

    Example: twofold decompose net.prototxt net.caffemodel -o out/ --macs 0.4 --images photos/

    Example: twofold decompose net.onnx -o out/ --macs 0.4 --input images=1x3x640x640

    Example: twofold decompose net.prototxt net.caffemodel -o out/ --speedup 2 --runtime onnxruntime
    """
    budget = _budget(macs=macs, params=params, error=error, accuracy_drop=accuracy_drop, energy=energy)
    time = time_budget(speedup, latency)
    if time is not None and budget is not None:
        raise OptionError(f"one budget can be kept, found one of time and of {budget.kind}; choose one")
    budget = budget if time is None else Budget("latency", time)
    watch = stopwatch(budget, runtime_name=runtime, threads=threads, table=latency_table)
    fixed = tuple(map(FixedRanks.parse, rank or ()))
    source = cli_inputs.source(
        images=images, data=data, size=size, crop=crop, crops=crops, color=color, mean=mean, scale=scale,
        limit=limit, values=range, memory=memory, statistics=statistics, protect=protect,
        accuracy=accuracy, metric=metric, seed=seed,
    )  # fmt: skip
    model = _load(definition, weights, input, whole=True)
    if not force:
        refuse_existing([*model.targets(output), output / PLAN_FILE])
    used = calibrate(model, source, no_data=no_data, rule=rule)
    for note in used.notes:
        _say(f"note: {note}")
    number, device = parse_multiple(multiple)
    options = PlanOptions(
        budget=budget,
        rule=rule,
        multiple=number,
        device=device,
        schemes=tuple(scheme) if scheme else default_schemes(used, watch),
        only=tuple(only or ()),
        skip=tuple(skip or ()),
        ranks=fixed,
    )
    result = run(model, options, used, FitOptions(refine=refine), watch)
    _finish(result, output, as_json=as_json, force=force)


@app.command()
def apply(
    plan: Annotated[Path, typer.Argument(help="A plan.json, perhaps edited.", show_default=False)],
    definition: Definition,
    output: Folder,
    weights: Weights = None,
    input: Inputs = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Carry out a plan, on its own net or on that net's training twin.

    Example: twofold apply out/plan.json train_val.prototxt net.caffemodel -o out/
    """
    chosen = Plan.load(plan)
    model = _load(definition, weights, input, whole=True)
    fitted = None if chosen.calibration is None else load_beside(plan, chosen.sources)
    result = apply_plan(chosen, model, fitted)
    _finish(result, output, as_json=as_json, force=force, keep=plan)


@app.command()
def compare(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="Two models: each a prototxt and a caffemodel, an ONNX file, or the folder of a plan.",
            show_default=False,
        ),
    ],
    images: cli_inputs.Images = None,
    data: cli_inputs.Data = None,
    size: cli_inputs.Size = None,
    crop: cli_inputs.Crop = None,
    crops: cli_inputs.Crops = 1,
    color: cli_inputs.ColorOrder = None,
    mean: cli_inputs.Mean = None,
    scale: cli_inputs.Scale = None,
    limit: cli_inputs.Limit = None,
    range: cli_inputs.Range = None,
    protect: cli_inputs.Protect = None,
    seed: cli_inputs.Seed = 0,
    threads: cli_latency.Threads = None,
    input: Inputs = None,
    as_json: AsJson = False,
) -> None:
    """Run two models on the same inputs: errors of the outputs, cost, and time.

    Example: twofold compare net.prototxt net.caffemodel out/ --images photos/
    """
    source = cli_inputs.source(
        images=images, data=data, size=size, crop=crop, crops=crops, color=color, mean=mean, scale=scale,
        limit=limit, values=range, memory=None, statistics=None, protect=protect,
        accuracy=None, metric=None, seed=seed,
    )  # fmt: skip
    first, second = grouped(models)
    shapes = dict(map(cli_inputs.shape, input or ()))
    found = compare_models(load(*first, inputs=shapes), load(*second, inputs=shapes), source, threads=threads)
    sizes = [sum(path.stat().st_size for path in files) for files in (first, second)]
    found = replace(found, bytes=(sizes[0], sizes[1]))
    print(json.dumps(asdict(found), indent=2) if as_json else found)


@app.command()
def recover(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="The original, then what was made of it: each a prototxt and a caffemodel, or a folder.",
            show_default=False,
        ),
    ],
    output: Folder,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Steps of the optimizer. Default: some minutes' worth.")
    ] = None,
    rate: Annotated[
        float, typer.Option(metavar="R", help="Learning rate, as a share of each weight's size.")
    ] = RecoverOptions.rate,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Samples per step. Default: as many as one well holds.")
    ] = None,
    images: cli_inputs.Images = None,
    data: cli_inputs.Data = None,
    size: cli_inputs.Size = None,
    crop: cli_inputs.Crop = None,
    crops: cli_inputs.Crops = 1,
    color: cli_inputs.ColorOrder = None,
    mean: cli_inputs.Mean = None,
    scale: cli_inputs.Scale = None,
    limit: cli_inputs.Limit = None,
    range: cli_inputs.Range = None,
    protect: cli_inputs.Protect = None,
    seed: cli_inputs.Seed = 0,
    input: Inputs = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Let the original teach the decomposed net, without labels.

    Example: twofold recover net.prototxt net.caffemodel out/ -o recovered/ --images photos/
    """
    source = cli_inputs.source(
        images=images, data=data, size=size, crop=crop, crops=crops, color=color, mean=mean, scale=scale,
        limit=limit, values=range, memory=None, statistics=None, protect=protect,
        accuracy=None, metric=None, seed=seed,
    )  # fmt: skip
    first, second = grouped(models)
    shapes = dict(map(cli_inputs.shape, input or ()))
    original, decomposed = load(*first, inputs=shapes), load(*second, inputs=shapes)
    if not force:
        refuse_existing(decomposed.targets(output))
    found = recover_model(
        original, decomposed, source, RecoverOptions(steps=steps, rate=rate, batch=batch, seed=seed)
    )
    files = found.model.save_to(output, force=force, extra={}, check=lambda written: None)
    if as_json:
        numbers = {key: value for key, value in vars(found).items() if key != "model"}
        print(json.dumps({**numbers, "files": [str(path) for path in files]}, indent=2))
    else:
        print(found)
        print("\nwritten: " + ", ".join(map(str, files)))


@app.command()
def export(
    definition: Definition,
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file.", show_default=False)],
    weights: Weights = None,
    input: Inputs = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Write a Caffe net as ONNX, checked in ONNX Runtime against the net in PyTorch.

    Example: twofold export net.prototxt net.caffemodel -o net.onnx
    """
    if not force:
        refuse_existing([output])
    model = _load(definition, weights, input, whole=True)
    found = export_model(model, output, force=force)
    print(json.dumps({**asdict(found), "path": str(found.path)}, indent=2) if as_json else found)
    if not as_json:
        print(f"\nwritten: {found.path}")


@app.command()
def quantize(
    definition: Definition,
    output: Folder,
    weights: Weights = None,
    images: cli_inputs.Images = None,
    data: cli_inputs.Data = None,
    size: cli_inputs.Size = None,
    crop: cli_inputs.Crop = None,
    crops: cli_inputs.Crops = 1,
    color: cli_inputs.ColorOrder = None,
    mean: cli_inputs.Mean = None,
    scale: cli_inputs.Scale = None,
    limit: cli_inputs.Limit = None,
    range: cli_inputs.Range = None,
    seed: cli_inputs.Seed = 0,
    input: Inputs = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Write a net in int8, as ONNX, and say what that costs layer by layer.

    Example: twofold quantize net.prototxt net.caffemodel -o out/ --images photos/
    """
    source = cli_inputs.source(
        images=images, data=data, size=size, crop=crop, crops=crops, color=color, mean=mean, scale=scale,
        limit=limit, values=range, memory=None, statistics=None, protect=None,
        accuracy=None, metric=None, seed=seed,
    )  # fmt: skip
    path = quantized_path(definition, output)
    if not force:
        refuse_existing([path])
    found = quantize_model(_load(definition, weights, input, whole=True), path, source, force=force)
    print(json.dumps({**asdict(found), "path": str(path)}, indent=2) if as_json else found)
    if not as_json:
        print(f"\nwritten: {path}")


@app.command()
def finetune(
    solver: Annotated[Path, typer.Argument(help="The solver: a Caffe prototxt.", show_default=False)],
    weights: Annotated[
        list[Path] | None,
        typer.Option("--weights", "-w", help="A caffemodel to begin with; without, fillers' values."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the snapshots, instead of snapshot_prefix's."),
    ] = None,
    lr_scale: Annotated[float, typer.Option(metavar="X", help="Multiplies the learning rate.")] = 1.0,
    max_iter: Annotated[
        int | None, typer.Option(metavar="N", help="Iterations in all, instead of the solver's.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:1; by default a GPU where there is one.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest snapshot.")] = False,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Train a Caffe net from its own solver, and write snapshots as Caffe does.

    Ctrl-C writes a snapshot; --resume goes on as if nothing had happened. Runs under torchrun, too.

    Example: twofold finetune solver.prototxt --weights out/net.caffemodel -o tuned/ --lr-scale 0.1
    """
    # Needs PyTorch, which the rest does not.
    from .finetune import TrainOptions, train  # noqa: PLC0415

    options = TrainOptions(output, lr_scale, max_iter, device, resume, force)
    outcome = train(solver, tuple(weights or ()), options)
    if outcome.rank == 0:
        print(json.dumps(outcome.to_json(), indent=2) if as_json else outcome)
    if outcome.stopped_by is not None:
        raise typer.Exit(128 + outcome.stopped_by)


def _load(
    definition: Path, weights: Path | None, inputs: Sequence[str] | None, *, whole: bool = False
) -> Model:
    """Load a model and print its notes; where it must be `whole`, its weights may not be missing."""
    model = load(definition, weights, inputs=dict(map(cli_inputs.shape, inputs or ())))
    if whole and any(isinstance(layer, ConvLayer) and layer.weight is None for layer in model.convolutions()):
        raise OptionError(f"{definition}: this is the definition alone; give its weights after it")
    for note in model.notes:
        _say(f"note: {note}")
    return model


def _budget(**given: str | None) -> Budget | None:
    named = [(kind, text) for kind, text in given.items() if text is not None]
    if len(named) > 1:
        options = " and ".join(f"--{kind.replace('_', '-')}" for kind, _ in named)
        raise OptionError(f"one budget can be kept, found {options}; choose one")
    return Budget.parse(*named[0]) if named else None


def _finish(
    result: Result[Model], output: Path, *, as_json: bool, force: bool, keep: Path | None = None
) -> None:
    files = result.save(output, force=force, keep=keep)
    if as_json:
        print(
            json.dumps(
                {"plan": json.loads(result.plan.to_json()), "files": [str(path) for path in files]}, indent=2
            )
        )
        return
    print(result.plan)
    if not result.plan.choices:
        print("\nno convolution was decomposed; the files were copied unchanged")
    print("\nwritten: " + ", ".join(map(str, files)))


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process if None.

    Returns:
        The exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # Names of layers may hold characters that a terminal's encoding lacks.
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=None if argv is None else list(argv), prog_name="twofold")
    except SystemExit as end:  # typer ends a run so, with 2 for a wrong command line
        return end.code if isinstance(end.code, int) else 0
    except TwofoldError as error:
        _say(f"twofold: {error}")
        return 1
    return 0
