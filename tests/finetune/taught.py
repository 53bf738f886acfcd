"""A training whose labels are what the net gives already: all of the loss in int8 is that of rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from twofold.caffe_torch import CaffeNet
from twofold.formats.caffe.caffemodel import NewLayer, create_weights
from twofold.formats.caffe.net import read_net
from twofold.formats.caffe.prototxt import parse

SIDE, BATCH = 8, 16


def conv(name: str, bottom: str, more: str = "") -> str:
    """A convolution, and what follows in place."""
    return f"""layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"
  convolution_param {{ num_output: 12 kernel_size: 3 pad: 1 weight_filler {{ type: "msra" }} }} }}
{more.replace("NAME", name)}layer {{ name: "{name}/relu" type: "ReLU" bottom: "{name}" top: "{name}" }}
"""


NORM = """layer { name: "NAME/bn" type: "BatchNorm" bottom: "NAME" top: "NAME"
  batch_norm_param { use_global_stats: true } }
layer { name: "NAME/scale" type: "Scale" bottom: "NAME" top: "NAME" scale_param { bias_term: true } }
"""
DATA = f"""layer {{ name: "data" type: "MemoryData" top: "data" top: "wanted"
  memory_data_param {{ batch_size: {BATCH} channels: 3 height: {SIDE} width: {SIDE} }} }}
"""
END = """layer { name: "pool" type: "Pooling" bottom: "c4" top: "pool"
  pooling_param { pool: AVE kernel_size: 4 stride: 4 } }
layer { name: "score" type: "InnerProduct" bottom: "pool" top: "score"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "score" bottom: "wanted" top: "loss" }
"""
SOLVER = """net: "net.prototxt" type: "Adam" base_lr: 0.0003 lr_policy: "poly" power: 1 momentum: 0.9
max_iter: 12 snapshot: 6 snapshot_prefix: "snap/taught" random_seed: 1
display: 3 test_iter: 4 test_interval: 6
"""

Rows = dict[str, np.ndarray]


def body(norm: str = "") -> str:
    """Four convolutions and what scores."""
    return "".join(conv(f"c{i}", f"c{i - 1}" if i > 1 else "data", norm) for i in range(1, 5)) + END


def write_taught(folder: Path, net: str, solver: str = SOLVER, seed: int = 3) -> tuple[Rows, Rows]:
    """Write solver, net and `net.caffemodel`; gives rows for training and testing."""
    (folder / "net.prototxt").write_text(f'name: "taught"\n{net}')
    (folder / "solver.prototxt").write_text(solver)
    definition = read_net(parse((folder / "net.prototxt").read_bytes(), "net.prototxt"), "TEST")
    rng = np.random.default_rng(seed)
    made = CaffeNet(definition, shapes={"data": (BATCH, 3, SIDE, SIDE), "wanted": (BATCH, 4)}, seed=seed)
    for name, blobs in made.arrays().items():
        if name.endswith("/bn"):  # a mean, a variance, and what both are divided by
            mean, variance = rng.normal(size=blobs[0].shape), rng.uniform(0.5, 2, blobs[1].shape)
            made.load_arrays({name: [mean * 4, variance * 4, np.array([4.0])]})
        elif name.endswith("/scale"):  # of either sign
            made.load_arrays({name: [rng.uniform(0.5, 2, 12) * rng.choice([-1, 1], 12), blobs[1] + 0.1]})
    arrays = made.arrays()
    layers = [NewLayer(s.name, s.type, arrays.get(s.name, ()), s.bottoms, s.tops) for s in definition.layers]
    with (folder / "net.caffemodel").open("wb") as stream:
        create_weights(layers, "taught").write(stream)

    def rows(count: int) -> Rows:
        data = rng.uniform(-1, 1, (count, 3, SIDE, SIDE)).astype(np.float32)
        with torch.no_grad():
            score = made.execute({"data": torch.from_numpy(data)}, keep=["score"])["score"]
        return {"data": data, "wanted": score.numpy()}

    return rows(256), rows(64)
