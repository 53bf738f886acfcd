"""Tiny trainings on disk: a solver, its net, and databases of striped images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import lmdb
import numpy as np

from twofold.finetune.data import Datum

DATA = """
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { mean_value: 100 scale: 0.01 mirror: true crop_size: 8 }
  data_param { source: "train_lmdb" batch_size: 8 backend: LMDB } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { mean_value: 100 scale: 0.01 crop_size: 8 }
  data_param { source: "test_lmdb" batch_size: 5 backend: LMDB } }
"""
BODY = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "msra" } } }
BETWEEN
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" dropout_param { dropout_ratio: DROP } }
layer { name: "score" type: "InnerProduct" bottom: "conv" top: "score"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "score" bottom: "label" top: "accuracy"
  include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }
"""
SOLVER = """
net: "train_val.prototxt"
base_lr: 0.05 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.001
max_iter: 12 snapshot: 4 snapshot_prefix: "snap/tiny" display: 3 average_loss: 5
test_iter: 4 test_interval: 4 random_seed: 7
"""
BATCH_NORM = """
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" GLOBAL }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
"""


def striped(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 1, 10, 10), uint8, striped along one axis or the other, and which."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=count)
    stripes = np.indices((10, 10))[labels] // 2 % 2
    images = 60 + 120 * stripes + rng.integers(-50, 50, (count, 10, 10))
    return images.astype(np.uint8)[:, None], labels


def write_lmdb(path: Path, records: Iterable[bytes]) -> Path:
    """Write a database of serialized Datums, in this order."""
    with lmdb.open(str(path), map_size=1 << 24) as database, database.begin(write=True) as transaction:
        for key, record in enumerate(records):
            transaction.put(b"%08d" % key, record)
    return path


def write_images(path: Path, count: int, seed: int) -> Path:
    """Write a database of striped images."""
    images, labels = striped(count, seed)
    return write_lmdb(
        path, [Datum.of(image, int(label)).serialize() for image, label in zip(images, labels, strict=True)]
    )


def write_training(
    folder: Path, *, solver: str = SOLVER, data: str = DATA, between: str = "", drop: float = 0.3
) -> Path:
    """Write a training's files; gives the solver's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_images(folder / "train_lmdb", 30, 1)
    write_images(folder / "test_lmdb", 12, 2)
    body = BODY.replace("BETWEEN", between).replace("DROP", str(drop))
    (folder / "train_val.prototxt").write_text('name: "tiny"' + data + body)
    (folder / "solver.prototxt").write_text(solver)
    return folder / "solver.prototxt"
