"""Correction in sequence: factors refitted to inputs that the decomposed layers before have changed."""

from __future__ import annotations

import math
from collections.abc import Collection

from ..conv import ConvLayer, Factors, FactorStatistics
from ..progress import track
from .gather import FEWEST_POSITIONS, CalibrationOptions, mode
from .inputs import Inputs
from .runner import LayerInputs, Runner, Stacks
from .statistics import FactorAccumulator, StatisticsOptions

#: Positions that are looked at per value that the last convolution of a stack sees.
_PER_VALUE = 16


def correctable(layer: ConvLayer, parts: int) -> bool:
    """Whether a stack of so many convolutions can be corrected."""
    return layer.geometry.groups == 1 and parts >= 2


def samples_needed(stacks: Stacks, options: CalibrationOptions) -> int:
    """How many samples have enough positions for every stack that can be corrected."""
    needed = 0
    for layer, stack in stacks:
        if correctable(layer, len(stack.convs)):
            outputs = [math.prod(layer.geometry.output_size(size)) for size in layer.input_sizes] or [1]
            each = sum(min(count, options.positions or count) for count in outputs)
            needed = max(needed, math.ceil(_PER_VALUE * stack.convs[-1].weight[0].size / each))
    return needed


def _options(stack: Factors, inputs: Inputs, options: CalibrationOptions) -> StatisticsOptions:
    """How a stack is looked at: as many positions as what its last convolution sees needs."""
    seen = stack.convs[-1].weight[0].size
    positions = options.positions
    if positions is None:
        positions = max(FEWEST_POSITIONS, math.ceil(_PER_VALUE * seen / inputs.count))
    return StatisticsOptions(0, positions, options.seed)


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
        layer.name: FactorAccumulator(layer, stack, _options(stack, inputs, options))
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
