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
from twofold.planning.tradeoff import LayerCurves, RankCurve, Tradeoff, TradeoffCurves
from twofold.report import Made, Report, of_result

BROKEN = '<img src=x onerror="window.broken=1"></script><script>window.broken=1</script>'


def result_of(folder: Path) -> Result:
    """A small net decomposed with some data."""
    data = np.random.default_rng(0).normal(size=(24, 16, 12, 12)).astype(np.float32)
    return twofold.decompose(twofold.load(*write(folder)), macs=0.5, data=data)


def report_of(result: Result) -> Report:
    """Its report, as the command line would have made it."""
    words = ("twofold", "decompose", "net.prototxt", "net.caffemodel", "-o", "out/", "--macs", "0.5")
    return of_result(result, words)


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


def long_report(layers: int = 200) -> Report:
    """A residual net of many layers with long names, of which every fifth block has decomposed ones."""
    shape = ConvGeometry.of(512, 512, (3, 3), pad=(1, 1))
    nodes, choices, skipped = [Node("images", "Input", shape=(1, 3, 224, 224))], [], []
    for number in range(layers // 2):
        block = f"backbone.features.denseblock{number // 25 + 1}.denselayer{number % 25 + 1}"
        start = len(nodes) - 1
        for name in (f"{block}.conv1", f"{block}.conv2"):
            nodes.append(Node(name, "Conv2d", (len(nodes) - 1,), (1, 512, 7, 7), name))
            nodes.append(Node(f"{name}.norm", "BatchNorm2d", (len(nodes) - 1,)))
            if number % 5 == 3:
                error = (number + 1) / layers * 1.98
                choices.append(
                    Choice(
                        name, shape, "spatial", "hw", (128,), (10**9, 4 * 10**8), (10**6, 4 * 10**5), error,
                        error / 4, becomes=(f"{name}_0", f"{name}_1"),
                    )
                )  # fmt: skip
            else:
                reason = "unchanged is its best use of the budget"
                skipped.append(Skipped(name, reason, geometry=shape, macs=10**9, params=10**6))
        nodes.append(Node(f"{block}.add", "add", (start, len(nodes) - 1), (1, 512, 7, 7)))
    plan = Plan(
        tuple(choices), tuple(skipped), measured_error=0.99, sources={"a_net_of_many_layers.onnx": "0" * 64}
    )
    return Report("a_net_of_many_layers.onnx", Made(), plan, _curves(choices), NetGraph(tuple(nodes)))


def _curves(choices: list[Choice]) -> TradeoffCurves:
    """Curves as long as real ones, with AMCT's point at the end of the axis."""
    ranks = tuple((16 * i,) for i in range(1, 25))
    splits = [("spatial", "hw"), ("spatial", "wh"), ("channel", ""), ("tucker2", "")]
    layers = tuple(
        LayerCurves(
            choice.layer,
            tuple(
                RankCurve(*split, ranks, tuple(range(24)), tuple(0.9 ** (i + j) for j in range(24)))
                for i, split in enumerate(splits)
            ),
        )
        for choice in choices
    )
    ratios = tuple(0.3 + 0.7 * i / 23 for i in range(24))
    errors = tuple(2.0 * (1 - ratio) for ratio in ratios)
    return TradeoffCurves(
        layers, (Tradeoff("macs", "MACs", True, ratios, errors, (0.505, 0.99), (0.3, 1.6)),)
    )
