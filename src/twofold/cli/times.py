"""Command line options of plans by time, and the commands of `twofold latency`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..backends import load
from ..errors import OptionError
from ..latency.forms import FORMS
from ..latency.offline import export_models
from ..latency.runtimes import RUNTIMES
from ..latency.table import Table, cache_folder, saved
from ..latency.table import forget as forget_tables
from ..lowrank import SCHEMES
from ..planning import PlanOptions
from ..planning.devices import PRESETS, parse_multiple
from ..terminal import echo, paths_text
from ..text import aligned
from . import inputs
from .common import AsJson, Force
from .groups import Command

_GROUP = "Time"


def _option(text: str, metavar: str | None = None) -> Any:
    return typer.Option(help=text, metavar=metavar, rich_help_panel=_GROUP)


Speedup = Annotated[float | None, _option("Budget: how many times faster the net runs.", "S")]
Latency = Annotated[float | None, _option("Budget: time after / before.", "R")]
Runtime = Annotated[str | None, _option("What will run the net: " + ", ".join(RUNTIMES) + ".", "NAME")]
Compared = Annotated[
    list[str] | None,
    _option(
        "Runtime to time both models in, or none. Default: all that are installed: "
        + ", ".join(RUNTIMES)
        + ".",
        "NAME",
    ),
]
Threads = Annotated[int | None, _option("Threads of the runtime. Default: all cores.", "N")]
LatencyTable = Annotated[
    Path | None, _option("Times from a device that is not here (twofold latency export).", "FILE")
]


def compared(runtimes: Sequence[str] | None) -> Sequence[str] | None:
    """The runtimes to time in; None where the user names none of them.

    Raises:
        OptionError: runtimes beside the word "none".
    """
    if not runtimes:
        return None
    if "none" not in runtimes:
        return runtimes
    if len(set(runtimes)) > 1:
        raise OptionError("--runtime none: no times are taken; give it without other runtimes")
    return ()


@dataclass(frozen=True)
class Time:
    """A budget of time, and what tells times."""

    speedup: Speedup = None
    latency: Latency = None
    runtime: Runtime = None
    threads: Threads = None
    latency_table: LatencyTable = None


app = typer.Typer(
    name="latency",
    no_args_is_help=True,
    help="Times of layers: what was measured, and models to time elsewhere.",
)


OfRuntime = Annotated[
    str | None, typer.Option(metavar="NAME", help="Only tables of this runtime: " + ", ".join(RUNTIMES) + ".")
]


@app.command(cls=Command)
def show(runtime: OfRuntime = None, as_json: AsJson = False) -> None:
    """List the times that were measured on this machine.

    Example: twofold latency show --runtime onnxruntime
    """
    _check(runtime)
    tables = [table for table in saved() if runtime in (None, table.setting.runtime)]
    if as_json:
        echo(json.dumps([_as_json(table) for table in tables], indent=2))
        return
    echo("\n\n".join(map(_text, tables)) or f"nothing was measured yet (kept in {cache_folder()})")


@app.command(cls=Command)
def forget(runtime: OfRuntime = None, as_json: AsJson = False) -> None:
    """Remove the times that were measured on this machine: after a busy hour, measure anew.

    Example: twofold latency forget --runtime onnxruntime
    """
    _check(runtime)
    paths = [str(path) for path in forget_tables(runtime)]
    echo(json.dumps(paths) if as_json else f"removed: {paths_text(paths) or 'nothing was measured yet'}")


def _check(runtime: str | None) -> None:
    if runtime is not None:
        RUNTIMES.find(runtime)


@app.command(cls=Command)
def export(
    definition: Annotated[
        Path, typer.Argument(help="The net: a Caffe prototxt, or an ONNX model.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the models.", show_default=False),
    ],
    weights: Annotated[
        Path | None, typer.Argument(help="The weights of a prototxt: a caffemodel.", show_default=False)
    ] = None,
    format: Annotated[
        str, typer.Option(metavar="NAME", help="Format of the models: " + ", ".join(FORMS) + ".")
    ] = "onnx",
    block: Annotated[
        str,
        typer.Option(metavar="N", help="Channels the device computes together: N, or " + ", ".join(PRESETS)),
    ] = "16",
    device: Annotated[str, typer.Option(metavar="NAME", help="What the device is called.")] = "device",
    scheme: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Schemes: " + ", ".join(SCHEMES) + ".")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Layers, or patterns of them.")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Layers to leave out.")] = None,
    input: inputs.InputShapes = None,
    follow_links: inputs.FollowLinks = False,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Write small models to time on another device, and the table to fill in.

    Example: twofold latency export net.prototxt net.caffemodel -o timing/ --block ascend-fp16

    Example: twofold decompose net.onnx -o out/ --speedup 2 --latency-table timing/times.csv
    """
    model = load(definition, weights, inputs=inputs.shapes(input))
    number, _ = parse_multiple(block)
    options = PlanOptions(schemes=tuple(scheme or SCHEMES), only=tuple(only or ()), skip=tuple(skip or ()))
    found = export_models(
        model, options, output, block=number, model_format=format, device=device, force=force
    )
    echo(json.dumps({**asdict(found), "folder": str(found.folder)}, indent=2) if as_json else found)


def _as_json(table: Table) -> dict[str, Any]:
    return {
        "setting": asdict(table.setting),
        "times": {key: asdict(time) for key, time in table.times.items()},
    }


def _text(table: Table) -> str:
    rows = [("batch x size: stack", "ms", "spread", "rounds")]
    for key, time in sorted(table.times.items()):
        rows.append((key, f"{1e3 * time.median:.3f}", f"{time.spread:.3f}", str(time.rounds)))
    return "\n".join([str(table.setting), *aligned(rows, {1, 2, 3})])
