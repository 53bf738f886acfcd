"""What each layer's candidates do to the network's outputs, measured by swapping them in one at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from twofold.calibration.gather import CalibrationOptions, mode
from twofold.calibration.inputs import Inputs
from twofold.calibration.measure import Measure
from twofold.calibration.runner import Outputs, Runner
from twofold.conv import ConvLayer, Factors
from twofold.lowrank.protocols import Factorization
from twofold.planning.candidates import Candidate, candidate_at, candidates
from twofold.planning.objective import MeasuredSensitivity
from twofold.planning.workload import Workload
from twofold.progress import track

from .abreast import abreast
from .cache import RunCache
from .effects import Effects, Tries
from .recalled import share_stacks

#: Shares of a layer's MACs that the candidates which are tried may cost.
TRIED = (0.12, 0.25, 0.45, 0.75)


def measure_sensitivity(
    runner: Runner,
    layers: Sequence[ConvLayer],
    factorizations: Mapping[str, Sequence[Factorization]],
    inputs: Inputs,
    options: CalibrationOptions,
    *,
    workload: Workload,
    multiple: int,
    new_measure: Callable[[], Measure],
    cache: RunCache | None = None,
) -> MeasuredSensitivity:
    """Try a few candidates of every layer, each alone in the network.

    Args:
        runner: runs the model.
        layers: in the order of `runner.reached`.
        factorizations: by name of the layer, all in one metric, so that one curve holds for every scheme.
        inputs: samples; what the layers before give is computed once for all candidates of a layer.
        options: the mode in which the network runs.
        workload: how MACs are counted.
        multiple: ranks are multiples of this.
        new_measure: makes the measure of the outputs' error.
        cache: results of earlier runs; what was measured is kept there layer by layer.

    Returns:
        A curve per layer.
    """
    cache = cache or RunCache()
    tries = {layer.name: _to_try(layer, factorizations[layer.name], workload, multiple) for layer in layers}
    effects = Effects.of(cache, tries, inputs, new_measure())
    if effects.done < len(layers) * len(inputs):
        share_stacks(cache, [pair for of_layer in tries.values() for pair in of_layer], final=False)
        stacks = _fitted(layers, tries, effects)
        owners = cache.ranks.split(_trial_costs(layers, tries, workload))
        own = {name for name, owner in owners.items() if owner == cache.ranks.rank}
        steps = sum(len(of_layer) for layer, of_layer in stacks if layer.name in own) * len(inputs)
        with mode(runner, options), effects.kept():
            runs = _trials(runner, stacks, inputs, effects, own)
            text = "measuring what each layer does to the outputs"
            for name, index, reference, changed in track(runs, text, steps):
                effects.add(name, index, reference, changed)
        return MeasuredSensitivity(effects.curves(owners))
    return MeasuredSensitivity(effects.curves({}))


def _fitted(
    layers: Sequence[ConvLayer], tries: Mapping[str, Tries], effects: Effects
) -> list[tuple[ConvLayer, list[Factors]]]:
    """The stacks to try."""

    def trials(layer: ConvLayer) -> list[tuple[float, Factors]]:
        return [one.trial(ranks) for one, ranks in tries[layer.name]]

    stacks = []
    for layer, made in zip(layers, abreast(trials, layers, "fitting what is tried", layers), strict=True):
        effects.energies[layer.name] = [float(energy) for energy, _ in made]
        stacks.append((layer, [stack for _, stack in made]))
    return stacks


def _to_try(
    layer: ConvLayer, factorizations: Sequence[Factorization], workload: Workload, multiple: int
) -> Tries:
    """The best stack at each of a few costs, each once; at half the ranks where none is cheaper."""
    own = workload.layer_macs(layer)
    offered = {
        candidate: one
        for one in factorizations
        for candidate in _trials_of(layer, one, workload, multiple)
    }  # fmt: skip
    if not offered:
        (one, *_) = factorizations
        return [(one, (one.trial_ranks() or (tuple(-(-rank // 2) for rank in one.max_ranks),))[0])]
    best: dict[Candidate, None] = {}
    for fraction in TRIED:
        affordable = [candidate for candidate in offered if candidate.macs <= fraction * own]
        # A layer whose cheapest candidate is dear still has one.
        affordable = affordable or sorted(offered, key=lambda candidate: candidate.macs)[:1]
        best[min(affordable, key=lambda candidate: candidate.energy_error)] = None
    return [(offered[candidate], candidate.ranks) for candidate in best]


def _trials_of(
    layer: ConvLayer, factorization: Factorization, workload: Workload, multiple: int
) -> list[Candidate]:
    """All candidates, or those that quick fits were made of."""
    ranks = factorization.trial_ranks()
    if ranks is None:
        return list(candidates(layer, [factorization], workload, multiple))
    found = [candidate_at(layer, factorization, of, workload) for of in ranks]
    return [one for one in found if one.macs < workload.layer_macs(layer)]


def _trial_costs(
    layers: Sequence[ConvLayer], tries: Mapping[str, Tries], workload: Workload
) -> dict[str, float]:
    """MACs of the trials of each layer: what lies behind it is run for every one."""
    costs, behind = dict[str, float](), 0.0
    for layer in reversed(layers):
        behind += workload.layer_macs(layer)
        costs[layer.name] = behind * len(tries[layer.name])
    return costs


def _trials(
    runner: Runner, stacks: Sequence[tuple[ConvLayer, Sequence[Factors]]], inputs: Inputs, effects: Effects,
    own: Collection[str],
) -> Iterator[tuple[str, int, Outputs, Outputs]]:  # fmt: skip
    """Run batch by batch, layer by layer, but for those of these that are done.

    Each process runs its own layers, and they meet behind every batch.
    """
    done = effects.done
    for number, batch in enumerate(inputs):
        left = stacks[max(0, done - number * len(stacks)) :]
        if left:
            mine = [one for one in left if one[0].name in own]
            reference = runner.run(batch) if mine else {}
            for name, index, changed in runner.trials(mine, batch) if mine else ():
                yield name, index, reference, changed
            effects.meet((number + 1) * len(stacks))
