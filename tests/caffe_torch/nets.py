"""Small nets for tests."""

from __future__ import annotations

import torch

from twofold.caffe_torch import CaffeNet
from twofold.formats.caffe.net import NetDefinition, read_net
from twofold.formats.caffe.prototxt import parse

#: Two branches, ReLU in place on a blob that both read before and after it, an in-place BatchNorm.
BRANCHES = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "before" type: "Power" bottom: "conv" top: "before" power_param { scale: 2 } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "right/1x1" type: "Convolution" bottom: "conv" top: "right.1x1"
  convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "msra" } } }
layer { name: "sum" type: "Eltwise" bottom: "before" bottom: "right.1x1" top: "sum" }
layer { name: "v1.pool" type: "Pooling" bottom: "sum" top: "pool"
  pooling_param { pool: AVE global_pooling: true } }
layer { name: "side" type: "Sigmoid" bottom: "conv" top: "side" }
"""


def definition(text: str, phase: str = "TEST") -> NetDefinition:
    """A net definition of a text."""
    return read_net(parse(text.encode(), "net.prototxt"), phase)


def net(text: str, phase: str = "TEST", **options) -> CaffeNet:
    """A net of a text, with its fillers' values."""
    return CaffeNet(definition(text, phase), **options)


def inputs(of: CaffeNet, *shape: int) -> dict[str, torch.Tensor]:
    """Seeded normal values for the only input."""
    (name,) = of.inputs
    return {name: torch.randn(shape, generator=torch.Generator().manual_seed(1))}


def layer_text(kind: str, shape: tuple[int, ...], params: str = "", bottoms: int = 1, tops: int = 1) -> str:
    """A net of one layer `y`; all inputs `x0`, `x1`, ... have one shape."""
    dims = " ".join(f"dim: {n}" for n in shape)
    text = "".join(
        f'layer {{ name: "x{i}" type: "Input" top: "x{i}" input_param {{ shape {{ {dims} }} }} }}\n'
        for i in range(bottoms)
    )
    reads = " ".join(f'bottom: "x{i}"' for i in range(bottoms))
    gives = " ".join(f'top: "y{i}"' for i in range(tops))
    return text + f'layer {{ name: "y" type: "{kind}" {reads} {gives} {params} }}'
