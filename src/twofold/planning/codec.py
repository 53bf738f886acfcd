"""Plans as JSON: readable, editable, and rejected with the place and the reason where they are wrong.

What a person may leave out when writing by hand: counts, predictions, names and notes. Counts are made again
when a plan is checked against a model; a prediction says for which ranks it holds and is dropped when these
were edited, with the names of the new convolutions; "totals" is for readers and never read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

from twofold.codec import strict_json
from twofold.conv import ConvGeometry, Skipped
from twofold.errors import FormatError, PlanError, TwofoldError
from twofold.layer_types import LAYER_TYPES
from twofold.planning.budget import Budget
from twofold.planning.options import FixedRanks, PlanOptions
from twofold.planning.plan import Choice, Plan
from twofold.planning.timing import NetworkTiming, Timing

SCHEMA = 1
"""Version of the layout; files of a later one are rejected."""

T = TypeVar("T")
Json = dict[str, Any]


def plan_to_plain(plan: Plan) -> Json:
    """A plan as the object that its JSON is."""
    totals = plan.totals
    return {
        "twofold_plan": SCHEMA,
        "version": plan.version,
        "sources": dict(sorted(plan.sources.items())),
        "options": _options_out(plan.options),
        "macs_per": plan.macs_per,
        "notes": list(plan.notes),
        "totals": {
            "macs": list(totals.macs), "macs_ratio": totals.macs_ratio,
            "params": list(totals.params), "params_ratio": totals.params_ratio,
            "predicted_output_error": plan.predicted_error,
        },
        "calibration": None if plan.calibration is None else dict(plan.calibration),
        "measured_output_error": plan.measured_error,
        "timing": None if plan.timing is None else _network_out(plan.timing),
        "choices": [_choice_out(choice) for choice in plan.choices],
        "skipped": [_skipped_out(skipped) for skipped in plan.skipped],
    }  # fmt: skip


def plan_to_json(plan: Plan) -> str:
    """Serialise a plan; equal plans give equal text."""
    text = json.dumps(plan_to_plain(plan), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # Bytes of a name that are not UTF-8 are lone surrogates, which a UTF-8 file can hold escaped only.
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match.group()):04x}", text)


def plan_from_json(text: str) -> Plan:
    """Read a plan.

    Raises:
        PlanError: with the place and what is allowed there.
    """
    try:
        document = strict_json(text, "plan")
    except FormatError as error:
        raise PlanError(str(error)) from error
    return plan_from_plain(document)


def plan_from_plain(document: object) -> Plan:
    """Read a plan from the object that its JSON is.

    Raises:
        PlanError: with the place and what is allowed there.
    """
    top = _Object(document, "plan")
    schema = top.take("twofold_plan", _integer)
    if schema != SCHEMA:
        raise PlanError(
            f"the plan has layout {schema}; this twofold reads layout {SCHEMA}: make the plan again"
        )
    top.take("totals", _anything, None)
    version = top.take("version", _string)
    sources = top.take("sources", _mapping_of(_string), {})
    options = top.take("options", _options_in, PlanOptions())
    macs_per = top.take("macs_per", _string, "image")
    notes = top.take("notes", _list_of(_string), ())
    calibration = top.take("calibration", _optional(_mapping_of(_anything)), None)
    measured = top.take("measured_output_error", _optional(_number), None)
    timing = top.take("timing", _optional(_network_in), None)
    choices = top.take("choices", _list_of(_choice_in))
    skipped = top.take("skipped", _list_of(_skipped_in), ())
    top.finish()
    return Plan(choices, skipped, options, macs_per, sources, notes, calibration, measured, version, timing)


class _Object:
    """A JSON object that is read key by key and must be used up."""

    _REQUIRED = object()

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            _wrong(value, where, "an object")
        self._left: Json = dict(value)
        self._known: list[str] = []
        self._where = where

    def take(
        self, key: str, read: Callable[[object, str], T], default: Any = _REQUIRED, former: str = ""
    ) -> T:
        """Read the value of a key, or of its former name; None of both: the default, or an error."""
        self._known.append(key)
        if key not in self._left and former in self._left:
            self._left[key] = self._left.pop(former)
        if key not in self._left:
            if default is self._REQUIRED:
                raise PlanError(f"{self._where}: key '{key}' is missing")
            return default  # type: ignore[no-any-return]
        return read(self._left.pop(key), f"{self._where}.{key}")

    def finish(self) -> None:
        if self._left:
            unknown = ", ".join(f"'{key}'" for key in self._left)
            raise PlanError(f"{self._where}: unknown key {unknown}; known: {', '.join(self._known)}")


def _wrong(value: object, where: str, wanted: str) -> NoReturn:
    raise PlanError(f"{where}: {json.dumps(value, default=str)[:60]} is not {wanted}")


def _anything(value: object, where: str) -> object:
    return value


def _string(value: object, where: str) -> str:
    return value if isinstance(value, str) else _wrong(value, where, "a string")


def _layer_type(value: object, where: str) -> str:
    return next((one for one in LAYER_TYPES if one == value), None) or _wrong(
        value, where, " or ".join(LAYER_TYPES)
    )


def _boolean(value: object, where: str) -> bool:
    return value if isinstance(value, bool) else _wrong(value, where, "true or false")


def _integer(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        _wrong(value, where, "an integer, 0 or more, of at most 63 bits")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e150:
        _wrong(value, where, "a number, 0 or more, of bounds")
    return float(value)


def _optional(read: Callable[[object, str], T]) -> Callable[[object, str], T | None]:
    return lambda value, where: None if value is None else read(value, where)


def _list_of(read: Callable[[object, str], T]) -> Callable[[object, str], tuple[T, ...]]:
    def read_list(value: object, where: str) -> tuple[T, ...]:
        if not isinstance(value, list):
            _wrong(value, where, "a list")
        return tuple(read(item, f"{where}[{i}]") for i, item in enumerate(value))

    return read_list


def _pair(value: object, where: str) -> tuple[int, int]:
    numbers = _list_of(_integer)(value, where)
    if len(numbers) != 2:
        _wrong(value, where, "a list of two integers")
    return numbers[0], numbers[1]


def _seconds(value: object, where: str) -> tuple[float, float]:
    numbers = _list_of(_number)(value, where)
    if len(numbers) != 2:
        _wrong(value, where, "a list of two numbers")
    return numbers[0], numbers[1]


def _mapping_of(read: Callable[[object, str], T]) -> Callable[[object, str], dict[str, T]]:
    def read_mapping(value: object, where: str) -> dict[str, T]:
        if not isinstance(value, dict):
            _wrong(value, where, "an object")
        return {key: read(item, f"{where}.{key}") for key, item in value.items()}

    return read_mapping


def _geometry_out(geometry: ConvGeometry) -> Json:
    more: Json = {} if geometry.layer_type == "convolution" else {"layer_type": geometry.layer_type}
    if any(geometry.output_padding):
        more["output_padding"] = list(geometry.output_padding)
    return {
        "c_out": geometry.c_out, "c_in": geometry.c_in, "kernel": list(geometry.kernel),
        "stride": list(geometry.stride), "pad": [list(pair) for pair in geometry.pad],
        "dilation": list(geometry.dilation), "groups": geometry.groups, **more,
    }  # fmt: skip


def _geometry_in(value: object, where: str) -> ConvGeometry:
    read, sizes = _Object(value, where), _list_of(_integer)
    fields = (
        read.take("c_out", _integer), read.take("c_in", _integer), read.take("kernel", sizes),
        read.take("stride", sizes), read.take("pad", _list_of(_pair)), read.take("dilation", sizes),
        read.take("groups", _integer, 1), read.take("layer_type", _layer_type, "convolution", former="kind"),
        read.take("output_padding", sizes, ()),
    )  # fmt: skip
    read.finish()
    try:
        return ConvGeometry(*fields)
    except ValueError as error:
        raise PlanError(f"{where}: {error}") from error


def _choice_out(choice: Choice) -> Json:
    return {
        "layer": choice.layer,
        "scheme": choice.scheme, "variant": choice.variant, "ranks": list(choice.ranks),
        "geometry": _geometry_out(choice.geometry), "macs": list(choice.macs), "params": list(choice.params),
        "predicted": {
            "for": choice.label, "relative_error": choice.relative_error, "output_error": choice.output_error
        },
        "notes": list(choice.notes), "becomes": list(choice.becomes),
        "timing": None if choice.timing is None else _timing_out(choice.timing),
    }  # fmt: skip


def _choice_in(value: object, where: str) -> Choice:
    read = _Object(value, where)
    choice = Choice(
        layer=read.take("layer", _string), geometry=read.take("geometry", _geometry_in),
        scheme=read.take("scheme", _string), variant=read.take("variant", _string, ""),
        ranks=read.take("ranks", _list_of(_integer)), macs=read.take("macs", _pair, (0, 0)),
        params=read.take("params", _pair, (0, 0)), notes=read.take("notes", _list_of(_string), ()),
    )  # fmt: skip
    predicted = read.take("predicted", _prediction, ("", None, None))
    becomes = read.take("becomes", _list_of(_string), ())
    timing = read.take("timing", _optional(_timing_in), None)
    read.finish()
    if predicted[0] != choice.label:
        return choice
    return replace(
        choice, relative_error=predicted[1], output_error=predicted[2], becomes=becomes, timing=timing
    )


def _timing_out(timing: Timing) -> Json:
    measured = None if timing.measured is None else list(timing.measured)
    return {"predicted": list(timing.predicted), "measured": measured, "spread": timing.spread}


def _timing_in(value: object, where: str) -> Timing:
    read = _Object(value, where)
    timing = Timing(
        read.take("predicted", _seconds),
        read.take("measured", _optional(_seconds), None),
        read.take("spread", _optional(_number), None),
    )
    read.finish()
    return timing


def _network_out(timing: NetworkTiming) -> Json:
    return {
        "setting": timing.setting, "batch": timing.batch, "factor": timing.factor,
        "seconds": _timing_out(timing.network),
    }  # fmt: skip


def _network_in(value: object, where: str) -> NetworkTiming:
    read = _Object(value, where)
    timing = NetworkTiming(
        setting=read.take("setting", _string), batch=read.take("batch", _integer),
        factor=read.take("factor", _number, 1.0), network=read.take("seconds", _timing_in),
    )  # fmt: skip
    read.finish()
    return timing


def _prediction(value: object, where: str) -> tuple[str, float | None, float | None]:
    read = _Object(value, where)
    result = (
        read.take("for", _string),
        read.take("relative_error", _optional(_number), None),
        read.take("output_error", _optional(_number), None),
    )
    read.finish()
    return result


def _skipped_out(skipped: Skipped) -> Json:
    return {
        "layer": skipped.name, "reason": skipped.reason,
        "geometry": None if skipped.geometry is None else _geometry_out(skipped.geometry),
        "macs": skipped.macs, "params": skipped.params,
    }  # fmt: skip


def _skipped_in(value: object, where: str) -> Skipped:
    read = _Object(value, where)
    skipped = Skipped(
        read.take("layer", _string), read.take("reason", _string),
        read.take("geometry", _optional(_geometry_in), None),
        read.take("macs", _optional(_integer), None), read.take("params", _integer, 0),
    )  # fmt: skip
    read.finish()
    return skipped


def _options_out(options: PlanOptions) -> Json:
    budget = options.budget
    return {
        "budget": None if budget is None else {
            "metric": budget.metric, "value": budget.value, "absolute": budget.absolute
        },
        "rule": options.rule, "multiple": options.multiple, "schemes": list(options.schemes),
        "only": list(options.only), "skip": list(options.skip),
        "ranks": [str(entry) for entry in options.ranks], "device": options.device,
    }  # fmt: skip


def _options_in(value: object, where: str) -> PlanOptions:
    read, strings = _Object(value, where), _list_of(_string)
    budget = read.take("budget", _optional(_budget_in), None)
    rule = read.take("rule", _optional(_string), None)
    multiple = read.take("multiple", _integer)
    schemes = read.take("schemes", strings)
    only, skip = read.take("only", strings, ()), read.take("skip", strings, ())
    ranks = read.take("ranks", strings, ())
    device = read.take("device", _optional(_string), None)
    read.finish()
    try:
        fixed = tuple(FixedRanks.parse(text) for text in ranks)
        return PlanOptions(budget, rule, multiple, schemes, only, skip, fixed, device)
    except TwofoldError as error:
        raise PlanError(f"{where}: {error}") from error


def _budget_in(value: object, where: str) -> Budget:
    read = _Object(value, where)
    fields = (
        read.take("metric", _string, former="kind"),
        read.take("value", _number),
        read.take("absolute", _boolean, False),
    )
    read.finish()
    try:
        return Budget(*fields)
    except TwofoldError as error:
        raise PlanError(f"{where}: {error}") from error
