"""Draws the figures of the pages, from nets of `examples/fashion` and what twofold makes of them.

`make figures` runs it (minutes). The first 500 test images of Fashion-MNIST come with the example: one half
is calibrated on, without labels; errors and accuracies are taken on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from zoo.fashion_mnist import Images, example, shipped, top1

import twofold
from twofold.calibration.measure import OutputErrorMetric
from twofold.calibration.runners import runner_for
from twofold.calibration.source import CalibrationSource
from twofold.conv import ConvLayer
from twofold.decomposition.calibrate import Calibration
from twofold.lowrank import SCHEMES, LayerFit
from twofold.lowrank.measure import energy_error
from twofold.planning.workload import Workload

FOLDER = Path(__file__).with_name("figures")
LAYER = "conv3"
RATIOS = (0.15, 0.2, 0.3, 0.4, 0.55, 0.7)
mpl.rcParams |= {
    "svg.hashsalt": "twofold", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11,
    "axes.spines.top": False, "axes.spines.right": False, "figure.figsize": (7, 4),
}  # fmt: skip

Line = Sequence[tuple[float, float]]


def main() -> int:
    """Draw all; gives the exit code."""
    images = shipped()
    half = len(images.labels) // 2
    source = CalibrationSource(data=Images(images.pixels[:half], images.labels[:half]).inputs())
    judge = Images(images.pixels[half:], images.labels[half:])
    draw(
        "error_against_cost",
        one_layer(source), f"MACs of {LAYER} after / before", "relative error of its output",
    )  # fmt: skip
    errors, accuracies = whole(source, judge)
    draw("budget_against_error", errors, "MACs after / before", "relative error of the net's outputs")
    draw(
        "budget_against_accuracy", accuracies, "MACs after / before",
        f"top-1 of {len(judge.labels)} images, %", log=False,
    )  # fmt: skip
    return 0


def one_layer(source: CalibrationSource) -> dict[str, Line]:
    """Error of one layer's output against its cost: factors fitted to the weights, and to what it sees."""
    model = example("vgg")
    layers = [one for one in model.convolutions() if isinstance(one, ConvLayer)]
    (layer,) = [one for one in layers if one.name == LAYER]
    seen = Calibration.prepare(model, source).statistics([layer]).layers[LAYER]
    seen = replace(seen, gradient=None)  # the layer's own output counts here, not the network's
    workload, found = Workload.of(layers), {}
    for name in ("spatial", "channel", "input"):
        kind = SCHEMES[name]
        variant = kind.variants(layer.geometry)[0]
        ranks = range(8, kind.full_rank(layer.geometry, variant)[0] + 1, 8)
        for how, statistics in (("weights alone", None), ("what the layer sees", seen)):
            factorization = LayerFit(layer, statistics).factorize(name, variant)
            line = []
            for rank in ranks:
                chain = kind.chain(layer.geometry, variant, (rank,))
                cost = workload.macs(layer, chain) / workload.layer_macs(layer)
                if cost <= 1:
                    line.append((cost, energy_error(layer, factorization.factors((rank,)), seen) ** 0.5))
            found[f"{name}, {how}"] = line
    return found


def whole(source: CalibrationSource, judge: Images) -> tuple[dict[str, Line], dict[str, Line]]:
    """Error and accuracy of the whole net against the budget, by what is known when it is planned."""
    model = example("vgg")
    inputs = {"data": judge.inputs()}
    errors: dict[str, Line] = {}
    accuracies: dict[str, Line] = {"the original": [(1.0, top1(runner_for(model), judge))]}
    ways = {
        "weights alone": {"no_data": True}, "synthetic images": {},
        "250 images, no labels": {"data": source.data},
    }  # fmt: skip
    made = [(name, twofold.decompose(model, macs=r, **how)) for name, how in ways.items() for r in RATIOS]
    made.append(("AMCT's rule", twofold.decompose(model, rule="amct")))
    for name, result in made:
        ratio, net = result.plan.totals.macs_ratio, runner_for(result.model)
        measure = OutputErrorMetric()
        measure.add("", runner_for(model).run(inputs), net.run(inputs))
        errors.setdefault(name, []).append((ratio, measure.error("")))
        accuracies.setdefault(name, []).append((ratio, top1(net, judge)))
    return errors, accuracies


def draw(name: str, lines: dict[str, Line], across: str, up: str, *, log: bool = True) -> None:
    """Write one figure; colours are readable on light and dark pages."""
    figure, axes = plt.subplots()
    for label, line in lines.items():
        style = "--" if "weights alone" in label and "," in label else "-"
        axes.plot(*zip(*sorted(line), strict=True), style, marker="o", markersize=4, label=label)
    axes.set(xlabel=across, ylabel=up)
    if log:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=10)
    figure.tight_layout()
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None}, facecolor="white")
    plt.close(figure)


if __name__ == "__main__":
    raise SystemExit(main())
