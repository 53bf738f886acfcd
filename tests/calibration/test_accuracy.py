"""Top-1 accuracy over folders of labelled images."""

from __future__ import annotations

import numpy as np
import pytest

from twofold.calibration.accuracy import top1
from twofold.calibration.images import ImageOptions
from twofold.errors import InputError, OptionError

Image = pytest.importorskip("PIL.Image")
SHAPES = {"data": (3, 8, 8)}


def folder(tmp_path, names, count=3):
    for value, name in enumerate(names):
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.fromarray(np.full((8, 8, 3), 10 * value, np.uint8)).save(tmp_path / name / f"{index}.png")
    return tmp_path


def by_brightness(batch):
    """A network that tells classes by how bright an image is."""
    levels = batch["data"].mean(axis=(1, 2, 3)) / 10
    return {"score": -np.abs(levels[:, None] - np.arange(5)).astype(np.float32)[:, :, None, None]}


def test_subfolders_are_classes_in_order(tmp_path):
    measure = top1(folder(tmp_path, ["ant", "bee", "cat"]), SHAPES, ImageOptions())
    assert measure(by_brightness) == 1
    assert measure(lambda batch: {"score": np.eye(3, dtype="f4")[np.zeros(len(batch["data"]), int)]}) == 1 / 3


def test_numbers_are_the_classes_themselves(tmp_path):
    measure = top1(folder(tmp_path, ["0", "02"]), SHAPES, ImageOptions())
    assert measure(by_brightness) == 0.5  # the second has the brightness of class 1


def test_what_is_refused(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        top1(tmp_path / "none", SHAPES, ImageOptions())
    with pytest.raises(InputError, match="no subfolders"):
        top1(tmp_path, SHAPES, ImageOptions())
    measure = top1(folder(tmp_path, ["0", "9"]), SHAPES, ImageOptions())
    with pytest.raises(InputError, match="class 9, but the network tells 5 apart"):
        measure(by_brightness)
    with pytest.raises(OptionError, match="one output with a score per class"):
        measure(lambda batch: {"map": np.zeros((len(batch["data"]), 4, 8, 8), np.float32)})
