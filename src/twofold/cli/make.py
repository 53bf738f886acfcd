"""Commands that make a smaller net: inspect, decompose, apply."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..backends import load_beside
from ..decomposition.apply import apply_plan
from ..decomposition.decompose import decompose as decompose_model
from ..decomposition.dry_run import dry_run as find_out
from ..decomposition.result import PLAN_FILE, Result
from ..errors import OptionError
from ..formats.base import Model, reserved, sizes_of
from ..inspect import inspect as inspect_model
from ..lowrank import REFINE
from ..lowrank.schemes import SCHEMES
from ..planning import RULES, FixedRanks, Plan
from ..planning.devices import PRESETS, parse_multiple
from ..planning.options import DATA_SCHEMES
from ..progress import QUIET, VERBOSE
from ..ranks import here, joined
from ..terminal import echo
from . import inputs, several, times
from . import report as reports
from .cache import NoCache
from .commands import COMMAND
from .common import AsJson, Definition, Device, Folder, Force, Inputs, Weights, finish, load_model
from .config import FILE as RUN_FILE
from .config import Config, command_words, of_run, run_file

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
        typer.Option(
            metavar="NAME", help=f"Schemes: {', '.join(SCHEMES)}. Default: those that decompose would use."
        ),
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
    echo(json.dumps(found.as_json(), indent=2) if as_json else found)


def _option(panel: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(help=help, metavar=metavar, rich_help_panel=panel)


def _budget(help: str, metavar: str) -> Any:
    return _option("Budget (one of them)", help, metavar)


@dataclass(frozen=True)
class Budgets:
    """What may be spent; one of them, or one of time."""

    macs: Annotated[str | None, _budget("MACs after / before: 0.4 or 40%; or an amount: 20M.", "R")] = None
    params: Annotated[str | None, _budget("Weights after / before, or an amount.", "R")] = None
    error: Annotated[
        str | None, _budget("The cheapest net whose outputs have at most this relative error.", "E")
    ] = None
    accuracy_drop: Annotated[
        str | None, _budget("The cheapest net whose accuracy, a fraction, drops by at most this.", "D")
    ] = None
    energy: Annotated[str | None, _budget("Keep this fraction of every layer's energy.", "E")] = None


def _layers(help: str, metavar: str | None = None) -> Any:
    return _option("Layers and ranks", help, metavar)


@dataclass(frozen=True)
class Ranks:
    """Which layers are decomposed, and how ranks are chosen."""

    rule: Annotated[str | None, _layers("Choose ranks by a rule: " + ", ".join(RULES) + ".", "NAME")] = None
    multiple: Multiple = "16"
    scheme: Annotated[
        list[str] | None,
        _layers(
            f"Schemes that compete: {', '.join(SCHEMES)}. "
            f"Default: {', '.join(DATA_SCHEMES)}; spatial alone with --no-data where enough; all by time.",
            "NAME",
        ),
    ] = None
    only: Annotated[
        list[str] | None, _layers("Layers, or patterns of them, that may be decomposed.", "NAME")
    ] = None
    skip: Annotated[list[str] | None, _layers("Layers, or patterns of them, to leave alone.", "NAME")] = None
    rank: Annotated[
        list[str] | None, _layers("Fix a layer's rank (R1xR2 for two, 'full' for full rank).", "NAME=R")
    ] = None
    refine: Annotated[int, _layers("Rounds that improve factors; 0 is quicker, more lose less.", "N")] = (
        REFINE
    )


@joined()
def decompose(
    context: typer.Context,
    definition: Definition,
    output: Folder,
    budget: Budgets,
    time: times.Time,
    ranks: Ranks,
    samples: inputs.Calibrated,
    weights: Weights = None,
    others: several.Others = None,
    input: Inputs = None,
    follow_links: inputs.FollowLinks = False,
    no_report: reports.NoReport = False,
    no_cache: NoCache = False,
    device: Device = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be done, and what it would take; write nothing."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors and the result.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="A line for every layer and step of every stage.")
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Write a smaller net, its weights, and the plan that tells what was done.

    Factors are fitted to the activations on your images or data; without any, on synthetic images.
    Without a budget it spends the MACs that AMCT's rank rule would spend, and never more.
    Runs under torchrun, too.

    Example: twofold decompose net.prototxt net.caffemodel -o out/ --macs 0.4 --images photos/

    Example: twofold decompose net.onnx -o out/ --macs 0.4 --input images=1x3x640x640

    Example: twofold decompose net.prototxt net.caffemodel -o out/ --speedup 2 --runtime onnxruntime

    Example: twofold decompose models/*.onnx -o out/ --macs 0.5 --images photos/ --preset imagenet
    """
    if quiet and verbose:
        raise OptionError("--quiet and --verbose contradict each other; give one")
    QUIET.set(quiet or QUIET.get())
    VERBOSE.set(verbose)
    source = samples.source()
    fixed = tuple(map(FixedRanks.parse, ranks.rank or ()))
    options: dict[str, Any] = {
        **asdict(budget), **asdict(time), "source": source, "no_data": samples.no_data, "ranks": fixed,
        "rule": ranks.rule, "multiple": ranks.multiple, "schemes": ranks.scheme or None,
        "only": ranks.only or (), "skip": ranks.skip or (), "refine": ranks.refine, "cache": not no_cache,
        "device": device,
    }  # fmt: skip

    def one(files: Sequence[Path], folder: Path, *, told: bool = True) -> Result[Model]:
        load = partial(load_model, files[0], files[1] if files[1:] else None, input, whole=True)
        model = here().agreed("the model", load)
        names = (PLAN_FILE, RUN_FILE) if no_report else (PLAN_FILE, RUN_FILE, *reports.FILES)
        targets = [*model.targets(folder), *(folder / name for name in names)]
        with reserved(targets, force=force, sizes=sizes_of([model])):
            result = decompose_model(model, **options)
            run = of_run(
                context,
                definition=files[0],
                weights=files[1] if files[1:] else None,
                others=(),
                output=folder,
            )
            COMMAND.set(command_words(run))
            if here().first:
                extra = {RUN_FILE: run_file(run), **({} if no_report else reports.files_of(result))}
                finish(result, folder, as_json=as_json, force=force, extra=extra, told=told)
        return result

    models = several.models_of(definition, weights, others or ())
    if dry_run:
        if len(models) > 1:
            raise OptionError("--dry-run: takes one model")
        found = find_out(load_model(definition, weights, input, whole=True), **options)
        if here().first:
            echo(json.dumps(found.to_json(), indent=2) if as_json else found)
        raise typer.Exit(1 if found.problem else 0)
    if len(models) == 1:
        one(models[0], output)
        return
    if here().several:
        raise OptionError("several models: torchrun's processes share one model; start it once for each")
    if samples.statistics is not None:
        raise OptionError("--statistics: a file holds those of one model; the cache keeps those of all")
    places, done = several.folders(models, output), list[several.Done]()
    try:
        for row in several.decompose_each(models, places, partial(one, told=False)):
            done.append(row)
    finally:  # after Ctrl-C, too
        several.tell(done, as_json=as_json)
    if any(row.problem for row in done):
        raise typer.Exit(1)


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
