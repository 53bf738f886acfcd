"""What a decomposition gives: the smaller model, its plan, and the check of what is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from .. import views
from ..conv import ConvLayer, FactorConv, Factors
from ..errors import OutputError
from ..formats.base import Model, output_path
from ..lowrank import energy_error, scheme
from ..planning import Plan
from ..planning.tradeoff import TradeoffCurves
from ..progress import track
from ..renamed import moved
from .calibrate import Calibration

M = TypeVar("M", bound=Model)

#: Name of the plan beside a result.
PLAN_FILE = "plan.json"

#: Absolute difference between the predicted and the written energy error that rounding always explains: the
#: prediction is float64. Factors in half precision differ more, see `_rounding`.
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False, repr=False)
class Result(Generic[M]):
    """What came out: the smaller model, and the plan that tells how.

    Attributes:
        model: the model with its layers replaced, not written yet.
        plan: what was decided.
        original: the model as it was.
        factors: the stack of every layer that was replaced.
        calibration: runs the original on a few inputs, to show them; None for weights only.
        warnings: those of the plan's notes that must not be overlooked.
        curves: computes `tradeoff_curves`; None where a plan was only carried out.
        rank: number of this process; of several that `torchrun` started all have the result, and the first
            one writes it.
    """

    model: M
    plan: Plan
    original: M
    factors: Mapping[str, Factors]
    calibration: Calibration | None = None
    warnings: tuple[str, ...] = ()
    curves: Callable[[], TradeoffCurves | None] | None = None
    rank: int = 0

    def __repr__(self) -> str:
        count = len(self.plan.choices)
        every = count + len(self.plan.skipped)
        return (
            f"<Result: {count} of {every} convolutions of {self.original!r} decomposed, "
            f"{self.plan.totals.macs_ratio:.3f} of the MACs>"
        )

    @cached_property
    def tradeoff_curves(self) -> TradeoffCurves | None:
        """What other ranks and budgets would give; None where a plan was only carried out."""
        return None if self.curves is None else self.curves()

    report = moved("Result.report()", "twofold.report:report", "twofold.report(result)")
    plot = moved("Result.plot()", "twofold.report.plot:plot", "twofold.report.plot.plot(result)")

    def _repr_html_(self) -> str | None:
        """What a notebook shows."""
        return views.html(self)

    def save(
        self,
        folder: str | Path,
        *,
        force: bool = False,
        report: bool | None = None,
        keep: str | Path | None = None,
        extra: Mapping[str, bytes] | None = None,
    ) -> tuple[Path, ...]:
        """Write the model under its own file names, and `plan.json`, into a folder.

        What was written is read again and compared with the plan before any file takes its final name; all
        files appear together or not at all. Of several processes only the first one writes; the others give
        the same paths, at once.

        Args:
            folder: made if it is missing.
            force: exchange files that exist with another content.
            report: former way to write a report, for one release: `twofold.report(result, folder)`.
            extra: more files by name.
            keep: the plan file that was applied; where it is the folder's own `plan.json`, it stays as it is.

        Returns:
            The files.

        Raises:
            OutputError: files exist and `force` is false, the system rejects it, or a check fails.
        """
        folder = output_path(folder, "the folder")
        plan = folder / PLAN_FILE
        kept = keep is not None and plan.exists() and plan.samefile(keep)
        more = {} if kept else {plan: self.plan.to_json().encode()}
        added = {**_former_report(self, report), **(extra or {})}
        more |= {folder / name: content for name, content in added.items()}
        if self.rank:
            return (*self.model.targets(folder), *more)
        return self.model.save_to(folder, force=force, extra=more, check=self.check)

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
            if abs(found - expected) > _rounding(layers[names[0]]) * max(1.0, expected):
                raise OutputError(
                    f"{choice.layer}: what was written loses {found:.3e} of the weight's energy, "
                    f"planned {expected:.3e}, more than rounding explains; save a result before its "
                    "weights are trained, and these as the framework does"
                )


def _former_report(result: Result[M], wanted: bool | None) -> Mapping[str, bytes]:
    """The files of `save(report=True)`, as it was spelt before."""
    if wanted is None:
        return {}
    make = moved("Result.save(report=True)", "twofold.report:files_of", "twofold.report(result, folder)")
    files: Mapping[str, bytes] = make(result) if wanted else {}
    return files


def _same_weight(one: FactorConv, other: FactorConv) -> bool:
    return np.array_equal(one.weight, other.weight)


def _rounding(layer: ConvLayer) -> float:
    """What rounding explains of an energy error: 2^-bits per factor, squared, with room."""
    return max(ROUNDING, 16 * 4.0**-layer.bits)


def _conv(layer: ConvLayer) -> FactorConv:
    if layer.weight is None:
        raise OutputError(f"{layer.name}: what was written has no weights")
    return FactorConv(layer.geometry, layer.weight, layer.bias)
