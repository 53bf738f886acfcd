"""Reports of small nets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tests.small import write

import twofold
from twofold.conv import ConvGeometry, Skipped
from twofold.decomposition.result import Result
from twofold.formats.graph import NetGraph, Node
from twofold.planning import Choice, Plan
from twofold.report import Made, Report, of_result

BROKEN = '<img src=x onerror="window.broken=1"></script><script>window.broken=1</script>'


def result_of(folder: Path) -> Result:
    """A small net decomposed with some data."""
    data = np.random.default_rng(0).normal(size=(24, 16, 12, 12)).astype(np.float32)
    return twofold.decompose(twofold.load(*write(folder)), macs=0.5, data=data)


def report_of(folder: Path) -> Report:
    """The report of it, as the command line would have made it."""
    words = ("twofold", "decompose", "net.prototxt", "net.caffemodel", "-o", "out/", "--macs", "0.5")
    return of_result(result_of(folder), words)


def hostile_report() -> Report:
    """All names that come from a model hold HTML."""
    shape = ConvGeometry.of(64, 64, (3, 3), pad=(1, 1))
    choice = Choice(
        BROKEN, shape, "spatial", "hw", (16,), (1000, 400), (900, 300), 0.1, 0.05, (BROKEN,), (BROKEN, "b")
    )
    plan = Plan(
        (choice,), (Skipped("other" + BROKEN, BROKEN),), sources={BROKEN: BROKEN}, notes=(BROKEN,),
        calibration={BROKEN: BROKEN},
    )  # fmt: skip
    nodes = (Node(BROKEN + "in", BROKEN), Node(BROKEN, "Conv", (0,), (1, 64, None, None), BROKEN))
    graph = NetGraph(nodes)
    return Report(BROKEN, Made(BROKEN, (BROKEN,)), plan, None, graph, notes=(BROKEN,))


def plain(report: Report) -> dict:
    """A report's JSON object, to be damaged."""
    return json.loads(report.to_json())
