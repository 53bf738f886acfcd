"""A result as a notebook shows it: its headline and a row per decomposed layer, without script or style."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from ..decomposition.result import Result
from .data import Made, Report
from .sections import layers, summary


def fragment(result: Result[Any]) -> str:
    """What a notebook shows of a result: HTML in the notebook's own colours."""
    head = summary.headline(Report("", Made(), result.plan))
    verdict = Markup(" <b>({})</b>").format(head.verdict) if head.verdict else ""
    text = Markup("<p><b>{}</b>{}<br>{}</p>").format(head.text, verdict, head.details)
    rows = layers.changed(result.plan)
    if rows:
        heads = ("layer", "shape", "becomes", *(cell.head for cell in rows[0].cells))
        titles = Markup("").join(Markup("<th>{}</th>").format(name) for name in heads)
        body = Markup("").join(map(_row, rows))
        text += Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(titles, body)
    return str(Markup('<div style="overflow-x:auto">{}</div>').format(text))


def _row(row: layers.Row) -> Markup:
    values = (row.shape, row.becomes, *(cell.text for cell in row.cells))
    cells = Markup("").join(Markup("<td>{}</td>").format(text) for text in values)
    return Markup("<tr><th>{}</th>{}</tr>").format(row.layer, cells)
