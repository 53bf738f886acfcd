"""What was spent and what was lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ...calibration.measure import DOUBTFUL, verdict
from ...compare import Comparison
from ...planning.plan import Plan
from ...planning.timing import Timing, milliseconds
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
        share: length of the bar: after / before, or an error where there is a verdict; None for no bar.
        verdict: on an error: "good", "look" or "lost"; "" for what is no error.
    """

    name: str
    value: str
    detail: str
    share: float | None = None
    verdict: str = ""


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


@dataclass(frozen=True)
class Headline:
    """The whole report in a line.

    Attributes:
        text: what was gained and what was lost.
        verdict: on the error: "good", "look" or "lost"; "" where there is no error to judge.
        details: the next line.
    """

    text: str
    verdict: str
    details: str

    def __str__(self) -> str:
        verdict = f" ({self.verdict})" if self.verdict else ""
        return f"{self.text}{verdict}. {self.details}".strip()


def headline(report: Report) -> Headline:
    """What was gained and what was lost."""
    if report.recovered is not None:
        first, last = report.recovered.errors
        return Headline(
            f"Output error {error_text(last)}, {error_text(first)} before", verdict(last),
            f"The original taught the decomposed net on {report.recovered.samples} samples without labels.",
        )  # fmt: skip
    if report.plan is not None:
        return _of_plan(report, report.plan)
    if report.comparison is not None:
        pair = report.comparison
        gain = [fewer(pair.macs, "MACs")] if pair.macs[0] else [fewer(pair.params, "weights")]
        details = f"Two models, before and after, on the same {pair.samples} inputs."
        return _judged(gain, (one.error for one in pair.outputs), details)
    if report.quantized is not None:
        found = report.quantized
        details = f"In int8 instead of float32, over {found.samples[1]} inputs."
        return _judged([fewer(found.bytes, "bytes")], found.outputs.values(), details)
    if report.training is not None:
        return _of_training(report.training)
    return Headline("", "", "")


def _of_training(training: Training) -> Headline:
    last = max((points[-1][0] for points in (training.losses, *training.tests.values()) if points), default=0)
    scores = (f"{name} {points[-1][1]:.4g}" for name, points in training.tests.items() if points)
    text = ", ".join([f"{last} {training.counted}s", *scores])
    return Headline(text, "", "Of the net as it computes in int8." if training.int8 else "")


def _judged(gain: list[str], errors: Iterable[float | None], details: str) -> Headline:
    known = [error for error in errors if error is not None]
    worst = max(known, default=None)
    gain += [] if worst is None else [f"output error {error_text(worst)}"]
    return Headline(_capital(", ".join(gain)), "" if worst is None else verdict(worst), details)


def _of_plan(report: Report, plan: Plan) -> Headline:
    count, every = len(plan.choices), len(plan.choices) + len(plan.skipped)
    details = f"{count} of {every} convolutions decomposed, {every - count} unchanged"
    details += f"; {report.boxes}." if report.boxes else "."
    if not count:
        return Headline("Nothing was decomposed", "", details)
    parts = [fewer(plan.totals.macs, "MACs")]
    if plan.timing is not None and plan.timing.network.measured is not None:
        before, after = plan.timing.network.measured
        parts.append(f"{before / after:.2f} times as fast")
    measured, predicted = plan.measured_error, plan.predicted_error
    if measured is not None:
        parts.append(f"output error {error_text(measured)}")
    elif predicted is not None:
        parts.append(f"output error {error_text(predicted)}, predicted")
    else:
        worst = max(choice.relative_error or 0.0 for choice in plan.choices)
        parts.append(f"output error not measured, error of the worst layer {error_text(worst)}")
        judged = "lost" if worst >= DOUBTFUL else "look"
        return Headline(_capital(", ".join(parts)), judged, details)
    error = predicted if measured is None else measured
    return Headline(_capital(", ".join(parts)), _verdict_of(plan, error), details)


def _verdict_of(plan: Plan, error: float | None) -> str:
    """What an error is worth; "" for one in the unit of a metric of the user's."""
    own = (plan.calibration or {}).get("measured", {}).get("metric", False)
    return "" if own or error is None else verdict(error)


def fewer(pair: tuple[int, int], unit: str) -> str:
    """What became of a count (before, after): "1.67 times fewer MACs"."""
    before, after = pair
    if before == after or (before and abs(after / before - 1) < 0.005):
        return f"as many {unit}"
    if not before or not after:
        return f"{count_text(after)} {unit} instead of {count_text(before)}"
    if after > before:
        return f"{after / before:.2f} times as many {unit}"
    return f"{before / after:.2f} times fewer {unit}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def tiles(report: Report) -> tuple[Tile, ...]:
    """The numbers at the top."""
    found: list[Tile] = []
    if report.recovered is not None:
        found.append(_gained(report.recovered))
    if report.plan is not None:
        found += () if report.recovered is not None else _lost(report.plan)
        found += _spent(report.plan)
    if report.comparison is not None:
        found += _compared(report.comparison)
    if report.quantized is not None:
        found += _of_outputs(report.quantized.outputs, "int8 against float32")
        found.append(_counts("Bytes", report.quantized.bytes, "bytes of the files"))
    if report.training is not None:
        found += _scores(report.training)
    return tuple(found)


def _compared(one: Comparison) -> Iterator[Tile]:
    errors = {output.name: output.error for output in one.outputs if output.error is not None}
    yield from _of_outputs(errors, f"over {one.samples} inputs")
    if one.macs[0]:
        yield _counts("MACs", one.macs, "MACs per image")
    yield _counts("Weights", one.params, "weights of convolutions")
    if one.bytes:
        yield _counts("Bytes", one.bytes, "bytes of the files")
    for time in one.times:
        yield _seconds(f"in {time.runtime}", time.seconds, time.ratio, time.spread, tells=time.tells)


def _of_outputs(errors: Mapping[str, float], how: str) -> Iterator[Tile]:
    for name, error in errors.items():
        yield _error_tile(error, how, name=f"Output error, {name}")


def _scores(training: Training) -> Iterator[Tile]:
    """The last test scores in int8 beside those in float32."""
    for name, points in training.int8_tests.items():
        at, value = points[-1]
        plain = dict(training.tests.get(name, ())).get(at)
        beside = "" if plain is None else f"{plain:.4g} in float32, "
        yield Tile(f"{name}, in int8", f"{value:.4g}", f"{beside}{training.counted} {at}")


def _gained(recovered: Recovered) -> Tile:
    before, after = recovered.errors
    return _error_tile(after, f"{error_text(before)} before; on held-out inputs")


def _spent(plan: Plan) -> Iterator[Tile]:
    totals = plan.totals
    yield _counts("MACs", totals.macs, f"MACs per {plan.macs_per}")
    yield _counts("Weights", totals.params, "weights of convolutions")
    before, after = (count * _BYTES for count in totals.params)
    yield _counts("Bytes", (before, after), "bytes, weights in float32")
    if plan.timing is not None:
        yield _timing(plan.timing.network, plan.timing.setting)


def _lost(plan: Plan) -> Iterator[Tile]:
    measured, predicted = plan.measured_error, plan.predicted_error if plan.choices else None
    if measured is not None:
        count = (plan.calibration or {}).get("measured", {}).get("count")
        how = f"measured on {count} inputs" if count else "measured"
        how += "" if predicted is None else f"; predicted {error_text(predicted)}"
        yield _error_tile(measured, how, _verdict_of(plan, measured))
    elif predicted is not None:
        yield _error_tile(predicted, "predicted", _verdict_of(plan, predicted))


def _error_tile(error: float, how: str, judged: str | None = None, name: str = "Output error") -> Tile:
    judged = verdict(error) if judged is None else judged
    unit = "0 is the original's output, 1 a constant" if judged else "in the unit of the metric"
    return Tile(name, error_text(error), f"{how}; {unit}", min(error, 1.0) if judged else None, judged)


def _counts(name: str, pair: tuple[int, int], unit: str) -> Tile:
    share = pair[1] / pair[0] if pair[0] else None
    return Tile(name, short(pair), f"{count_text(pair[0])} → {count_text(pair[1])} {unit}", share)


def short(pair: tuple[int, int]) -> str:
    """What became of a count (before, after), where its unit stands beside: "1.67× fewer"."""
    return fewer(pair, "").strip().replace(" times", "×")


def _timing(timing: Timing, setting: str) -> Tile:
    pair = timing.measured or timing.predicted
    how = "predicted" if timing.measured is None else "measured"
    return _seconds(f"{how} in {setting}", pair, pair[1] / pair[0] if pair[0] else 1.0, timing.spread)


def _seconds(
    how: str, pair: tuple[float, float], ratio: float, spread: float | None, *, tells: bool = True
) -> Tile:
    about = "" if not spread else f", ratio {ratio:.3f} ± {spread:.3f}"
    noisy = "" if tells else ", too noisy to tell"
    value = f"{1 / ratio:.2f}× as fast" if ratio else "?"
    return Tile("Time", value, f"{milliseconds(pair)}{about}{noisy}; {how}", ratio)
