"""Keywords of `decompose`: fields of the grouped options, by their own names or as one value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from ..calibration.accuracy import Accuracy
from ..calibration.gather import CalibrationOptions
from ..calibration.measure import Metric
from ..calibration.source import CalibrationSource
from ..errors import OptionError, UsageError, option
from ..latency.choose import RuntimeOptions, time_budget
from ..lowrank import REFINE, FitOptions
from ..planning import Budget, FixedRanks, PlanOptions
from ..planning.devices import parse_multiple

if TYPE_CHECKING:
    from ..calibration.pixels import ImageSource

Ranks: TypeAlias = Mapping[str, int | tuple[int, ...] | Literal["full"]] | Iterable[FixedRanks]


class Fields(TypedDict, total=False):
    """What belongs to one of the groups."""

    params: float | str | None
    accuracy_drop: float | str | None
    energy: float | str | None
    latency: float | None
    threads: int | None
    latency_table: str | Path | None
    rule: str | None
    only: str | Sequence[str]
    skip: str | Sequence[str]
    ranks: Ranks | None
    image_options: Any
    targets: str | Sequence[str]
    metric: Metric | None
    accuracy: str | Path | Accuracy | None
    statistics: str | Path | None
    calibration: CalibrationOptions | None
    refine: int
    device: str | None


class Keywords(Fields, total=False):
    """All of them."""

    macs: float | str | None
    error: float | str | None
    speedup: float | None
    runtime: str | RuntimeOptions | None
    schemes: str | Sequence[str] | None
    multiple: int | str | None
    images: ImageSource | Iterable[ImageSource] | None
    data: Any
    no_data: bool
    example_inputs: Any
    plan: PlanOptions | None
    source: CalibrationSource | None
    fit: FitOptions | None
    cache: bool


def check(fields: Mapping[str, Any]) -> None:
    """Reject keywords that are none.

    Raises:
        TypeError: one has no such name, as Python has it for keywords that a function does not take.
    """
    known = (*Keywords.__annotations__, "model")
    for name in fields:
        if name not in Fields.__annotations__:
            close = get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"decompose() got an unexpected keyword argument {name!r}{hint}")


def source_of(
    source: CalibrationSource | None, fields: Fields, *, images: Any, data: Any
) -> CalibrationSource:
    """What is calibrated on.

    Raises:
        OptionError: a source and parts of one are given.
    """
    statistics = fields.get("statistics")
    return CalibrationSource.of(
        source,
        images=images,
        data=data,
        image_options=fields.get("image_options"),
        targets=names_of(fields.get("targets") or ()) or None,
        metric=fields.get("metric"),
        accuracy=fields.get("accuracy"),
        statistics=None if statistics is None else Path(statistics),
        options=fields.get("calibration"),
    )


def runtime_of(runtime: str | RuntimeOptions | None, fields: Fields) -> RuntimeOptions:
    """What runs the network.

    Raises:
        OptionError: the same is said twice.
    """
    threads, table = fields.get("threads"), fields.get("latency_table")
    if not isinstance(runtime, RuntimeOptions):
        return RuntimeOptions(runtime, threads, table)
    parts = {"threads": threads, "latency_table": table}
    _once("runtime", [name for name, value in parts.items() if value is not None])
    return runtime


def fit_of(fit: FitOptions | None, fields: Fields) -> FitOptions:
    """How factors are fitted.

    Raises:
        OptionError: the same is said twice.
    """
    if fit is None:
        return FitOptions(refine=fields.get("refine", REFINE))
    _once("fit", [name for name in ("refine",) if name in fields])
    return fit


def plan_of(
    plan: PlanOptions | None, fields: Fields, *, macs: float | str | None, error: float | str | None,
    speedup: float | None, schemes: str | Sequence[str] | None, multiple: int | str | None,
) -> PlanOptions:  # fmt: skip
    """What decides the ranks; parts that are given take the place of those in `plan`.

    Raises:
        OptionError: there are several budgets, or values that are none.
    """
    given: dict[str, Any] = {name: names_of(fields[name]) for name in ("only", "skip") if fields.get(name)}
    if (budget := _budget(fields, macs=macs, error=error, speedup=speedup)) is not None:
        if plan is not None and plan.budget is not None:
            raise UsageError(f"one budget can be kept, found {plan.budget} in the plan and {budget}")
        given["budget"] = budget
    if fields.get("rule") is not None:
        given["rule"] = fields["rule"]
    if multiple is not None:
        given["multiple"], given["device"] = parse_multiple(multiple)
    if schemes is not None:
        given["schemes"] = names_of(schemes)
    if ranks := fields.get("ranks"):
        given["ranks"] = _fixed(ranks)
    return PlanOptions(**given) if plan is None else replace(plan, **given)


def names_of(given: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several, as several."""
    return (given,) if isinstance(given, str) else tuple(given)


def _once(group: str, parts: Sequence[str]) -> None:
    if parts:
        raise OptionError(f"{' and '.join(parts)}: given beside {group}, which holds it; give one of them")


def _fixed(ranks: Ranks) -> tuple[FixedRanks, ...]:
    if not isinstance(ranks, Mapping):
        return tuple(ranks)
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


def _budget(
    fields: Fields, *, macs: float | str | None, error: float | str | None, speedup: float | None
) -> Budget | None:
    """The budget that is given, of time or of another kind."""
    latency = fields.get("latency")
    of_time = time_budget(speedup, latency)
    values = {
        "macs": macs, "params": fields.get("params"), "error": error,
        "accuracy_drop": fields.get("accuracy_drop"), "energy": fields.get("energy"),
    }  # fmt: skip
    time = {"latency" if speedup is None else "speedup": of_time}
    named = [name for name, value in {**values, **time}.items() if value is not None]
    if len(named) > 1:
        raise UsageError(f"one budget can be kept, found {' and '.join(map(option, named))}; choose one")
    if of_time is not None:
        return Budget("latency", of_time)
    return next((Budget.of(metric, value) for metric, value in values.items() if value is not None), None)
