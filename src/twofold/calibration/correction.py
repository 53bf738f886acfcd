"""Correction in sequence: factors refitted to inputs that the decomposed layers before have changed."""

from __future__ import annotations

from collections.abc import Collection

from ..conv import ConvLayer, FactorStatistics
from ..progress import track
from .gather import CalibrationOptions, layer_options, mode
from .inputs import Inputs
from .runner import LayerInputs, Runner, Stacks
from .statistics import FactorAccumulator


def correctable(layer: ConvLayer, parts: int) -> bool:
    """Whether a stack of so many convolutions can be corrected."""
    return layer.geometry.groups == 1 and parts >= 2


def gather_remainders(
    runner: Runner, stacks: Stacks, inputs: Inputs, options: CalibrationOptions,
    names: Collection[str] | None = None,
) -> dict[str, FactorStatistics]:  # fmt: skip
    """Look at what stacks leave of their layers, in the network in which all of them stand.

    Args:
        runner: runs the model.
        stacks: all layers that are replaced; those that can be corrected are looked at.
        inputs: samples.
        options: how the network is looked at.
        names: layers that are looked at; None for all.
    """
    named = [(layer, stack) for layer, stack in stacks if names is None or layer.name in names]
    chosen = [(layer, stack) for layer, stack in named if correctable(layer, len(stack.convs))]
    if not chosen:
        return {}
    layers = [layer for layer, _ in chosen]
    accumulators = {
        layer.name: FactorAccumulator(layer, stack, layer_options(layer, inputs, options, frozenset()))
        for layer, stack in chosen
    }
    with mode(runner, options):
        for batch in track(inputs, "looking at what has changed"):
            original: dict[str, list[LayerInputs]] = {}
            for seen in runner.record_inputs(layers, batch):
                original.setdefault(seen.layer, []).append(seen)
            for seen in runner.record_inputs(layers, batch, stacks=stacks):
                accumulators[seen.layer].update(seen.inputs, original[seen.layer].pop(0).inputs)
    return {name: accumulator.result() for name, accumulator in accumulators.items()}
