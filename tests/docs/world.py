"""The folder in which the examples of the pages and docstrings run: models, images, labels; all small."""

from __future__ import annotations

from pathlib import Path

import lmdb
import numpy as np
from PIL import Image

import twofold
from twofold.finetune import TrainOptions, train
from twofold.finetune.data import Datum

SIDE, CLASSES = 16, 4
INPUT = f"""layer {{ name: "data" type: "Input" top: "data"
  input_param {{ shape {{ dim: 1 dim: 3 dim: {SIDE} dim: {SIDE} }} }} }}
"""
DATA = """layer { name: "data" type: "Data" top: "data" top: "label"
  transform_param { mean_value: 104 mean_value: 117 mean_value: 123 }
  data_param { source: "train_lmdb" batch_size: 4 backend: LMDB } }
"""
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }\n'
PROB = 'layer { name: "prob" type: "Softmax" bottom: "score" top: "prob" }\n'
SOLVER = """net: "train_val.prototxt"
base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 max_iter: 2 snapshot_prefix: "net" random_seed: 1
"""


def _conv(name: str, bottom: str, outputs: int) -> str:
    return f"""layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"
  convolution_param {{ num_output: {outputs} kernel_size: 3 pad: 1 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "relu_{name}" type: "ReLU" bottom: "{name}" top: "{name}" }}
"""


BODY = f"""{_conv("conv1", "data", 32)}{_conv("conv2", "conv1", 48)}{_conv("conv3", "conv2", 64)}
layer {{ name: "pool" type: "Pooling" bottom: "conv3" top: "pool"
  pooling_param {{ pool: AVE global_pooling: true }} }}
layer {{ name: "score" type: "InnerProduct" bottom: "pool" top: "score"
  inner_product_param {{ num_output: {CLASSES} weight_filler {{ type: "xavier" }} }} }}
"""


def image(seed: int) -> np.ndarray:
    """An image (SIDE, SIDE, 3), uint8: rectangles of random colours."""
    rng = np.random.default_rng(seed)
    found = np.full((SIDE, SIDE, 3), rng.integers(256, size=3), np.uint8)
    for _ in range(12):
        top, left = rng.integers(SIDE, size=2)
        height, width = rng.integers(3, SIDE, size=2)
        found[top : top + height, left : left + width] = rng.integers(256, size=3)
    return found


def link_fashion(folder: Path, count: int = 32) -> None:
    """Give a folder the files of `examples/fashion`, with fewer inputs to calibrate on."""
    folder.mkdir(parents=True)
    for path in (Path(__file__).parents[2] / "examples" / "fashion").iterdir():
        if path.stem in ("calibration", "other"):
            with np.load(path) as file:
                np.savez(folder / path.name, data=file["data"][:count])
        else:
            (folder / path.name).symlink_to(path)


def write_world(folder: Path) -> None:
    """Write it."""
    link_fashion(folder / "examples" / "fashion")
    images = [image(seed) for seed in range(12)]
    for name, some in (("photos", images[:8]), ("other-photos", images[8:])):
        (folder / name).mkdir()
        for index, one in enumerate(some):
            Image.fromarray(one).save(folder / name / f"{index}.png")
    for index, one in enumerate(images):
        place = folder / "labelled" / f"class{index % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(place / f"{index}.png")
    with lmdb.open(str(folder / "train_lmdb"), map_size=1 << 22) as base, base.begin(write=True) as writing:
        for index, one in enumerate(images):
            datum = Datum.of(np.ascontiguousarray(one.transpose(2, 0, 1)), index % CLASSES)
            writing.put(b"%04d" % index, datum.serialize())
    inputs = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5
    np.save(folder / "inputs.npy", inputs)
    (folder / "net.prototxt").write_text(f'name: "net"\n{INPUT}{BODY}{PROB}')
    (folder / "train_val.prototxt").write_text(f'name: "net"\n{DATA}{BODY}{LOSS}')
    (folder / "solver.prototxt").write_text(SOLVER)
    outcome = train(folder / "solver.prototxt", (), TrainOptions(output=folder / "snapshots"))
    (weights,) = [path for path in outcome.files if path.suffix == ".caffemodel"]
    weights.rename(folder / "net.caffemodel")
    twofold.export(twofold.load(folder / "net.prototxt", folder / "net.caffemodel"), folder / "net.onnx")
