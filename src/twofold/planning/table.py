"""Plans as plain text for people."""

from __future__ import annotations

from twofold.planning.plan import Choice, Plan, ratio
from twofold.planning.timing import milliseconds
from twofold.text import aligned, count_text, error_text, shape_text

_HEADER = ("layer", "shape", "becomes", "MACs", "ratio", "params", "ratio", "error", "output error", "time")
_RIGHT = frozenset(range(3, len(_HEADER)))


def plan_table(plan: Plan) -> str:
    """Lay out a plan: decomposed layers, layers left alone with reasons, totals, notes.

    Ratios are after / before. Errors are relative errors, predicted where they are not called measured.
    """
    columns = set(range(len(_HEADER)))
    if all(choice.output_error is None for choice in plan.choices):
        columns.discard(_HEADER.index("output error"))
    if all(choice.timing is None for choice in plan.choices):
        columns.discard(_HEADER.index("time"))
    totals = plan.totals
    rows = [_row(choice) for choice in plan.choices]
    rows.append(
        (
            "all convolutions", "", f"{len(plan.choices)} of {len(plan.choices) + len(plan.skipped)}",
            *_change(totals.macs), *_change(totals.params),
            "", error_text(plan.predicted_error) if plan.choices else "", "",
        )
    )  # fmt: skip
    shown = [tuple(row[column] for column in sorted(columns)) for row in (_HEADER, *rows)]
    lines = aligned(shown, _RIGHT)
    lines.insert(len(lines) - 1, "-" * max(map(len, lines)))
    lines += _remarks(plan)
    if plan.skipped:
        lines += ["", "left as they are:"]
        stay = [(s.name, shape_text(s.geometry) if s.geometry else "", s.reason) for s in plan.skipped]
        lines += [f"  {line}" for line in aligned(stay, ())]
    return "\n".join(lines)


def _row(choice: Choice) -> tuple[str, ...]:
    return (
        choice.layer, shape_text(choice.geometry), choice.label + (" *" if _remark(choice) else ""),
        *_change(choice.macs), *_change(choice.params),
        error_text(choice.relative_error), error_text(choice.output_error), _time(choice),
    )  # fmt: skip


def _time(choice: Choice) -> str:
    timing = choice.timing
    return "" if timing is None else milliseconds(timing.measured or timing.predicted)


def _remark(choice: Choice) -> str:
    costs_more = ["more expensive than the layer itself"] if choice.costs_more else []
    return "; ".join([*costs_more, *choice.notes])


def _remarks(plan: Plan) -> list[str]:
    lines = []
    if plan.choices:
        lines.append("error: predicted relative error of each layer")
    if plan.choices and plan.predicted_error is not None:
        lines.append(
            "output error: predicted relative error of the network's output, by each alone and by all"
        )
    if plan.measured_error is not None:
        lines.append(_measured(plan, error_text(plan.measured_error)))
    if plan.timing is not None:
        lines += [str(plan.timing), *_layer_times(plan)]
    if plan.macs_per != "image":
        lines.append(f"MACs: per {plan.macs_per} of each layer, because not all input sizes are known")
    unknown = [one.name for one in plan.skipped if one.macs is None and plan.macs_per == "image"]
    if unknown:
        names = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if unknown[5:] else "")
        lines.append(f"MACs of {names} are not known, and in no sum")
    lines += [f"* {choice.layer}: {remark}" for choice in plan.choices if (remark := _remark(choice))]
    return lines + list(plan.notes)


def _measured(plan: Plan, error: str) -> str:
    """The error of the whole network: what it is of, and what it was measured on, where the plan says so."""
    how = (plan.calibration or {}).get("measured", {})
    count, outputs = how.get("count", ""), len(how.get("outputs", ()))
    of = f"outputs, root mean square over {outputs}" if outputs > 1 else "output"
    fitted = {True: " that no factor was fitted to", False: " that factors were fitted to, too"}
    inputs = f"{count} inputs".lstrip() + fitted.get(how.get("held_out"), "")
    found = f"relative error of the network's {of}, measured on {inputs}: {error}"
    network = how.get("network") or {}
    if not network:
        return found
    given = ", ".join(f"{error_text(value)} of {name}" for name, value in network.items())
    named = ", ".join(how["outputs"][:3]) + (f" and {outputs - 3} more" if outputs > 3 else "")
    return f"{found}\nthat is of {named}; of what the network gives behind: {given}"


def _layer_times(plan: Plan) -> list[str]:
    """What the column of times holds."""
    timings = [choice.timing for choice in plan.choices if choice.timing is not None]
    if not timings:
        return []
    if any(timing.measured is None for timing in timings):
        return ["time: predicted for each layer by itself"]
    before, after = (sum(timing.predicted[i] for timing in timings) for i in (0, 1))
    return [
        "time: measured for each layer by itself; predicted over these layers: "
        f"{milliseconds((before, after))}"
    ]


def _change(pair: tuple[int, int]) -> tuple[str, str]:
    return f"{count_text(pair[0])} → {count_text(pair[1])}", f"{ratio(pair):.3f}"
