"""First values of parameters: the distributions that Caffe's fillers promise."""

from __future__ import annotations

import math

import pytest
import torch
from tests.caffe_torch.nets import definition

from twofold.caffe_torch.fillers import FILLERS, fill
from twofold.errors import ModelError
from twofold.formats.caffe.fields import Fields

SHAPE = (40, 30, 5, 5)  # fan in 750, fan out 1000
COUNT = math.prod(SHAPE)


def values(text: str, shape=SHAPE, seed=0) -> torch.Tensor:
    layer = definition(
        f'layer {{ name: "p" type: "PReLU" top: "p" prelu_param {{ filler {{ {text} }} }} }}'
    ).layers[0]
    filler = layer.fields.message("prelu_param").message("filler")
    return fill(shape, filler, torch.Generator().manual_seed(seed))


# Over COUNT = 30000 draws a mean is off by more than 5 standard errors, 5 / sqrt(30000) = 0.03 of the
# deviation, about once in a million seeds, and a deviation by less than that.
NOISE = 5 / math.sqrt(COUNT)


@pytest.mark.parametrize(
    ("text", "mean", "std"),
    [
        ('type: "gaussian" mean: 1 std: 0.5', 1.0, 0.5),
        ('type: "uniform" min: -1 max: 3', 1.0, 4 / math.sqrt(12)),
        ('type: "xavier"', 0.0, math.sqrt(1 / 750)),
        ('type: "xavier" variance_norm: FAN_OUT', 0.0, math.sqrt(1 / 1000)),
        ('type: "xavier" variance_norm: AVERAGE', 0.0, math.sqrt(1 / 875)),
        ('type: "msra"', 0.0, math.sqrt(2 / 750)),
        ('type: "msra" variance_norm: FAN_OUT', 0.0, math.sqrt(2 / 1000)),
    ],
)
def test_mean_and_deviation(text, mean, std):
    drawn = values(text)
    assert drawn.shape == SHAPE
    assert float(drawn.mean()) == pytest.approx(mean, abs=NOISE * std)
    assert float(drawn.std()) == pytest.approx(std, rel=NOISE)


def test_bounds():
    drawn = values('type: "xavier"').abs()
    bound = math.sqrt(3 / 750)
    assert 0.99 * bound < float(drawn.max()) <= bound


def test_constant_is_the_default():
    assert (values("value: 3") == 3).all()
    assert (values("") == 0).all()


def test_sparse_keeps_a_share():
    drawn = values('type: "gaussian" sparse: 10')
    assert float((drawn != 0).float().mean()) == pytest.approx(10 / SHAPE[0], rel=0.05)


def test_rows_of_positive_unitball_sum_to_one():
    drawn = values('type: "positive_unitball"')
    assert (drawn >= 0).all()
    assert torch.allclose(drawn.flatten(1).sum(1), torch.ones(SHAPE[0]))


def test_bilinear_upsamples_a_constant_to_itself():
    # Stride 2, kernel 4, pad 1: inside, every output pixel sums taps to 1.
    kernel = values('type: "bilinear"', (1, 1, 4, 4))
    up = torch.nn.functional.conv_transpose2d(torch.ones(1, 1, 6, 6), kernel, stride=2, padding=1)
    assert torch.allclose(up[..., 1:-1, 1:-1], torch.ones(1, 1, 10, 10))
    with pytest.raises(ModelError, match="square 2-D kernel"):
        values('type: "bilinear"', (1, 1, 4, 3))


def test_an_unknown_filler_names_the_known():
    with pytest.raises(ModelError, match="no filler 'glorot'; known: .*xavier"):  # noqa: RUF043
        fill((1,), Fields("FillerParameter", {"type": ["glorot"]}), torch.Generator())
    assert "xavier" in FILLERS
