"""Outputs whose size depends on the values, compared as what they are: lists of boxes, or of rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .runner import Outputs

Rows = NDArray[np.float32]
#: Boxes of the original with at least this score are looked for.
SCORE = 0.3
#: Overlap (intersection over union) from which two boxes are one.
OVERLAP = 0.7
#: Columns of SSD's list: image, class, score, xmin, ymin, xmax, ymax.
BOX_COLUMNS = 7
#: Columns of a list of boxes in one array: corners, score, class; with the image before them.
_CORNERS, _ROW, _IMAGE_ROW = 4, 6, 7


def box_lists(outputs: Outputs, varying: Collection[str]) -> dict[str, Rows]:
    """Lists of boxes of one image among outputs, by the name of the output that has the corners.

    A list is one output of rows (corners, score, class), or (image, corners, class, score); or several of one
    length: corners (n, 4), scores and classes (n,) each. Those of a list of dicts belong together by name.

    Returns:
        (n, 7) each: image, class, score, xmin, ymin, xmax, ymax. Without scores 1, without classes 0.
    """
    found: dict[str, Rows] = {}
    groups: dict[str, dict[str, Rows]] = {}
    for name in varying:
        if name in outputs:
            groups.setdefault(name.rpartition(".")[0], {})[name] = outputs[name]
    for group in groups.values():
        for name, value in group.items():
            if value.ndim != 2:
                continue
            if value.shape[1] == _CORNERS:
                found[name] = _joined(value, group)
            elif value.shape[1] == _ROW:
                found[name] = np.column_stack([np.zeros(len(value)), value[:, 5], value[:, 4], value[:, :4]])
            elif value.shape[1] == _IMAGE_ROW:
                found[name] = np.column_stack([value[:, 0], value[:, 5], value[:, 6], value[:, 1:5]])
    return found


def _joined(corners: Rows, group: Mapping[str, Rows]) -> Rows:
    """Corners with the scores and classes beside them."""
    beside = {name: one for name, one in group.items() if one.ndim == 1 and len(one) == len(corners)}
    classes = [name for name, one in beside.items() if _is_class(name, one)]
    scores = [name for name in beside if name not in classes]
    label = beside[classes[0]] if classes else np.zeros(len(corners))
    score = beside[scores[0]] if scores else np.ones(len(corners))
    return np.column_stack([np.zeros(len(corners)), label, score, corners]).astype(np.float32)


def _is_class(name: str, values: Rows) -> bool:
    told = any(word in name.lower() for word in ("label", "class"))
    return told or ("score" not in name.lower() and bool(np.array_equal(values, np.round(values))))


def equal_rows(first: NDArray[Any], second: NDArray[Any]) -> tuple[int, int, int]:
    """Rows of the first; those that the second has, too; rows of the second that the first has not."""
    left, right = ([row.tobytes() for row in np.ascontiguousarray(one + 0.0)] for one in (first, second))
    again = len(set(left) & set(right))
    return len(set(left)), again, len(set(right)) - again


def are_boxes(value: Rows) -> bool:
    """Whether an output is SSD's list: (1, 1, n, 7)."""
    return value.ndim == 4 and value.shape[:2] == (1, 1) and value.shape[3] == BOX_COLUMNS


def matched(first: Rows, second: Rows) -> tuple[int, int, int]:
    """Boxes of the first; those found again; boxes of the second that match none."""
    first, second = (rows[rows[:, 2] >= SCORE] for rows in (first, second))
    lost, new = unmatched(first, second)
    return len(first), len(first) - len(lost), len(new)


def unmatched(first: Rows, second: Rows) -> tuple[list[int], list[int]]:
    """Places of the boxes of either that the other has not.

    Args:
        first: (N, 7): image, class, score, xmin, ymin, xmax, ymax.
        second: likewise.
    """
    free, lost = list(range(len(second))), list[int]()
    for place in np.argsort(-first[:, 2]):
        row = first[place]
        overlaps = [(overlap(row[3:], second[i, 3:]), i) for i in free if (second[i, :2] == row[:2]).all()]
        best, index = max(overlaps, default=(0.0, -1))
        if best > OVERLAP:
            free.remove(index)
        else:
            lost.append(int(place))
    return sorted(lost), free


def overlap(one: Rows, other: Rows) -> float:
    """Intersection over union of two boxes (xmin, ymin, xmax, ymax)."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    areas = [float(np.prod(np.maximum(box[2:] - box[:2], 0))) for box in (one, other)]
    union = sum(areas) - shared
    return shared / union if union > 0 else 0.0
