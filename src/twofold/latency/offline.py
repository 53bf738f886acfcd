"""Devices that are not here: models to time there, and the table that comes back.

The folder holds one small model per stack, the whole network, and `times.csv` with one row for each, where
the column `milliseconds` is to be filled in. Lines that begin with `#` say what the table is for.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from ..conv import ConvLayer
from ..errors import FormatError, OptionError, PlanError
from ..formats.base import Model, commit, preflight, reject_changed, reserved, sizes_of
from ..planning import PlanOptions, requests
from ..planning.workload import Workload
from ..progress import track
from .clock import Time
from .forms import FORMS, Contents
from .layers import probe_groups
from .nets import batch_of
from .stacks import Stack
from .stopwatch import TableTimer
from .table import Setting

TABLE = "times.csv"
#: The row of the whole network.
NETWORK = "network"
_COLUMNS = ("model", "what", "milliseconds")

Files = dict[Path, bytes]
#: File, what it is, milliseconds.
Row = tuple[str, str, str]


@dataclass(frozen=True)
class Handout:
    """What was written for another device.

    Attributes:
        folder: where.
        models: number of small models.
        bytes: size of all files.
        network: whether the whole network is among them.
    """

    folder: Path
    models: int
    bytes: int
    network: bool

    def __str__(self) -> str:
        whole = " and the whole network" if self.network else ""
        return (
            f"{self.models} small models{whole} in {self.folder}, {self.bytes / 1e6:.0f} MB\n"
            f"time each of them on the device, write milliseconds into {self.folder / TABLE}, and give it to "
            "decompose: --latency-table"
        )


def export_models(
    model: Model, options: PlanOptions, folder: Path, *, block: int = 16, model_format: str = "onnx",
    device: str = "device", force: bool = False,
) -> Handout:  # fmt: skip
    """Write the models to time for a network, and the table to fill in.

    Args:
        model: the network.
        options: its schemes, and which layers may be replaced.
        folder: where they go.
        block: channels that the device computes together.
        model_format: a format of `FORMS`.
        device: what the device is called.
        force: exchange files that exist.

    Raises:
        OptionError: an unknown format, or one that has no such layers.
        MissingExtraError: what writes the format is not installed.
        ModelError: it cannot be converted.
        PlanError: no layer may be replaced, or the input size of one is not known.
        OutputError: files exist, or the system rejects.
    """
    table = folder / TABLE
    preflight([table], force=force, sizes=sizes_of([model]))
    if model_format not in FORMS:
        raise OptionError(f"format: {model_format!r} is none of {', '.join(FORMS)}")
    layers = model.convolutions()
    wanted = requests(layers, options)
    chosen = [layer for layer in layers if isinstance(layer, ConvLayer) and layer.name in wanted]
    if not chosen:
        raise PlanError("no layer may be replaced, so there is nothing to time; are the weights missing?")
    groups = probe_groups(chosen, wanted, block, batch_of(model), Workload.of(layers))
    stacks = {stack.key: stack for group in groups for stack in group}
    with reserved([table], force=force):
        return _written(model, stacks, folder, model_format, device, block, force=force)


def _written(
    model: Model,
    stacks: Mapping[str, Stack],
    folder: Path,
    model_format: str,
    device: str,
    block: int,
    *,
    force: bool,
) -> Handout:
    """See `export_models`."""
    files, rows, whole = _models(stacks, model, folder, model_format)
    about = {"device": device, "block": str(block)}
    files[folder / TABLE] = _table_text(about, rows).encode()
    writers = {path: partial(_write, content) for path, content in files.items()}
    commit(writers, force=force, check=lambda places: reject_changed(model))
    return Handout(folder, len(stacks), sum(map(len, files.values())), whole)


def _models(
    stacks: Mapping[str, Stack], model: Model, folder: Path, model_format: str
) -> tuple[Files, list[Row], bool]:
    """Files of all stacks and of the network, their rows, and whether the network is among them."""
    files: Files = {}
    rows: list[Row] = []

    def add(stem: str, what: str, contents: Contents) -> None:
        if contents:
            files.update({folder / f"{stem}{suffix}": content for suffix, content in contents.items()})
            rows.append((f"{stem}{next(iter(contents))}", what, ""))

    width = len(str(len(stacks)))
    with FORMS[model_format]() as form:
        whole = form.network(model)
        add(NETWORK, NETWORK, whole)
        for number, (key, stack) in enumerate(track(stacks.items(), f"writing models for {model_format}"), 1):
            add(f"stack{number:0{width}}", key, form.stack(stack))
    return files, rows, bool(whole)


def _table_text(about: Mapping[str, str], rows: Sequence[Row]) -> str:
    stream = io.StringIO()
    for key, value in about.items():
        stream.write(f"# {key}: {value}\n")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(rows)
    return stream.getvalue()


def read_table(path: Path) -> TableTimer:
    """Read a table that was filled in.

    Raises:
        FormatError: it cannot be read, or a row lacks its time.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: cannot read the table of times: {error}") from error
    about = dict(line[1:].partition(":")[::2] for line in lines if line.startswith("#"))
    about = {key.strip(): value.strip() for key, value in about.items()}
    rows = list(csv.reader(line for line in lines if line.strip() and not line.startswith("#")))
    if not rows or tuple(cell.strip() for cell in rows[0]) != _COLUMNS:
        raise FormatError(f"{path}: is no table of times: its columns are {','.join(_COLUMNS)}")
    times = {key: seconds for key, seconds in (_row(path, row) for row in rows[1:]) if seconds is not None}
    block = about.get("block", "1")
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", block):
        raise FormatError(f"{path}: the line '# block:' holds {block[:20]!r}, not a number of channels")
    network = times.pop(NETWORK, None)
    setting = Setting(about.get("device", "device"), "table", path.name, 1)
    known = {key: Time(seconds, seconds, seconds, 1) for key, seconds in times.items()}
    return TableTimer(setting, int(block), known, network, str(path))


def _row(path: Path, row: Sequence[str]) -> tuple[str, float | None]:
    """Key and seconds of a row; the network may be left out."""
    try:
        _, what, text = (cell.strip() for cell in row)
        if what == NETWORK and not text:
            return what, None
        seconds = float(text) / 1e3
        if not 0 < seconds < float("inf"):
            raise ValueError(text)
    except ValueError:
        raise FormatError(
            f"{path}: the row {','.join(row)!r} has no time; write milliseconds into its last column"
        ) from None
    return what, seconds


def _write(content: bytes, stream: BinaryIO) -> None:
    stream.write(content)
