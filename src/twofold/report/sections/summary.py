"""What was spent and what was lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...planning.plan import Plan
from ...planning.timing import Timing
from ...text import count_text, error_text
from ..data import Recovered, Report, Training

#: Bytes of a weight in float32.
_BYTES = 4


@dataclass(frozen=True)
class Tile:
    """One number with what it was before.

    Attributes:
        name: of the quantity.
        value: large.
        detail: below, such as before and after.
        share: length of the bar, after / before; None for no bar.
    """

    name: str
    value: str
    detail: str
    share: float | None = None


def kind(report: Report) -> str:
    """What was done, in a word."""
    parts = {
        "recovery": report.recovered,
        "decomposition": report.plan,
        "comparison": report.comparison,
        "int8": report.quantized,
        "training": report.training,
    }
    return next((name for name, part in parts.items() if part is not None), "report")


def sentence(report: Report) -> str:
    """The whole report in one sentence."""
    plan = report.plan
    if report.recovered is not None:
        first, last = map(error_text, report.recovered.errors)
        return (
            f"Taught by the original on {report.recovered.samples} samples without labels: "
            f"output error {first} before, {last} after."
        )
    if plan is not None:
        count, every = len(plan.choices), len(plan.choices) + len(plan.skipped)
        text = f"{count} of {every} convolutions decomposed, {plan.totals.macs_ratio:.3f} of the MACs left"
        if plan.timing is not None and plan.timing.network.measured is not None:
            before, after = plan.timing.network.measured
            text += f", {before / after:.2f} times as fast"
        if plan.measured_error is not None:
            text += f", output error {error_text(plan.measured_error)}"
        return text + (f"; {report.boxes}." if report.boxes else ".")
    if report.comparison is not None:
        worst = [one.error for one in report.comparison.outputs if one.error is not None]
        error = f"output error {error_text(max(worst))}, " if worst else ""
        return f"Two models on the same {report.comparison.samples} inputs: {error}side by side."
    if report.quantized is not None:
        before, after = report.quantized.bytes
        return f"In int8, {after / before:.3f} of the bytes."
    if report.training is not None:
        how = ", of the net as it computes in int8" if report.training.int8 else ""
        return f"The course of a training{how}."
    return ""


def tiles(report: Report) -> tuple[Tile, ...]:
    """The numbers at the top."""
    found: list[Tile] = []
    if report.plan is not None:
        found += _spent(report.plan)
        found += () if report.recovered is not None else _lost(report.plan)
    if report.recovered is not None:
        found.append(_gained(report.recovered))
    if report.comparison is not None:
        one = report.comparison
        found += [_counts("MACs", one.macs)] if one.macs[0] else []
        found.append(_counts("Params", one.params))
        found += [_counts("File bytes", one.bytes)] if one.bytes else []
        found += [
            _seconds(f"Time, {time.runtime}", time.seconds, time.ratio, time.spread, tells=time.tells)
            for time in one.times
        ]
    if report.quantized is not None:
        found.append(_counts("File bytes", report.quantized.bytes))
        for name, error in report.quantized.outputs.items():
            found.append(Tile(f"Output error, {name}", error_text(error), "int8 against float32"))
    if report.training is not None:
        found += _scores(report.training)
    return tuple(found)


def _scores(training: Training) -> Iterator[Tile]:
    """The last test scores in int8 beside those in float32."""
    for name, points in training.int8_tests.items():
        at, value = points[-1]
        plain = dict(training.tests.get(name, ())).get(at)
        beside = "" if plain is None else f"{plain:.4g} in float32, "
        yield Tile(f"{name}, in int8", f"{value:.4g}", f"{beside}{training.counted} {at}")


def _gained(recovered: Recovered) -> Tile:
    before, after = recovered.errors
    detail = f"{error_text(before)} → {error_text(after)}, on held-out inputs"
    return Tile("Output error", error_text(after), detail, after / before if before else None)


def _spent(plan: Plan) -> Iterator[Tile]:
    totals = plan.totals
    per = "" if plan.macs_per == "image" else f", per {plan.macs_per}"
    yield _counts(f"MACs{per}", totals.macs)
    yield _counts("Params", totals.params)
    before, after = (count * _BYTES for count in totals.params)
    yield _counts("Weight bytes, float32", (before, after))
    if plan.timing is not None:
        yield _timing(f"Time, {plan.timing.setting}", plan.timing.network)


def _lost(plan: Plan) -> Iterator[Tile]:
    measured, predicted = plan.measured_error, plan.predicted_error if plan.choices else None
    if measured is not None:
        detail = "measured" if predicted is None else f"measured; predicted {error_text(predicted)}"
        yield Tile("Output error", error_text(measured), detail)
    elif predicted is not None:
        yield Tile("Output error", error_text(predicted), "predicted")


def _counts(name: str, pair: tuple[int, int]) -> Tile:
    share = pair[1] / pair[0] if pair[0] else None
    value = "" if share is None else f"{share:.3f}"
    return Tile(name, value, f"{count_text(pair[0])} → {count_text(pair[1])}", share)


def _timing(name: str, timing: Timing) -> Tile:
    pair = timing.measured or timing.predicted
    tile = _seconds(name, pair, pair[1] / pair[0] if pair[0] else 1.0, timing.spread)
    how = "predicted" if timing.measured is None else "measured"
    return Tile(name, tile.value, f"{tile.detail}, {how}", tile.share)


def _seconds(
    name: str, pair: tuple[float, float], ratio: float, spread: float | None, *, tells: bool = True
) -> Tile:
    about = "" if not spread else f" ± {spread:.3f}"
    noisy = "" if tells else "; too noisy to tell"
    return Tile(name, f"{ratio:.3f}{about}", f"{1e3 * pair[0]:.3g} → {1e3 * pair[1]:.3g} ms{noisy}", ratio)
