"""Plans by time: solved with the times of single layers, and held against the network as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..conv import ConvLayer, Skipped
from ..errors import PlanError
from ..formats.base import Model
from ..latency.cost import LatencyCost
from ..latency.layers import layer_costs, verified
from ..latency.nets import batch_of
from ..latency.stopwatch import Pair, Stopwatch
from ..planning import Plan, PlanOptions, Request
from ..planning.feasible import check_feasible
from ..planning.options import left_alone
from ..planning.timing import NetworkTiming, Timing
from ..planning.workload import Workload
from .search import PlanTrial

#: Plans that are tried and timed.
_ATTEMPTS = 5
#: Attempts that ask layers for more than they can gain.
_RETREATS = 4
#: Differences of ratios below this are noise, however small the spread of one run is.
_LEAST_NOISE = 0.01
#: Layers whose times differ from what was predicted by more than this fraction of the network's are chosen
#: anew.
_MOST_OFF = 0.05
#: A network keeps a limit of time where it has this fraction of the speed that was asked for: less falls
#: short, however widely the measurements spread.
_KEPT = 0.95
#: What is handed back shows what was predicted where its ratio differs by no more than this fraction.
_NEAR = 0.05
#: A factor follows what was measured at most so far in one step.
_STEP = (0.25, 4.0)
#: Networks gain a power of what their layers gain: of noise no other is believed.
_POWER = (0.3, 3.0)
#: Of layers that gain nothing, what they are taken to.
_LEAST_GAIN = 1e-3

Layers = Sequence[ConvLayer | Skipped]


@dataclass(frozen=True, eq=False)
class TimedPlan:
    """A plan, and how long its network takes.

    Attributes:
        attempt: the plan, with its times.
        prices: what it was made by, with the times of what it chose.
        predicted: time after / before, as predicted.
        pair: both networks as measured; None where they cannot be run.
        off: sum of the differences between what the stacks take by themselves and what was predicted of them,
            as a fraction of the network's time.
    """

    attempt: PlanTrial
    prices: LatencyCost
    predicted: float
    pair: Pair | None
    off: float = 0.0

    @property
    def ratio(self) -> float:
        """Time after / before, as measured where it was."""
        return self.predicted if self.pair is None else self.pair.ratio.median

    @property
    def noise(self) -> float:
        """By how much ratios may differ for nothing."""
        if self.pair is None:
            return 0.0
        return max((self.pair.ratio.high - self.pair.ratio.low) / 2, _LEAST_NOISE)

    @property
    def prediction_error(self) -> float:
        """By how much the network's ratio differs from what was predicted."""
        return abs(self.ratio - self.predicted)

    def keeps(self, limit: float) -> bool:
        """Whether the network takes no more than a limit, within the noise but at most within `_KEPT`."""
        return self.ratio <= min(limit + self.noise, limit / _KEPT)

    def uses_up(self, limit: float) -> bool:
        """Whether it keeps a limit and leaves little of it."""
        return self.keeps(limit) and self.ratio >= limit * _KEPT

    def settled(self, limit: float | None) -> bool:
        """Whether another plan would be made by the same numbers, or would be no better."""
        if self.pair is None:
            return True
        if self.off > _MOST_OFF:
            return False
        # Without a limit the fraction of the gains that the network shows changes no choice.
        return limit is None or self.prediction_error <= self.noise or self.uses_up(limit)

    @property
    def layers_gain(self) -> float:
        """What its layers gain by themselves, as a fraction of the network's time.

        Of many candidates those are chosen whose times came out too short. Measured again they gain less, but
        the next choice is as lucky: so the mean of both is taken, by ratio.
        """
        again = (1 - self.prices.ratio(self.attempt.plan.choices)) / self.prices.factor
        chosen = (1 - self.predicted) / self.prices.factor
        return math.sqrt(max(again, _LEAST_GAIN) * max(again, chosen, _LEAST_GAIN))

    def corrected(self) -> LatencyCost:
        """The cost corrected by the fraction of the layers' gains that the network shows."""
        gained = 1 - self.prices.ratio(self.attempt.plan.choices)
        low, high = _STEP
        step = min(max((1 - self.ratio) / gained, low), high) if gained > 0 else 1.0
        return self.prices.corrected(self.prices.factor * step)


def priced(
    model: Model, layers: Layers, wanted: Mapping[str, Sequence[Request]], timer: Stopwatch,
    options: PlanOptions,
) -> LatencyCost:  # fmt: skip
    """Times of single layers and of what may replace them, which shapes alone decide.

    Times that were measured in another run, on a busier machine perhaps, rule out no budget: they are
    measured again before.

    Args:
        model: the original.
        layers: all its convolutions.
        wanted: by name of the layer, the schemes and variants that compete.
        timer: tells times.
        options: of the plan to come.

    Raises:
        PlanError: times are not known, or the budget is out of reach.
        InputError: the sizes of the model's inputs are not known.
        ModelError: the runtime cannot run the model.
    """
    chosen = list(_chosen(layers, wanted).values())
    given = (model, chosen, wanted, timer, batch_of(model), Workload.of(layers))
    prices = layer_costs(*given)
    try:
        check_feasible(layers, options, prices)
    except PlanError:
        prices = layer_costs(*given, anew=True)
        check_feasible(layers, options, prices)
    return prices


def plan_by_time(
    model: Model, layers: Layers, wanted: Mapping[str, Sequence[Request]], timer: Stopwatch,
    prices: LatencyCost, limit: float | None, plan: Callable[[LatencyCost], PlanTrial],
) -> PlanTrial:  # fmt: skip
    """The plan whose network keeps a limit of time at the smallest error.

    Single layers tell the times that a plan is made by. The network that comes out is run beside the
    original; where it gains another fraction than predicted, the prices are corrected and the plan is made
    anew. A network that is no faster than the original is not handed back.

    Args:
        model: the original.
        layers: all its convolutions.
        wanted: by name of the layer, the schemes and variants that compete.
        timer: tells times.
        prices: see `priced`.
        limit: time after / before to reach; None where another budget decides.
        plan: makes a plan by prices.

    Raises:
        PlanError: the limit is out of reach, or times are not known.
        ModelError: the runtime cannot run what is made.
    """
    batch, chosen = batch_of(model), _chosen(layers, wanted)
    tried: list[TimedPlan] = []
    retreats = 0
    while len(tried) < _ATTEMPTS:
        try:
            attempt = plan(prices)
        except PlanError:  # no layers gain so much: halfway there
            if not tried:
                raise
            if retreats == _RETREATS:
                break
            retreats += 1
            prices = prices.corrected((prices.factor + tried[-1].prices.factor) / 2)
            continue
        if not attempt.plan.choices:
            return attempt
        tried.append(_timed(model, chosen, timer, batch, prices, attempt))
        if tried[-1].settled(limit):
            break
        prices = _next(tried, limit)
    best = _best(tried, limit)
    if best.prediction_error > max(best.noise, _NEAR * best.ratio):
        # The fraction of the gains that it shows is known now: with it the plan predicts, and is held to it.
        best = _timed(model, chosen, timer, batch, best.corrected(), best.attempt)
    return _handed_back(best, layers, limit, timer)


def _chosen(layers: Layers, wanted: Mapping[str, Sequence[Request]]) -> dict[str, ConvLayer]:
    """The layers that may be replaced, by name."""
    return {layer.name: layer for layer in layers if isinstance(layer, ConvLayer) and layer.name in wanted}


def _timed(
    model: Model,
    layers: Mapping[str, ConvLayer],
    timer: Stopwatch,
    batch: int,
    prices: LatencyCost,
    attempt: PlanTrial,
) -> TimedPlan:
    """Run the network of a plan beside the original, and what it chose beside the layers."""
    plan = attempt.plan
    seconds = {c.layer: prices.layer_seconds(c.layer, c.scheme, c.variant, c.ranks) for c in plan.choices}
    pair = timer.pair(model, model.replace(attempt.factors))
    timings = {name: Timing((prices.own[name], stack)) for name, stack in seconds.items()}
    # A fraction of the gains that was learned from noise may be larger than what there is to gain.
    factor, predicted, off = prices.factor, max(prices.ratio(plan.choices), 0.0), 0.0
    network = Timing((prices.whole, predicted * prices.whole))
    if pair is not None:
        prices, timings = verified(prices, layers, plan.choices, timer, batch)
        off = sum(abs(one.measured[1] - one.predicted[1]) for one in timings.values() if one.measured)
        off *= factor / prices.whole
        spread = (pair.ratio.high - pair.ratio.low) / 2
        first, ratio = pair.first.median, pair.ratio.median
        network = replace(network, measured=(first, ratio * first), spread=spread)
    told = replace(
        plan,
        choices=tuple(replace(choice, timing=timings[choice.layer]) for choice in plan.choices),
        timing=NetworkTiming(str(timer.setting), batch, network, factor),
    )
    return TimedPlan(replace(attempt, plan=told), prices, predicted, pair, off)


def _next(tried: Sequence[TimedPlan], limit: float | None) -> LatencyCost:
    """Prices for another attempt, by what the tried ones showed.

    Which fraction of its layers' gains a network shows may depend on how much they gain: then the fraction of
    the last attempt alone leads from one side of the limit to the other, and back. So networks are taken to
    gain a power of what their layers do, which the attempt nearest to the limit tells with one beyond the
    limit, or with the next where there is none. What differs by noise alone tells nothing.
    """
    last = tried[-1]
    if limit is None or limit >= 1 or last.ratio >= 1:
        return last.corrected()
    wanted = 1 - limit
    nearest, *others = sorted((one for one in tried if one.ratio < 1), key=lambda one: abs(one.ratio - limit))
    differing = [
        one
        for one in others
        if abs(one.ratio - nearest.ratio) > max(one.noise, nearest.noise)
        and one.layers_gain != nearest.layers_gain
    ]
    beyond = [one for one in differing if (one.ratio < limit) != (nearest.ratio < limit)]
    other = next(iter((*beyond, *differing)), None)
    return last.prices.corrected(wanted / _gain_wanted(wanted, nearest, other))


def _gain_wanted(wanted: float, nearest: TimedPlan, other: TimedPlan | None) -> float:
    """What layers should gain, so that their network does, by what one or two attempts show.

    Args:
        wanted: of the network, as a fraction of its time.
        nearest: the attempt that is nearest to it.
        other: one that differs in both gains; None where there is none.
    """
    low, high = _STEP
    step = min(max(wanted / (1 - nearest.ratio), low), high)
    if other is None:
        return nearest.layers_gain * step
    power = math.log((1 - other.ratio) / (1 - nearest.ratio)) / math.log(
        other.layers_gain / nearest.layers_gain
    )
    if power <= 0:  # layers gained more where the network gained less: the mean of what both say
        return math.sqrt(_gain_wanted(wanted, nearest, None) * _gain_wanted(wanted, other, None))
    return float(nearest.layers_gain * step ** (1 / min(max(power, _POWER[0]), _POWER[1])))


def _best(tried: Sequence[TimedPlan], limit: float | None) -> TimedPlan:
    """Of the plans that keep the limit the one that goes least beyond it; without such, the fastest."""
    keeping = [one for one in tried if limit is not None and one.keeps(limit)]
    return max(keeping, key=lambda one: one.ratio) if keeping else min(tried, key=lambda one: one.ratio)


def _handed_back(best: TimedPlan, layers: Layers, limit: float | None, timer: Stopwatch) -> PlanTrial:
    attempt, where = best.attempt, timer.setting.runtime
    if best.pair is not None and best.ratio >= 1:
        why = f"decomposed, the network is not faster in {where}: {best.attempt.plan.timing}"
        return replace(attempt, plan=_unchanged(attempt.plan, layers, why), factors={})
    if limit is not None and not best.keeps(limit):
        note = (
            f"the time asked for, a ratio of {limit:.3f}, was not reached: the fastest network that was "
            f"found has {best.ratio:.3f} in {where}; it is {1 / best.ratio:.2f} times faster, which is "
            f"{1 - limit / best.ratio:.0%} short of {1 / limit:.2f}"
        )
        return replace(attempt, plan=replace(attempt.plan, notes=(*attempt.plan.notes, note)))
    return attempt


def _unchanged(plan: Plan, layers: Layers, why: str) -> Plan:
    """A plan that leaves all layers as they are."""
    reasons = {skipped.name: skipped.reason for skipped in plan.skipped}
    skipped = tuple(
        layer
        if isinstance(layer, Skipped)
        else left_alone(layer, reasons.get(layer.name, "the net is faster as it is"))
        for layer in layers
    )
    return replace(plan, choices=(), skipped=skipped, timing=None, notes=(*plan.notes, why))
