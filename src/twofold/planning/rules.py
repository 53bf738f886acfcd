"""Rules that choose layer by layer; without one, the budget chooses over all layers at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.linalg.blas
from numpy.typing import NDArray

from twofold.conv import ConvLayer
from twofold.errors import OptionError, PlanError
from twofold.lowrank.protocols import RankErrors
from twofold.lowrank.spectra import one_thread
from twofold.planning.amct import AmctRange, amct_mode, amct_rank, amct_rejection
from twofold.planning.candidates import Candidate, candidate_at, candidates
from twofold.planning.evbmf import evbmf_rank
from twofold.planning.options import PlanOptions
from twofold.planning.workload import Workload
from twofold.registry import Registry

Vector = NDArray[np.float64]

_BLOCK = 1 << 23
"""Numbers of a weight that are converted at a time: 64 MB in float64."""


@dataclass(frozen=True, eq=False)
class RuleInput:
    """All that a rule may look at.

    Attributes:
        layer: the layer to choose for.
        factorizations: its factorizations, one per scheme and variant.
        options: of the plan.
        workload: how MACs are counted.
    """

    layer: ConvLayer
    factorizations: Sequence[RankErrors]
    options: PlanOptions
    workload: Workload

    def factorization(self, scheme: str, variant: str) -> RankErrors:
        """Return one of the factorizations.

        Raises:
            PlanError: it is not there.
        """
        for found in self.factorizations:
            if (found.scheme, found.variant) == (scheme, variant):
                return found
        raise PlanError(
            f"Bug: {self.layer.name} was not factorized as {scheme} {variant}, which the rule needs"
        )


@dataclass(frozen=True)
class Rule:
    """A way to choose ranks layer by layer.

    Attributes:
        name: key in the registry.
        summary: one line for users.
        pick: gives the layer's candidate, or the reason to leave it alone.
        may_cost_more: whether a candidate may cost more than the layer.
    """

    name: str
    summary: str
    pick: Callable[[RuleInput], Candidate | str]
    may_cost_more: bool = False


def amct_layer_rank(layer: ConvLayer, factorizations: Sequence[RankErrors] = ()) -> int:
    """Rank that AMCT gives a layer that `amct_rejection` lets pass.

    The weight is looked at only where it matters, and where no factorization tells its singular values.
    """
    only = AmctRange.of(layer.geometry).only_rank
    return only if only is not None else amct_rank(layer.geometry, _spectrum(layer, factorizations))


def amct_spectrum(layer: ConvLayer) -> Vector:
    """Singular values of a layer's weight, unfolded along `amct_mode`; all of them, largest first.

    They come from the Gram matrix of the shorter side, in float64: values below 1e-8 of the largest are
    rounding.
    """
    if layer.weight is None:
        raise PlanError(f"{layer.name}: its weights are not loaded; the rule needs them")
    geometry = layer.geometry
    # The shorter side in front: (channels, kernel axis) of the smaller of each, then those of the larger.
    channel = 1 if geometry.c_in <= geometry.c_out else 0
    axis = 2 if geometry.kernel[0] <= geometry.kernel[1] else 3
    moved = layer.weight.transpose(channel, axis, 1 - channel, 5 - axis)
    side = moved.shape[0] * moved.shape[1]
    gram = np.zeros((side, side), order="F")
    # In blocks, so that a large weight is never copied to float64 as a whole.
    step = max(1, _BLOCK // (side * moved.shape[3]))
    for start in range(0, moved.shape[2], step):
        block = moved[:, :, start : start + step].reshape(side, -1).astype(np.float64)
        # gram += block @ block.T, its lower half only and without a temporary of its size
        gram = scipy.linalg.blas.dsyrk(1.0, block.T, beta=1.0, c=gram, trans=1, lower=1, overwrite_c=1)
    if not np.isfinite(gram.trace()):
        raise PlanError(f"{layer.name}: its weights are not all finite")
    # Beside other programs, threads wait for one another thirty times as long as they work.
    with one_thread():
        values = scipy.linalg.eigvalsh(gram, lower=True, overwrite_a=True, check_finite=False)
    return np.sqrt(np.maximum(values, 0.0))[::-1].astype(np.float64)


def _spectrum(layer: ConvLayer, factorizations: Sequence[RankErrors]) -> Vector:
    key = ("spatial", amct_mode(layer.geometry).variant)
    for found in factorizations:
        known = found.singular_values if (found.scheme, found.variant) == key else None
        if known is not None:
            return known.astype(np.float64)
    return amct_spectrum(layer)


def _amct(given: RuleInput) -> Candidate | str:
    layer = given.layer
    rejection = amct_rejection(layer.geometry)
    if rejection is not None:
        return rejection
    factorization = given.factorization("spatial", amct_mode(layer.geometry).variant)
    return candidate_at(layer, factorization, (amct_layer_rank(layer, given.factorizations),), given.workload)


def _evbmf(given: RuleInput) -> Candidate | str:
    """Return EVBMF's own rank along AMCT's axes: no clamp, rounded up, only where cheaper."""
    layer, multiple = given.layer, given.options.multiple
    if layer.geometry.layer_type != "convolution":
        return f"EVBMF takes convolutions only, not a layer that is {layer.geometry.layer_type}"
    if len(layer.geometry.kernel) != 2 or min(layer.geometry.kernel) < 2:
        return "EVBMF works along the two axes of a kernel; both must be larger than 1"
    sides = AmctRange.of(layer.geometry)
    rank = evbmf_rank(_spectrum(layer, given.factorizations), (sides.short, sides.long))
    rounded = max(multiple, -(-rank // multiple) * multiple)
    factorization = given.factorization("spatial", amct_mode(layer.geometry).variant)
    for candidate in candidates(layer, [factorization], given.workload, multiple):
        if candidate.ranks == (rounded,):
            return candidate
    return f"EVBMF finds {rank} of {sides.short} singular values above noise; rank {rounded} is not cheaper"


def _energy(given: RuleInput) -> Candidate | str:
    """Return the cheapest candidate that keeps the fraction; between equals the one that keeps more."""
    budget = given.options.budget
    if budget is None or budget.metric != "energy":
        raise OptionError("rule energy: needs the fraction to keep, such as energy 0.99")
    offered = candidates(given.layer, given.factorizations, given.workload, given.options.multiple)
    if not offered:
        return no_candidate_reason(given.options)
    # A fraction that is met up to the rounding of a sum of squares is met.
    enough = [c for c in offered if c.energy_error <= 1 - budget.value + 1e-12]
    if not enough:
        best = 1 - min(c.energy_error for c in offered)
        return f"no cheaper ranks keep a fraction of {budget.value:g} of the energy (at most {best:.4f})"
    return min(enough, key=lambda c: (c.macs, c.params, c.energy_error))


def no_candidate_reason(options: PlanOptions) -> str:
    """Why a layer without candidates stays."""
    if options.multiple == 1:
        return "no rank makes it cheaper"
    return f"no rank that is a multiple of {options.multiple} makes it cheaper"


RULES: Registry[str, Rule] = Registry("rule", normalize=lambda name: name.strip().lower())
"""Every rule by name; command line choices and tests read this table."""


def register(rule: Rule) -> None:
    """Add a rule.

    Raises:
        OptionError: a rule of that name is registered already.
    """
    RULES.add(rule, rule.name)


register(
    Rule(
        "amct",
        "AMCT's own ranks, layer by layer; can make a layer more expensive",
        _amct,
        may_cost_more=True,
    )
)
register(Rule("evbmf", "as many ranks as stand above noise (EVBMF), where that is cheaper", _evbmf))
register(Rule("energy", "the cheapest ranks that keep a fraction of each layer's energy", _energy))
