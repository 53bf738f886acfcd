"""Commands that train: recover, finetune."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..backends import grouped, load
from ..formats.base import Model, reject_changed, reserved, sizes_of
from ..int8.quantize import default_path
from ..recover import RecoverOptions
from ..recover import recover as recover_model
from ..terminal import echo, paths_text
from . import inputs
from . import report as reports
from .common import AsJson, Folder, Force, Inputs

Device = Annotated[
    str | None,
    typer.Option(metavar="DEVICE", help="cpu, cuda or cuda:1; by default a GPU where there is one."),
]


def recover(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="The original, then what was made of it: each a prototxt and a caffemodel, an ONNX file, or "
            "the folder of a plan.",
            show_default=False,
        ),
    ],
    output: Folder,
    samples: inputs.Learned,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", help="Steps of the optimizer; 0 measures. Default: some minutes' worth."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="R",
            help="Learning rate, as a fraction of each weight's size. Default: found by short trials.",
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Samples per step. Default: as many as one well holds.")
    ] = None,
    input: Inputs = None,
    follow_links: inputs.FollowLinks = False,
    classes: Annotated[
        bool | None,
        typer.Option(
            help="Outputs name classes: the same ones are to be named, too. Default: what shapes say.",
        ),
    ] = None,
    qat: Annotated[
        bool, typer.Option("--qat", help="Train the net as it is in int8, and write that form, as ONNX.")
    ] = False,
    average_with: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="What another recovery made of the same net: begin with the mean. Several times for more.",
            show_default=False,
        ),
    ] = None,
    hint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A value inside both nets that is learned, too: a blob or tensor. Several times for more.",
            show_default=False,
        ),
    ] = None,
    bf16: Annotated[
        bool,
        typer.Option("--bf16", help="Compute in bfloat16: faster where the processor has it (AMX, GPUs)."),
    ] = False,
    device: Device = None,
    no_report: reports.NoReport = False,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Let the original teach the decomposed net, without labels. Runs under torchrun, too.

    Example: twofold recover net.prototxt net.caffemodel out/ -o recovered/ --images photos/

    Example: twofold recover net.prototxt net.caffemodel recovered/ -o int8/ --images photos/ --qat
    """
    source = samples.source()
    first, second = grouped(models)
    shapes = inputs.shapes(input)
    original, decomposed = load(*first, inputs=shapes), load(*second, inputs=shapes)
    others = [load(path, inputs=shapes) for path in average_with or ()]
    names = () if no_report else reports.FILES
    files = decomposed.targets(output)
    written = [default_path(files[0], output)] if qat else files
    reserving = [*written, *(output / name for name in names)]
    with reserved(reserving, force=force, sizes=sizes_of([decomposed])):
        options = RecoverOptions(
            steps=steps, rate=rate, batch=batch, seed=samples.seed, device=device, classes=classes, qat=qat,
            hints=tuple(hint or ()), bf16=bf16,
        )  # fmt: skip
        plan = None if no_report else reports.plan_beside(second[0], original)
        found = recover_model(original, decomposed, source, options, average_with=others)
        if found.rank:
            return
        more = {} if no_report else reports.recovered_files(found, original, plan)
        extra = {output / name: content for name, content in more.items()}

        def check(_: Model) -> None:
            reject_changed(original)
            reject_changed(decomposed)

        files = found.model.save_to(output, force=force, extra=extra, check=check)
        if as_json:
            numbers = {key: value for key, value in vars(found).items() if key not in ("model", "rank")}
            echo(json.dumps({**numbers, "files": [str(path) for path in files]}, indent=2))
        else:
            echo(found)
            echo("\nwritten: " + paths_text(files))


def finetune(
    solver: Annotated[Path, typer.Argument(help="The solver: a Caffe prototxt.", show_default=False)],
    weights: Annotated[
        list[Path] | None,
        typer.Option(
            "--weights", "-w", metavar="FILE", help="A caffemodel to begin with; without, fillers' values."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Folder for the snapshots, instead of snapshot_prefix's."
        ),
    ] = None,
    lr_scale: Annotated[float, typer.Option(metavar="X", help="Multiplies the learning rate.")] = 1.0,
    max_iter: Annotated[
        int | None, typer.Option(metavar="N", help="Iterations in all, instead of the solver's.")
    ] = None,
    device: Device = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest snapshot.")] = False,
    qat: Annotated[
        bool,
        typer.Option("--qat", help="Train the net as it is in int8, and write that form, too, as ONNX."),
    ] = False,
    no_report: reports.NoReport = False,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Train a Caffe net from its own solver, and write snapshots as Caffe does.

    Ctrl-C writes a snapshot; --resume goes on as if nothing had happened. Runs under torchrun, too.

    Example: twofold finetune solver.prototxt --weights out/net.caffemodel -o tuned/ --lr-scale 0.1

    Example: twofold finetune solver.prototxt --weights tuned/net.caffemodel -o int8/ --lr-scale 0.01 --qat
    """
    # Needs PyTorch, which the rest does not.
    from ..finetune import TrainOptions, snapshot_prefix, train  # noqa: PLC0415

    prefix = snapshot_prefix(solver, output)
    course = None if no_report else reports.TrainingHistory(solver, prefix, resume=resume, force=force)
    options = TrainOptions(output, lr_scale, max_iter, device, resume, force, qat)
    with reserved([] if no_report else [prefix.parent / name for name in reports.FILES]):
        outcome = train(solver, tuple(weights or ()), options)
        if outcome.rank == 0 and course is not None:
            course.write(outcome)
    if outcome.rank == 0:
        echo(json.dumps(outcome.to_json(), indent=2) if as_json else outcome)
    if outcome.stopped_by is not None:
        raise typer.Exit(128 + outcome.stopped_by)
