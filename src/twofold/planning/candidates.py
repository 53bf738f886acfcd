"""What could replace a layer: every rank of every scheme that is cheaper than the layer itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from twofold.conv import ConvGeometry, ConvLayer, Size
from twofold.errors import PlanError
from twofold.lowrank.protocols import RankErrors, Scheme
from twofold.lowrank.schemes import scheme
from twofold.planning.solve import pareto
from twofold.planning.workload import Workload, chain_params, layer_params
from twofold.text import ranks_text


@dataclass(frozen=True)
class Candidate:
    """One way to replace one layer.

    Attributes:
        layer: the layer's name.
        scheme: registered name of the scheme.
        variant: variant of the scheme; "" where there is only one.
        ranks: channels between the convolutions.
        macs: multiply-accumulates in the unit of the `Workload`.
        params: weights, bias not counted.
        energy_error: predicted lost fraction of the energy of the layer's output (of its weight, without
            data).
    """

    layer: str
    scheme: str
    variant: str
    ranks: Size
    macs: int
    params: int
    energy_error: float

    @property
    def relative_error(self) -> float:
        """Square root of the energy error."""
        return math.sqrt(self.energy_error)

    @property
    def label(self) -> str:
        """Scheme, variant and ranks, as tables print them."""
        return label(self.scheme, self.variant, self.ranks)


def label(scheme_name: str, variant: str, ranks: Size) -> str:
    """Scheme, variant and ranks in words: "spatial hw 160"."""
    return " ".join(part for part in (scheme_name, variant, ranks_text(ranks)) if part)


def candidate_at(layer: ConvLayer, factorization: RankErrors, ranks: Size, workload: Workload) -> Candidate:
    """Price one choice of ranks; it may be more expensive than the layer.

    Raises:
        PlanError: the ranks are not among those of the factorization.
    """
    limits = factorization.max_ranks
    if len(ranks) != len(limits):
        raise PlanError(
            f"{layer.name}: scheme '{factorization.scheme}' takes {len(limits)} rank(s), "
            f"not {ranks_text(ranks)}"
        )
    if any(not 1 <= rank <= limit for rank, limit in zip(ranks, limits, strict=True)):
        raise PlanError(
            f"{layer.name}: rank {ranks_text(ranks)} is outside 1 to {ranks_text(limits)} "
            f"of {factorization.scheme}"
        )
    chain = scheme(factorization.scheme).chain(layer.geometry, factorization.variant, ranks)
    return Candidate(
        layer.name, factorization.scheme, factorization.variant, ranks, workload.macs(layer, chain),
        chain_params(chain), _checked_error(layer, factorization, factorization.energy_error(ranks)),
    )  # fmt: skip


def candidates_at(
    layer: ConvLayer, factorization: RankErrors, ranks: NDArray[np.int64], workload: Workload
) -> tuple[Candidate, ...]:
    """Price many choices of the one rank of a scheme at once; they may be more expensive than the layer.

    Args:
        layer: the layer.
        factorization: of a scheme with one rank.
        ranks: (n,), each within its largest rank.
        workload: how MACs are counted.
    """
    chain = _chain(scheme(factorization.scheme), layer.geometry, factorization.variant)
    macs, params = workload.grid(layer, chain, [ranks])
    energy = np.asarray(factorization.energy_errors(), np.float64)[ranks]
    return tuple(
        Candidate(
            layer.name, factorization.scheme, factorization.variant, (rank,), each_macs, each_params,
            _checked_error(layer, factorization, error),
        )
        for rank, each_macs, each_params, error in zip(
            ranks.tolist(), macs.tolist(), params.tolist(), energy.tolist(), strict=True
        )
    )  # fmt: skip


def candidates(
    layer: ConvLayer, factorizations: Sequence[RankErrors], workload: Workload, multiple: int = 16
) -> tuple[Candidate, ...]:
    """List what is cheaper than the layer, for ranks that are multiples of `multiple`.

    Cheaper means: no more MACs, no more params, and fewer of one of them. Of a scheme with several ranks,
    those that another choice of ranks beats in error at no more MACs and params are left out; between schemes
    nothing is left out, because a measured cost can turn their order around.

    Args:
        layer: the layer.
        factorizations: one per scheme and variant.
        workload: how MACs are counted.
        multiple: ranks are multiples of this, and at least this.

    Returns:
        The candidates; empty if none is cheaper.

    Raises:
        PlanError: a factorization reports an error that is not a number between 0 and 1.
    """
    found: list[Candidate] = []
    for factorization in factorizations:
        found += _of_one(layer, factorization, workload, multiple)
    return tuple(found)


def useful_ranks(layer: ConvLayer, scheme_name: str, variant: str, workload: Workload) -> Size:
    """Largest rank along each axis at which a stack can still be cheaper than the layer; 0 where none is."""
    kind = scheme(scheme_name)
    full = kind.full_rank(layer.geometry, variant)
    axes = [np.arange(1, limit + 1) for limit in full]
    chain = _chain(kind, layer.geometry, variant)
    useful = []
    for axis, ranks in enumerate(axes):
        others = [ranks if i == axis else np.ones(1, np.int64) for i in range(len(axes))]
        macs, params = workload.grid(layer, chain, others)
        useful.append(int(_cheaper(layer, macs, params, workload).sum()))
    return tuple(useful)


def has_candidates(layer: ConvLayer, scheme_name: str, workload: Workload, multiple: int) -> bool:
    """Whether a scheme that takes the layer has ranks that make it cheaper; the smallest do, if any do."""
    kind, step = scheme(scheme_name), _step(layer, multiple)
    for variant in kind.variants(layer.geometry):
        full = kind.full_rank(layer.geometry, variant)
        chain = _chain(kind, layer.geometry, variant)
        macs, params = workload.grid(layer, chain, [np.array([step]) for _ in full])
        if step <= min(full) and _cheaper(layer, macs, params, workload).all():
            return True
    return False


@lru_cache(maxsize=4096)
def _chain(kind: Scheme, geometry: ConvGeometry, variant: str) -> Callable[[Size], tuple[ConvGeometry, ...]]:
    """The stack of a scheme at some ranks; one object for one stack, so that its costs are known again."""
    return partial(kind.chain, geometry, variant)


def _step(layer: ConvLayer, multiple: int) -> int:
    # Ranks count the channels of one group; it is those of all that are to be a multiple.
    return multiple // math.gcd(multiple, layer.geometry.groups)


def _of_one(
    layer: ConvLayer, factorization: RankErrors, workload: Workload, multiple: int
) -> list[Candidate]:
    step = _step(layer, multiple)
    axes = [np.arange(step, limit + 1, step) for limit in factorization.max_ranks]
    kind = scheme(factorization.scheme)
    chain = _chain(kind, layer.geometry, factorization.variant)
    macs, params = workload.grid(layer, chain, axes)
    energy = np.asarray(factorization.energy_errors(), np.float64)[np.ix_(*axes)]
    where = np.nonzero(_cheaper(layer, macs, params, workload))
    macs, params, energy = macs[where], params[where], energy[where]
    if len(axes) > 1:
        keep = np.union1d(pareto(macs.astype(np.float64), energy), pareto(params.astype(np.float64), energy))
    else:
        keep = np.arange(len(macs))
    ranks = np.stack([axis[w] for axis, w in zip(axes, where, strict=True)], axis=1)
    return [
        Candidate(
            layer.name, factorization.scheme, factorization.variant, tuple(ranks[i].tolist()),
            int(macs[i]), int(params[i]), _checked_error(layer, factorization, float(energy[i])),
        )
        for i in keep.tolist()
    ]  # fmt: skip


def _cheaper(
    layer: ConvLayer, macs: NDArray[np.int64], params: NDArray[np.int64], workload: Workload
) -> NDArray[np.bool_]:
    own_macs, own_params = workload.layer_macs(layer), layer_params(layer)
    cheaper: NDArray[np.bool_] = (
        (macs <= own_macs) & (params <= own_params) & ((macs < own_macs) | (params < own_params))
    )
    return cheaper


def _checked_error(layer: ConvLayer, factorization: RankErrors, error: float) -> float:
    # Rounding may leave a fraction a few ulps outside of its interval; anything more is no fraction of an
    # energy.
    if not -1e-6 <= error <= 1 + 1e-6:
        raise PlanError(
            f"{layer.name}: scheme '{factorization.scheme}' predicts an energy error of {error:g}, which is "
            f"not between 0 and 1; look for NaN, infinite or all-zero weights and inputs"
        )
    return min(max(error, 0.0), 1.0)
