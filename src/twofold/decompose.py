"""From a model to a smaller one: factor, plan, replace, and check what is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np

from .conv import ConvLayer, FactorConv, Factors, Skipped
from .errors import ModelError, OptionError, OutputError, PlanError, TwofoldError
from .formats.base import Model
from .lowrank import Factorization, energy_error, scheme
from .planning import Budget, FixedRanks, Plan, PlanOptions, make_plan, requests
from .progress import track

M = TypeVar("M", bound=Model)

#: Name of the plan beside a result.
PLAN_FILE = "plan.json"

#: Absolute difference between the predicted and the written energy error that rounding explains: the factors
#: are rounded to the file's precision (half precision keeps 11 bits), the prediction is float64.
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Result(Generic[M]):
    """What came out: the smaller model, and the plan that tells how.

    Attributes:
        model: the model with its layers replaced, not written yet.
        plan: what was decided.
        original: the model as it was.
        factors: the stack of every layer that was replaced.
    """

    model: M
    plan: Plan
    original: M
    factors: Mapping[str, Factors]

    def save(
        self, folder: str | Path, *, force: bool = False, keep: str | Path | None = None
    ) -> tuple[Path, ...]:
        """Write the model under its own file names, and `plan.json`, into a folder.

        What was written is read again and compared with the plan before any file takes its final name; all
        files appear together or not at all.

        Args:
            folder: made if it is missing.
            force: exchange files that exist with another content.
            keep: the plan file that was applied; where it is the folder's own `plan.json`, it stays as it is.

        Returns:
            The files.

        Raises:
            OutputError: files exist and `force` is false, the system refuses, or a check fails.
        """
        folder = Path(folder)
        plan = folder / PLAN_FILE
        kept = keep is not None and plan.exists() and plan.samefile(keep)
        extra = {} if kept else {plan: self.plan.to_json().encode()}
        return self.model.save_to(folder, force=force, extra=extra, check=self.check)

    def check(self, written: Model) -> None:
        """Compare a model that was read again with the plan.

        Raises:
            OutputError: a layer is missing, has other ranks, or another error than the plan says.
        """
        layers = {layer.name: layer for layer in written.convolutions() if isinstance(layer, ConvLayer)}
        before = {layer.name: layer for layer in self.original.convolutions() if isinstance(layer, ConvLayer)}
        for choice in track(self.plan.choices, "checking what was written"):
            names = self.model.replaced[choice.layer]
            missing = [name for name in names if name not in layers]
            if missing:
                raise OutputError(f"{choice.layer}: what was written lacks the layer {missing[0]!r}")
            convs = tuple(_conv(layers[name]) for name in names)
            chain = tuple(conv.geometry for conv in convs)
            wanted = scheme(choice.scheme).chain(choice.geometry, choice.variant, choice.ranks)
            if chain != wanted:
                raise OutputError(
                    f"{choice.layer}: what was written has the shapes {chain}, planned {wanted}"
                )
            stack, planned = Factors(choice.scheme, choice.ranks, convs), self.factors[choice.layer]
            if all(map(_same_weight, convs, planned.convs)):
                continue
            found = energy_error(before[choice.layer], stack)
            expected = energy_error(before[choice.layer], planned)
            if abs(found - expected) > ROUNDING * max(1.0, expected):
                raise OutputError(
                    f"{choice.layer}: what was written loses {found:.3e} of the weight's energy, "
                    f"planned {expected:.3e}"
                )


def _same_weight(one: FactorConv, other: FactorConv) -> bool:
    return np.array_equal(one.weight, other.weight)


def _conv(layer: ConvLayer) -> FactorConv:
    if layer.weight is None:
        raise OutputError(f"{layer.name}: what was written has no weights")
    return FactorConv(layer.geometry, layer.weight, layer.bias)


def decompose(
    model: M,
    *,
    macs: float | None = None,
    params: float | None = None,
    energy: float | None = None,
    rule: str | None = None,
    multiple: int = 16,
    schemes: str | Sequence[str] = ("spatial",),
    only: str | Sequence[str] = (),
    skip: str | Sequence[str] = (),
    ranks: Mapping[str, int | tuple[int, ...] | Literal["full"]] | None = None,
) -> Result[M]:
    """Replace large convolutions by stacks of smaller ones.

    Without a budget, the MACs that the reference's rule would spend are spent, and never more, but spread
    over the layers so that the error is smallest.

    Args:
        model: what `load` gives.
        macs: MACs after / before, over all convolutions of the network; at most one budget may be given.
        params: weights after / before, over all convolutions.
        energy: share of every layer's energy to keep.
        rule: a rule that chooses every rank by itself, as "amct", the reference's own.
        multiple: ranks are multiples of this, and at least this.
        schemes: names of the schemes that compete.
        only: names or patterns of the layers that may be decomposed; empty means all.
        skip: names or patterns of layers to leave alone.
        ranks: layer name or pattern -> its rank (ranks for a scheme with several), or "full".

    Returns:
        The smaller model and the plan. Nothing is written before `Result.save`.

    Raises:
        PlanError: a budget out of reach, or names that match no layer.
        OptionError: options out of range or in contradiction.
        ModelError: weights are missing or not finite, or do not fit the definition.
    """
    options = PlanOptions(
        budget=_budget(macs=macs, params=params, energy=energy),
        rule=rule,
        multiple=multiple,
        schemes=_words(schemes),
        only=_words(only),
        skip=_words(skip),
        ranks=_fixed(ranks or {}),
    )
    return run(model, options)


def _words(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _fixed(ranks: Mapping[str, int | tuple[int, ...] | Literal["full"]]) -> tuple[FixedRanks, ...]:
    fixed = []
    for pattern, given in ranks.items():
        if given == "full":
            fixed.append(FixedRanks(pattern, None))
            continue
        sizes = tuple(given) if isinstance(given, (tuple, list)) else (given,)
        if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise OptionError(f"ranks: {pattern!r} has {given!r}; give a number, a tuple of them, or 'full'")
        fixed.append(FixedRanks(pattern, sizes))
    return tuple(fixed)


def _budget(**given: float | None) -> Budget | None:
    named = [(kind, value) for kind, value in given.items() if value is not None]
    if len(named) > 1:
        raise PlanError(
            f"one budget can be kept, found {' and '.join(kind for kind, _ in named)}; choose one"
        )
    return Budget(*named[0]) if named else None


def run(model: M, options: PlanOptions) -> Result[M]:
    """Decompose a model as `options` say; see `decompose`."""
    layers = model.convolutions()
    if not layers:
        raise ModelError("the net has no convolutions, so there is nothing to decompose")
    wanted = requests(layers, options)
    factorizations: dict[str, list[Factorization]] = {}
    for layer in track([layer for layer in layers if layer.name in wanted], "factoring layers"):
        assert isinstance(layer, ConvLayer)
        factorizations[layer.name] = []
        for request in wanted[layer.name]:
            kind = scheme(request.scheme)
            found = kind.factorize(layer, request.variant, max_ranks=request.max_ranks)
            factorizations[layer.name].append(found)
    plan = make_plan(layers, factorizations, options, sources=model.sources())
    factors = {}
    for choice in track(plan.choices, "computing factors"):
        chosen = next(
            one
            for one in factorizations[choice.layer]
            if (one.scheme, one.variant) == (choice.scheme, choice.variant)
        )
        factors[choice.layer] = chosen.factors(choice.ranks)
    return Result(model.replace(factors), plan, model, factors)


def apply_plan(plan: Plan, model: M) -> Result[M]:
    """Carry out a plan: on the model that it was made for, or on its training twin.

    Args:
        plan: from `decompose`, or read by `Plan.load`, perhaps edited.
        model: a model with the same convolutions.

    Raises:
        PlanError: the plan does not fit the model; all layers that do not, each with its remedy.
    """
    layers = model.convolutions()
    plan = plan.check(layers)
    by_name = {layer.name: layer for layer in layers if isinstance(layer, ConvLayer)}
    asked = _asked_ranks(layers, plan)
    factors = {}
    for choice in track(plan.choices, "factoring layers"):
        ranks = asked.get((choice.layer, choice.scheme, choice.variant), choice.ranks)
        factorization = scheme(choice.scheme).factorize(
            by_name[choice.layer], choice.variant, max_ranks=tuple(map(max, ranks, choice.ranks))
        )
        factors[choice.layer] = factorization.factors(choice.ranks)
    return Result(model.replace(factors), plan, model, factors)


def _asked_ranks(
    layers: Sequence[ConvLayer | Skipped], plan: Plan
) -> dict[tuple[str, str, str], tuple[int, ...]]:
    """The largest ranks that the plan's making asked for, by layer, scheme and variant.

    The factors of a large layer depend on them in the last digits, and a plan should give its bytes again.
    """
    try:
        wanted = requests(layers, plan.options)
    except TwofoldError:  # the model lacks a layer that the options name
        return {}
    return {(name, one.scheme, one.variant): one.max_ranks for name, of in wanted.items() for one in of}
