"""Caffe to ONNX files: what is written, what is rejected."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from tests.small import HEAD, NET, TAIL, TRAIN_VAL, assert_close, conv, image, opencv, random_blobs, write

import twofold
from twofold import caffe_onnx
from twofold.caffe_onnx import Site
from twofold.caffe_torch import Layer, register, unregister
from twofold.cli import main
from twofold.errors import InputError, ModelError, OptionError, OutputError


def run(path: Path, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def exported(folder: Path, text: str = NET, **options) -> Path:
    target = folder / "net.onnx"
    twofold.export(twofold.load(*write(folder, text), **options), target)
    return target


def test_the_file_gives_what_opencv_gives_for_the_caffe_net(tmp_path):
    target = exported(tmp_path)
    assert_close(run(target, image())[0], opencv(*write(tmp_path), image())[0])


def test_the_batch_stays_open(tmp_path):
    target = exported(tmp_path)
    one, three = run(target, image()), run(target, np.repeat(image(), 3, axis=0))
    assert_close(three[0][2:], one[0])
    assert onnx.load(target).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_a_batch_that_the_net_fixes_stays_fixed(tmp_path):
    fixed = 'layer { name: "flat" type: "Reshape" bottom: "out" top: "flat" reshape_param { shape { dim: 1 dim: -1 dim: 12 dim: 12 } } }\n'  # noqa: E501
    head = HEAD.replace("dim: 1", "dim: 2", 1)
    files = write(tmp_path, head + conv("one", "data") + conv("two", "one") + TAIL + fixed + CLASSES)
    found = twofold.export(twofold.load(*files), tmp_path / "net.onnx")
    assert found.inputs == {"data": (2, 16, 12, 12)}
    assert any("the batch is fixed: data 2x16x12x12" in note for note in found.notes)


#: Its weight fits one number of channels only.
CLASSES = (
    'layer { name: "all" type: "Convolution" bottom: "flat" top: "all"\n'
    "  convolution_param { num_output: 2 kernel_size: 1 } }\n"
)


def test_nodes_have_the_names_of_layers_and_values_those_of_blobs(tmp_path):
    graph = onnx.load(exported(tmp_path)).graph
    assert [node.name for node in graph.node] == ["one", "two", "relu", "out"]
    assert [node.output[0] for node in graph.node] == ["one", "two/two", "two", "out"]
    assert {tensor.name for tensor in graph.initializer} >= {"one/weight", "one/bias"}


def test_equal_models_give_equal_bytes(tmp_path):
    first = exported(tmp_path).read_bytes()
    (tmp_path / "net.onnx").unlink()
    assert exported(tmp_path).read_bytes() == first


def test_a_decomposed_net_is_exported_as_it_is(tmp_path):
    result = twofold.decompose(twofold.load(*write(tmp_path)), macs=0.6, no_data=True)
    twofold.export(result.model, tmp_path / "small.onnx")
    names = {node.name for node in onnx.load(tmp_path / "small.onnx").graph.node}
    assert {name for stack in result.model.replaced.values() for name in stack} <= names


def test_layers_that_share_weights_share_them_in_the_file(tmp_path):
    shared = conv("one", "data").replace('top: "one"', 'top: "one" param { name: "w" } param { name: "b" }')
    twin = shared.replace('name: "one"', 'name: "twin"').replace('top: "one"', 'top: "twin"')
    both = 'layer { name: "sum" type: "Eltwise" bottom: "one" bottom: "twin" top: "sum" }\n'
    graph = onnx.load(exported(tmp_path, HEAD + shared + twin + both)).graph
    assert len(graph.initializer) == 2


def test_what_measures_is_left_out_and_what_it_was_given_is_the_output(tmp_path):
    loss = (
        'layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 1 } } }\n'
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "out" bottom: "label" top: "loss" }\n'
    )
    found = twofold.export(twofold.load(*write(tmp_path, NET + loss)), tmp_path / "net.onnx")
    assert found.outputs == ("out",)
    assert list(found.inputs) == ["data"]
    assert "'loss' (SoftmaxWithLoss) is left out" in found.notes[0]


def test_labels_that_nothing_exported_reads_are_no_input(tmp_path):
    loss = 'layer { name: "loss" type: "EuclideanLoss" bottom: "out" bottom: "label" top: "loss" }\n'
    shapes = {"data": (1, 16, 12, 12), "label": (1, 5, 12, 12)}
    model = twofold.load(*write(tmp_path, TRAIN_VAL + loss, random_blobs(NET)), inputs=shapes)
    assert list(twofold.export(model, tmp_path / "net.onnx").inputs) == ["data"]


def test_an_unknown_type_is_named_with_how_to_register_one(tmp_path):
    @register("Halve")
    class Halve(Layer):
        def forward(self, *bottoms):
            return bottoms[0] / 2

    files = write(tmp_path, NET + 'layer { name: "half" type: "Halve" bottom: "out" top: "half" }\n')
    try:
        with pytest.raises(ModelError, match=r"'half' has the type 'Halve'.*\n.*import Site, register"):
            twofold.export(twofold.load(*files), tmp_path / "net.onnx")

        @caffe_onnx.register("Halve")
        def halve(site: Site) -> str:
            return site.node("Mul", site.bottoms[0], site.constant("half", 0.5))

        twofold.export(twofold.load(*files), tmp_path / "net.onnx")
    finally:
        unregister("Halve")
        caffe_onnx.unregister("Halve")


def test_a_wrong_emitter_is_caught_and_nothing_is_written(tmp_path):
    @register("Halve")
    class Halve(Layer):
        def forward(self, *bottoms):
            return bottoms[0] / 2

    caffe_onnx.register("Halve")(lambda site: site.node("Identity", site.bottoms[0]))
    files = write(tmp_path, NET + 'layer { name: "half" type: "Halve" bottom: "out" top: "half" }\n')
    try:
        with pytest.raises(OutputError, match="gives other outputs"):
            twofold.export(twofold.load(*files), tmp_path / "net.onnx")
    finally:
        unregister("Halve")
        caffe_onnx.unregister("Halve")
    assert not (tmp_path / "net.onnx").exists()


def test_an_input_without_a_shape_is_asked_for(tmp_path):
    head = 'layer { name: "data" type: "Input" top: "data" }\n'
    files = write(tmp_path, NET)
    (tmp_path / "net.prototxt").write_text(NET.replace(HEAD, head))
    with pytest.raises(InputError, match=r"give it: inputs={'data': \(1, 3, 224, 224\)}"):
        twofold.export(twofold.load(*files), tmp_path / "net.onnx")
    found = twofold.export(twofold.load(*files, inputs={"data": (1, 16, 12, 12)}), tmp_path / "net.onnx")
    assert found.difference < 1e-5


def test_only_caffe_models_are_exported(tmp_path):
    target = exported(tmp_path)
    with pytest.raises(OptionError, match="ONNX already"):
        twofold.export(twofold.load(target), tmp_path / "other.onnx")


def test_command(tmp_path, capsys):
    files, target = write(tmp_path), tmp_path / "net.onnx"
    assert main(["export", *files, "-o", str(target), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["inputs"] == {"data": [None, 16, 12, 12]}
    assert told["outputs"] == ["out"]
    assert main(["export", *files, "-o", str(target)]) == 1
    assert "--force" in capsys.readouterr().err
    assert main(["export", *files, "-o", str(target), "--force"]) == 0
    assert "written" in capsys.readouterr().out
