"""What a comparison says, and what it takes the outputs for."""

from __future__ import annotations

import re

import numpy as np

from twofold.calibration.detections import matched
from twofold.compare import Comparison, OutputComparison, TimeComparison, _remarks, are_classes


def shown(**given):
    one = OutputComparison("a", 0.1, given.pop("agreement", None), given.pop("boxes", None))
    return str(Comparison((one,), 4, (10, 5), (10, 5), **given))


def test_columns_are_shown_where_an_output_is_of_that_kind():
    assert not re.search("same class|boxes", shown())
    assert "same class" in shown(agreement=0.5)
    assert "boxes" not in shown(agreement=0.5)
    assert "2 of 3, 1 more" in shown(boxes=(3, 2, 1))
    assert "score 0.3 or more" in shown(boxes=(3, 2, 1))
    assert "no boxes to find" in shown(boxes=(0, 0, 0))


def test_a_ratio_that_may_be_one_is_called_noise():
    times = [TimeComparison("it", (0.14, 0.09), 0.592, spread) for spread in (0.1, 0.5)]
    clear, noisy = (shown(times=(time,)) for time in times)
    assert "too noisy to tell" not in clear
    assert "0.592 ± 0.500, too noisy to tell" in noisy
    assert "median of after / before" in clear


def test_scores_are_told_from_places():
    rng = np.random.default_rng(0)
    places = rng.normal(size=(6, 4)).astype(np.float32)
    shares = np.exp(places) / np.exp(places).sum(axis=1, keepdims=True)
    assert are_classes(shares, alone=False)
    assert are_classes(shares[:, :, None, None], alone=False)
    assert not are_classes(places, alone=False)
    assert are_classes(places, alone=True)
    assert not are_classes(shares.T.reshape(2, 3, 4), alone=True)


def test_what_was_lost_is_said():
    def remarks(error, boxes):
        return list(_remarks([OutputComparison("a", error, None, boxes)]))

    assert remarks(0.1, None) == remarks(None, (2, 2, 0)) == []
    assert "no box in these inputs" in remarks(None, (0, 0, 0))[0]
    assert "1 of 1 boxes are lost" in remarks(None, (1, 0, 0))[0]
    assert "lost" in remarks(1.1, None)[0]


def test_boxes_are_one_where_they_overlap_by_more_than_seven_tenths():
    def boxes(*widths):
        return np.float32([[0, 1, 0.9, 0, 0, width, 1] for width in widths])

    assert matched(boxes(1), boxes(0.72)) == (1, 1, 0)
    assert matched(boxes(1), boxes(0.68)) == (1, 0, 1)
    # Each is found once, by the best; scores of the second do not matter here.
    assert matched(boxes(1, 0.8), boxes(0.98)) == (2, 1, 0)
    assert matched(boxes(1), boxes(1) * np.float32([1, 1, 0.3, 1, 1, 1, 1])) == (1, 0, 0)  # score below 0.3
