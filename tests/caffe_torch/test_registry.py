"""Registering layer types."""

from __future__ import annotations

import pytest
import torch
from tests.caffe_torch.nets import layer_text, net
from torch import Tensor

from twofold.caffe_torch import Layer, Setup, constant, known_types, register, register_stateless, unregister
from twofold.errors import ModelError, OptionError
from twofold.formats.caffe.shapes import RULES


@pytest.fixture
def free():
    yield
    unregister("Twice")


def test_every_type_with_a_shape_rule_can_be_run():
    assert set(RULES) <= set(known_types())


def test_a_layer_with_parameters(free):
    @register("Twice")
    class Twice(Layer):
        factor: Tensor

        def __init__(self, setup: Setup) -> None:
            super().__init__(setup)
            self.add_blob(setup, "factor", (), constant(2))

        def forward(self, *bottoms: Tensor) -> Tensor:
            return bottoms[0] * self.factor

    own = net(layer_text("Twice", (2,)))
    assert own(torch.ones(2))["y0"].tolist() == [2.0, 2.0]
    assert list(own.state_dict()) == ["layers.y.factor"]


def test_a_layer_without_parameters(free):
    @register_stateless("Twice")
    def twice(spec):
        return lambda x: (x + x, x)

    own = net(layer_text("Twice", (2,), tops=2))
    assert own(torch.ones(2))["y0"].tolist() == [2.0, 2.0]


def test_a_type_in_other_letters_is_another_type():
    # `Lstm` is a fork's layer with parameters of its own, and Caffe compares names of types as they are.
    with pytest.raises(ModelError, match="type 'TANH', which cannot be run"):
        net(layer_text("TANH", (2,)))(torch.ones(2))


def test_a_type_is_registered_once():
    with pytest.raises(OptionError, match="registered already"):
        register("ReLU")(Layer)
