"""Readers of single layers, for tests."""

from __future__ import annotations

from pathlib import Path

from twofold.finetune.data import Locator, Reader, Request, open_reader
from twofold.formats.caffe.net import read_layers
from twofold.formats.caffe.prototxt import parse


def reader(folder: Path, layer: str, phase: str = "TRAIN", seed: int = 3, **fed) -> Reader:
    """The reader of a layer text; what it names is in the folder."""
    (spec,) = read_layers(parse(layer.encode(), "net.prototxt"))
    return open_reader(Request(spec, phase, Locator(folder), fed), seed)
