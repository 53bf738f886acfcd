"""How numbers and shapes are written for people."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from twofold.conv import ConvGeometry, Size
from twofold.terminal import visible


def ranks_text(ranks: Size) -> str:
    """Ranks as users write them: 32, or 32x48."""
    return "x".join(map(str, ranks))


def shape_text(geometry: ConvGeometry, *, pads: bool = False) -> str:
    """Shape of a convolution in words; what is 1 or 0 is not named.

    Args:
        geometry: the convolution.
        pads: also name the pads, which change neither its weights nor how it splits.
    """
    parts = [f"{geometry.c_in}->{geometry.c_out} {geometry.semantics.window(geometry)}"]
    if max(geometry.stride) > 1:
        parts.append(f"stride {_axes(geometry.stride)}")
    if max(geometry.dilation) > 1:
        parts.append(f"dilation {_axes(geometry.dilation)}")
    if geometry.groups > 1:
        parts.append(f"groups {geometry.groups}")
    if pads and any(map(any, geometry.pad)):
        of_axes = [str(before) if before == after else f"{before}+{after}" for before, after in geometry.pad]
        parts.append("pad " + (of_axes[0] if len(set(of_axes)) == 1 else "x".join(of_axes)))
    if pads and any(geometry.output_padding):
        parts.append(f"output padding {_axes(geometry.output_padding)}")
    return ", ".join(parts)


def _axes(sizes: Size) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else ranks_text(sizes)


def count_text(number: int) -> str:
    """A count with three significant digits and a suffix: 3.47G."""
    value, suffixes = float(number), ["", "k", "M", "G", "T"]
    if value < 1000:
        return str(number)
    # 999.5 and more would be written as 1.00e+03.
    while value >= 999.5 and suffixes[1:]:
        value /= 1000
        suffixes.pop(0)
    return f"{value:#.3g}".removesuffix(".") + suffixes[0]


def error_text(error: float | None) -> str:
    """A relative error with two digits or more; "?" where it is unknown."""
    if error is None:
        return "?"
    return f"{error:.4f}" if error >= 0.01 or not error else f"{error:.1e}"


def aligned(rows: Sequence[Sequence[str]], right: Collection[int]) -> list[str]:
    """Rows of cells as lines; columns in `right` are aligned to the right, the others to the left.

    A row may be shorter than the first; its last cell then runs on without widening its column.
    """
    rows = [tuple(map(visible, row)) for row in rows]  # a name with a line end would break the table
    columns = len(rows[0])
    widths = [
        max(len(row[i]) for row in rows if i < len(row) - 1 or (len(row) == columns and i < len(row)))
        for i in range(columns)
    ]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in rows
    ]
