"""Plans as plain text for people."""

from __future__ import annotations

from collections.abc import Sequence

from twofold.planning.plan import Choice, Plan, ratio, shape_text

_HEADER = ("layer", "shape", "becomes", "MACs", "ratio", "params", "ratio", "error")
_RIGHT = frozenset({3, 4, 5, 6, 7})


def plan_table(plan: Plan) -> str:
    """Lay out a plan: decomposed layers, layers left alone with reasons, totals, notes.

    Ratios are after / before. Errors are relative errors and predicted, not measured.
    """
    totals = plan.totals
    rows = [_row(choice) for choice in plan.choices]
    rows.append(
        (
            "all convolutions", "", f"{len(plan.choices)} of {len(plan.choices) + len(plan.skipped)}",
            _change(totals.macs), f"{totals.macs_ratio:.3f}", _change(totals.params), f"{totals.params_ratio:.3f}",
            error_text(plan.predicted_error) if plan.choices else "",
        )
    )  # fmt: skip
    lines = _aligned([_HEADER, *rows])
    lines.insert(len(lines) - 1, "-" * max(map(len, lines)))
    lines += _remarks(plan)
    if plan.skipped:
        lines += ["", "left as they are:"]
        lines += [
            f"  {line}"
            for line in _aligned(
                [(s.name, shape_text(s.geometry) if s.geometry else "", s.reason) for s in plan.skipped],
                right=(),
            )
        ]
    return "\n".join(lines)


def _row(choice: Choice) -> tuple[str, ...]:
    return (
        choice.layer, shape_text(choice.geometry), choice.label + (" *" if _remark(choice) else ""),
        _change(choice.macs), f"{ratio(choice.macs):.3f}", _change(choice.params), f"{ratio(choice.params):.3f}",
        error_text(choice.relative_error),
    )  # fmt: skip


def _remark(choice: Choice) -> str:
    dearer = ["dearer than the layer itself"] if choice.dearer else []
    return "; ".join([*dearer, *choice.notes])


def _remarks(plan: Plan) -> list[str]:
    lines = []
    if plan.choices:
        lines.append("error: predicted relative error of each layer's output, unmeasured")
        if plan.predicted_error is not None:
            lines[-1] += "; in the last line, of the network's output"
    if plan.macs_per != "image":
        lines.append(f"MACs: per {plan.macs_per} of each layer, because not all input sizes are known")
    lines += [f"* {choice.layer}: {remark}" for choice in plan.choices if (remark := _remark(choice))]
    return lines + list(plan.notes)


def count_text(number: int) -> str:
    """A count with three significant digits and a suffix: 3.47G."""
    value = float(number)
    for suffix in ("", "k", "M", "G"):
        if value < 999.5:
            return (
                f"{number}"
                if not suffix
                else f"{value:#.3g}{suffix}".replace(".k", "k").replace(".M", "M").replace(".G", "G")
            )
        value /= 1000
    return f"{value:#.3g}T".replace(".T", "T")


def error_text(error: float | None) -> str:
    """A relative error with two significant digits; "?" where it is unknown."""
    if error is None:
        return "?"
    return f"{error:.4f}" if error >= 0.01 or not error else f"{error:.1e}"


def _change(pair: tuple[int, int]) -> str:
    return f"{count_text(pair[0])} → {count_text(pair[1])}"


def _aligned(rows: Sequence[Sequence[str]], right: frozenset[int] | tuple[int, ...] = _RIGHT) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(w) if i in right else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
