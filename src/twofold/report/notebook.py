"""A plan as a notebook shows it: its numbers and a bar per layer, in the notebook's own colours."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from ..decomposition.result import Result
from .data import Made, Report
from .sections import layers, summary

_WAS, _IS = "#8193a8", "#d9731a"
_BAR = '<i style="display:block;height:4px;border-radius:2px;background:{};width:{:.2f}%"></i>'


def fragment(result: Result[Any]) -> str:
    """What a notebook shows of a result: HTML without script or style sheet."""
    plan = result.plan
    report = Report("", Made(), plan)
    heads = ("layer", "shape", "becomes, or why it stays", "", *layers.columns(plan))
    head = Markup("").join(Markup("<th>{}</th>").format(name) for name in heads)
    body = Markup("").join(map(_row, layers.rows(plan)))
    return str(
        Markup(
            '<div style="overflow-x:auto"><p>{}</p>'
            "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
        ).format(summary.sentence(report), head, body)
    )


def _row(row: layers.Row) -> Markup:
    shares = zip((_WAS, _IS) if row.changed else (_WAS,), row.bar, strict=False)
    bars = Markup("").join(Markup(_BAR).format(color, share) for color, share in shares)
    cells = Markup("").join(Markup("<td>{}</td>").format(text) for text, _ in row.cells)
    return Markup('<tr><th>{}</th><td>{}</td><td>{}</td><td style="min-width:120px">{}</td>{}</tr>').format(
        row.layer, row.shape, row.becomes, bars, cells
    )
