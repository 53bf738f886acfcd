"""The structure of a network, the same from every format that holds it."""

from __future__ import annotations

import pytest
from tests.small import write

import twofold
from twofold.backends import as_model


def edges(graph):
    names = [node.name for node in graph.nodes]
    return {(names[source], node.name) for node in graph.nodes for source in node.sources}


def node(graph, name):
    return next(one for one in graph.nodes if one.name == name)


def test_a_caffe_net_with_a_layer_in_place(tmp_path):
    graph = twofold.load(*write(tmp_path)).graph()
    assert graph.complete
    assert edges(graph) == {("data", "one"), ("one", "two"), ("two", "relu"), ("relu", "out")}
    assert node(graph, "one").shape == (1, 64, 12, 12)
    assert [one.layer for one in graph.nodes] == [None, "one", "two", None, "out"]


def test_an_exported_net_has_the_same_graph(tmp_path):
    pytest.importorskip("onnx")
    model = twofold.load(*write(tmp_path))
    twofold.export(model, tmp_path / "net.onnx")
    graph = twofold.load(tmp_path / "net.onnx").graph()
    convolutions = [one for one in graph.nodes if one.layer is not None]
    assert [one.shape[1:] for one in convolutions] == [(64, 12, 12), (64, 12, 12), (5, 12, 12)]
    assert [one.op_type for one in graph.nodes] == ["Input", "Conv", "Conv", "Relu", "Conv"]
    assert [one.sources for one in graph.nodes] == [(), (0,), (1,), (2,), (3,)]


def test_a_module_with_a_branch():
    torch = pytest.importorskip("torch")

    class Branch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(3, 8, 1)

        def forward(self, x):
            return torch.relu(self.left(x) + self.right(x))

    model = as_model(Branch(), torch.zeros(1, 3, 6, 6))
    graph = model.graph()
    assert edges(graph) == {("x", "left"), ("x", "right"), ("left", "add"), ("right", "add"), ("add", "relu")}
    assert node(graph, "left").layer == "left"
    assert node(graph, "add").shape == (1, 8, 6, 6)
    assert as_model(Branch()).graph().nodes[1].shape is None


def test_a_module_that_cannot_be_traced_is_shown_in_its_order():
    torch = pytest.importorskip("torch")

    class Depends(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = torch.nn.Conv2d(3, 3, 3), torch.nn.ReLU()

        def forward(self, x):
            return self.two(self.one(x)) if x.sum() > 0 else x

    graph = as_model(Depends(), torch.ones(1, 3, 6, 6)).graph()
    assert not graph.complete
    assert edges(graph) == {("input", "one"), ("one", "two")}
    assert node(graph, "one").layer == "one"
