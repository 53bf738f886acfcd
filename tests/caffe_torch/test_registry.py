"""Registering layer types."""

from __future__ import annotations

import pytest
import torch
from tests.caffe_torch.nets import layer_text, net
from torch import Tensor

from twofold.caffe_torch import Layer, Setup, constant, known_types, register, stateless, unregister
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


def test_a_layer_without_parameters_and_case_does_not_matter(free):
    @stateless("Twice")
    def twice(spec):
        return lambda x: (x + x, x)

    own = net(layer_text("TWICE", (2,), tops=2))
    assert own(torch.ones(2))["y0"].tolist() == [2.0, 2.0]
    assert own.layers["y"].spec.type == "Twice"


@pytest.mark.parametrize("kind", ["ReLU", "relu"])
def test_a_type_is_registered_once(kind):
    with pytest.raises(ValueError, match="registered already"):
        register(kind)(Layer)
