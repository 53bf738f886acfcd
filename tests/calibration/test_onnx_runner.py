"""The runner for ONNX models: what it shows, swaps and protects, against whole models run by ONNX Runtime."""

from __future__ import annotations

import re

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from tests.formats.onnx import small  # noqa: E402

import twofold  # noqa: E402
from twofold.calibration.runners import runner_for  # noqa: E402
from twofold.conv import ConvLayer, FactorConv, Factors  # noqa: E402
from twofold.errors import InputError, ModelError, OptionError  # noqa: E402
from twofold.lowrank import LayerFit  # noqa: E402

make = helper.make_node


def net(count="n", **more):
    """`one`, Relu, BatchNormalization, `two` and its weight once more, `out`, Sigmoid."""
    nodes = [
        small.conv("one", "x", "a", "one.w", "one.b", pads=[1, 1, 1, 1]),
        make("Relu", ["a"], ["b"]),
        make("BatchNormalization", ["b", "scale", "shift", "mean", "var"], ["c"]),
        small.conv("two", "c", "d", "two.w", "two.b", pads=[1, 1, 1, 1]),
        make("Add", ["d", "c"], ["e"]),
        small.conv("three", "e", "f", "two.w", "three.b", pads=[1, 1, 1, 1]),
        make("Constant", [], ["out.w"], value=small.tensor("", small.weight(5, 64, 1, 1, seed=4))),
        make("Identity", ["out.w"], ["out.v"]),
        small.conv("out", "f", "logits", "out.v"),
        make("Sigmoid", ["logits"], ["g"]),
        make("Transpose", ["g"], ["y"], perm=[0, 2, 3, 1]),
        small.conv("aside", "x", "unread", "aside.w"),
    ]
    rng = np.random.default_rng(0)
    tensors = {
        "one.w": small.weight(64, 16, 3, 3),
        "one.b": small.weight(64, 1, seed=1).ravel(),
        "two.w": small.weight(64, 64, 3, 3, seed=2),
        "two.b": small.weight(64, 1, seed=3).ravel(),
        "three.b": small.weight(64, 1, seed=7).ravel(),
        "aside.w": small.weight(8, 16, 3, 3),
        "scale": rng.uniform(0.5, 2, 64).astype(np.float32),
        "shift": rng.normal(size=64).astype(np.float32),
        "mean": rng.normal(size=64).astype(np.float32),
        "var": rng.uniform(0.5, 2, 64).astype(np.float32),
    }
    return small.model(nodes, tensors, {"x": (count, 16, 12, 12)}, {"y": (count, 12, 12, 5)}, **more)


def load(tmp_path, made=None, **options):
    return twofold.load(small.write(tmp_path / "net.onnx", made or net()), **options)


def layers_of(model):
    return [layer for layer in model.convolutions() if isinstance(layer, ConvLayer)]


def batch(count=2, seed=0):
    return {"x": np.random.default_rng(seed).normal(size=(count, 16, 12, 12)).astype(np.float32)}


def values_of(tmp_path, x, *names, made=None):
    """Values inside a model, from the whole model run by ONNX Runtime."""
    exposed = made or net()
    for name in names:
        exposed.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    found = small.run(small.write(tmp_path / "exposed.onnx", exposed), **x)
    return found[-len(names) :]


def test_what_is_fed_protected_and_reached(tmp_path):
    model = load(tmp_path)
    runner = runner_for(model)
    assert runner.inputs == {"x": (16, 12, 12)}
    assert runner.outputs == ("logits",)
    assert runner.network_outputs == ("y",)
    assert [layer.name for layer in runner.reached(layers_of(model)[::-1])] == ["one", "two", "out"]
    assert runner_for(model, ("c",)).outputs == ("c",)
    assert [layer.name for layer in runner_for(model, ("c",)).reached(layers_of(model))] == ["one"]
    for wrong in ("nothing", "one.w", "x", "out.v"):
        with pytest.raises(OptionError, match=f"computes no '{wrong}' from its inputs; its outputs are y"):
            runner_for(model, (wrong,))


@pytest.mark.parametrize(
    ("exponent", "shift", "divisor", "protected"),
    [
        ("s", ("ReduceMax", "x"), "e", "x"),
        ("x", None, "e", "x"),
        ("s", ("ReduceMean", "x"), "e", "s"),  # shifted by something else: still what the exponential takes
        ("s", ("ReduceMax", "x"), "s", "y"),  # no softmax
    ],
)
def test_a_softmax_that_is_written_out_hides_no_errors(tmp_path, exponent, shift, divisor, protected):
    """As JAX writes it: exp(x - max x) / sum exp(x - max x), with a broadcast between."""
    nodes = [make("MatMul", ["in", "w"], ["x"])]
    if shift is not None:
        nodes += [make(shift[0], [shift[1]], ["m"], axes=[1], keepdims=1)]
        nodes += [make("Expand", ["m", "shape"], ["wide"]), make("Sub", ["x", "wide"], ["s"])]
    nodes += [
        make("Exp", [exponent], ["e"]),
        make("ReduceSum", [divisor, "one"], ["sum"], keepdims=1),
        make("Div", ["e", "sum"], ["y"]),
    ]
    tensors = {"w": small.weight(6, 4), "one": np.array([1]), "shape": np.array([1, 4])}
    runner = runner_for(load(tmp_path, small.model(nodes, tensors, {"in": ("n", 6)}, {"y": ("n", 4)})))
    assert runner.outputs == (protected,)
    assert runner.network_outputs == ("y",)


def test_watch_shows_what_every_use_gets(tmp_path):
    model = load(tmp_path)
    seen = list(runner_for(model).record_inputs(layers_of(model)[:3], batch()))
    assert [one.layer for one in seen] == ["one", "two", "two", "out"]
    for one, wanted in zip(seen, [batch()["x"], *values_of(tmp_path, batch(), "c", "e", "f")], strict=True):
        np.testing.assert_allclose(one.inputs, wanted, atol=1e-5)


def test_gradients_are_those_of_a_random_projection(tmp_path):
    pytest.importorskip("torch")
    model = load(tmp_path)
    runner, layers, x = runner_for(model), layers_of(model), batch(1)
    assert runner.differentiable
    seen = {}
    for one in runner.record_inputs(layers[:3], x, np.random.default_rng(3)):
        seen[one.layer] = seen.get(one.layer, 0) + one.gradients[0].sum(axis=(1, 2))
    out = runner.run(x)["logits"].astype(np.float64)
    v = np.random.default_rng(3).standard_normal(out.shape, np.float32) / np.linalg.norm(out - out.mean())
    step = 1e-3
    for layer in layers[:2]:  # of `two`, whose bias moves for both of its uses
        for channel in (0, 7, 63):
            values = []
            for sign in (-1, 1):
                bias = layer.bias.copy()
                bias[channel] += sign * step
                stack = Factors("spatial", (), (FactorConv(layer.geometry, layer.weight, bias),))
                values.append(float((runner.run(x, [(layer, stack)])["logits"] * v).sum()))
            numeric = (values[1] - values[0]) / (2 * step)
            assert seen[layer.name][channel] == pytest.approx(numeric, rel=3e-2, abs=5e-4)


@pytest.mark.parametrize("count", ["n", 1])
@pytest.mark.parametrize("schemes", [("spatial", "hw"), ("channel", ""), ("tucker2", "")])
def test_trials_are_runs_with_one_layer_changed(tmp_path, count, schemes):
    model = load(tmp_path, net(count))
    runner, layers, x = runner_for(model), layers_of(model)[:2], batch(3)
    fits = [LayerFit(layer).factorize(*schemes) for layer in layers]
    stacks = [
        (layer, [fit.factors(tuple(rank for _ in fit.max_ranks)) for rank in (3, 12)])
        for layer, fit in zip(layers, fits, strict=True)
    ]
    original = runner.run(x)["logits"]
    assert original.shape == (3, 5, 12, 12)
    found = list(runner.trials(stacks, x))
    assert [(name, index) for name, index, _ in found] == [("one", 0), ("one", 1), ("two", 0), ("two", 1)]
    for name, index, outputs in found:
        layer, tried = next(entry for entry in stacks if entry[0].name == name)
        expected = runner.run(x, [(layer, tried[index])])["logits"]
        np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-4, atol=1e-4)
        assert np.abs(expected - original).max() > 1e-2


def test_watch_sees_what_changed_layers_give(tmp_path):
    model = load(tmp_path)
    layers, x = layers_of(model), batch()
    stacks = [(layer, LayerFit(layer).factorize("spatial", "hw").factors((9,))) for layer in layers[:2]]
    *_, seen = runner_for(model).record_inputs(layers[:3], x, stacks=stacks)
    wanted = runner_for(model, ("f",)).run(x, stacks)["f"]
    np.testing.assert_allclose(seen.inputs, wanted, rtol=1e-4, atol=1e-4)
    assert np.abs(wanted - runner_for(model, ("f",)).run(x)["f"]).max() > 1e-2


@pytest.mark.parametrize("opset", [11, 14, 18])
def test_batch_statistics_are_those_of_the_batch(tmp_path, opset):
    """Versions before 14 say by their number of outputs that they train."""
    model = load(tmp_path, net(opset=opset))
    runner, x = runner_for(model), {"x": 3 * batch(8)["x"] + 1}
    with runner.batch_statistics():
        (seen,) = [one.inputs for one in runner.record_inputs(layers_of(model)[1:2], x)][:1]
        changed = runner.run(x)["logits"]
    scale, shift = (numpy_helper.to_array(net().graph.initializer[i]) for i in (6, 7))
    np.testing.assert_allclose(seen.mean(axis=(0, 2, 3)), shift, atol=1e-4)
    np.testing.assert_allclose(seen.std(axis=(0, 2, 3)), scale, rtol=1e-3)
    assert np.abs(changed - runner.run(x)["logits"]).max() > 1e-2


def test_data_beat_weights(tmp_path):
    """On inputs that were not used, in the file that was written."""
    rng = np.random.default_rng(9)
    mixing = rng.normal(size=(16, 16)) * 0.6 ** np.arange(16)
    data, holdout = (np.einsum("cd,ndhw->nchw", mixing, batch(32, s)["x"]).astype(np.float32) for s in (1, 2))
    model = load(tmp_path)
    (ref,) = values_of(tmp_path, {"x": holdout}, "logits")
    errors = {}
    for name, options in {"weights": {"no_data": True}, "data": {"data": data}}.items():
        result = twofold.decompose(model, macs=0.4, multiple=4, **options)
        path = result.save(tmp_path / name)[0]
        (out,) = values_of(tmp_path, {"x": holdout}, "logits", made=onnx.load(path))
        errors[name] = np.linalg.norm(out - ref) / np.linalg.norm(ref - ref.mean())
    assert errors["data"] < 0.7 * errors["weights"]
    assert result.plan.measured_error == pytest.approx(errors["data"], rel=0.2)


def test_sizes_that_are_free_are_taken_from_the_data(tmp_path):
    free = net()
    for value in (*free.graph.input, *free.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value == 12:
                dim.Clear()
    assert runner_for(load(tmp_path, free)).inputs == {"x": (16, None, None)}
    plan = twofold.decompose(
        load(tmp_path, free), data=batch(4)["x"], macs=0.5, multiple=4, schemes="spatial"
    ).plan
    assert plan.measured_error < 1
    given = load(tmp_path, free, inputs={"x": (1, 16, 9, 9)})
    assert runner_for(given).inputs == {"x": (16, 9, 9)}


def test_a_batch_of_several_gives_what_one_sample_at_a_time_gives(tmp_path):
    """10 samples at a time: the last 3 of 13 are filled up, and what is given for them is left out."""
    x = batch(13)
    fixed, free = (runner_for(load(tmp_path / str(count), net(count))) for count in (10, "n"))
    assert fixed.inputs == free.inputs == {"x": (16, 12, 12)}
    np.testing.assert_allclose(fixed.run(x)["logits"], free.run(x)["logits"], rtol=1e-5, atol=1e-5)
    model = load(tmp_path, net(10))
    plan = twofold.decompose(model, data=x["x"], macs=0.5, multiple=4, schemes="spatial").plan
    assert plan.measured_error < 1
    given = runner_for(load(tmp_path, net(10), inputs={"x": (4, 16, 9, 9)}))
    assert (given.batching.size, given.inputs) == (4, {"x": (16, 9, 9)})


@pytest.mark.parametrize(
    ("sizes", "given"),
    [
        ({"x": (1, 64), "state": (2, 1, 32)}, {}),
        ({"x": ("n", 64), "state": (2, "n", 32)}, {"x": (1, 64), "state": (2, 1, 32)}),
        ({"x": ("steps", 64), "state": (1, 1, 32)}, {}),
    ],
)
def test_the_layers_of_a_recurrent_state_are_no_samples(tmp_path, sizes, given):
    """As in speech nets: x is (batch, samples), the state (layers, batch, values)."""
    nodes = [
        make("Gemm", ["x", "one.w"], ["a"], transB=1),
        make("ReduceSum", ["state", "axis"], ["s"], keepdims=0),
        make("Add", ["a", "s"], ["y"]),
    ]
    tensors = {"one.w": small.weight(32, 64), "axis": np.array([0])}
    model = load(tmp_path, small.model(nodes, tensors, sizes, {"y": ("n", 32)}), inputs=given)
    (layer,) = model.convolutions()
    assert layer.macs == 32 * 64
    runner = runner_for(model)
    assert runner.inputs["x"] == (64,)
    state = runner.inputs["state"]
    batch = {name: np.ones((3, *shape), np.float32) for name, shape in runner.inputs.items()}
    assert state in ((2, 1, 32), (1, 32))
    assert runner.run(batch)["y"].shape == (3, 32)


@pytest.mark.parametrize("gradients", [False, True])
def test_sizes_written_into_the_graph_are_named_where_others_were_given(tmp_path, gradients):
    nodes = [
        small.conv("one", "x", "a", "one.w"),
        make("Reshape", ["a", "shape"], ["b"]),
        make("Gemm", ["b", "two.w"], ["y"], transB=1),
    ]
    tensors = {
        "one.w": small.weight(8, 4, 3, 3),
        "shape": np.array([4, -1]),
        "two.w": small.weight(5, 8 * 36, seed=1),
    }
    made = small.model(nodes, tensors, {"x": (4, 4, 8, 8)}, {"y": (4, 5)})
    batch = {"x": np.ones((3, 4, 8, 8), np.float32)}
    assert runner_for(load(tmp_path, made)).run(batch)["y"].shape == (3, 5)
    model = load(tmp_path, made, inputs={"x": (1, 4, 8, 8)})
    runner = runner_for(model)
    layers = runner.reached([layer for layer in model.convolutions() if isinstance(layer, ConvLayer)])

    def run():
        if gradients:
            list(runner.record_inputs(layers, batch, np.random.default_rng(0)))
        runner.run(batch)

    said = r"x is 4x4x8x8 in the file and was given as 1x4x8x8: .* Reshape.*leave that shape away"
    with pytest.raises(ModelError, match=said):
        run()


def test_an_input_without_a_batch_axis(tmp_path):
    """A scalar that scales the input: its value belongs to each sample."""
    made = net()
    made.graph.node[0].input[0] = "xs"
    made.graph.node.insert(0, make("Mul", ["x", "s"], ["xs"]))
    made.graph.input.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, ()))
    model, x = load(tmp_path, made), batch(3)
    assert model.convolutions()[0].input_sizes == ((12, 12),)
    runner = runner_for(model)
    assert dict(runner.inputs) == {"x": (16, 12, 12), "s": ()}
    scales = np.array([1, 2, 0.5], np.float32)
    expected = runner_for(load(tmp_path / "plain")).run({"x": x["x"] * scales[:, None, None, None]})
    found = runner.run({**x, "s": scales})
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=1e-4, atol=1e-4)
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    fixed = runner_for(load(tmp_path, made))
    with pytest.raises(InputError, match="must have the same values"):
        fixed.run({**x, "s": scales})


@pytest.mark.parametrize("ir", [3, 8])
def test_old_files_list_initializers_as_inputs(tmp_path, ir):
    made = net(opset=9, ir=ir)
    for stored in made.graph.initializer if ir == 3 else ():
        made.graph.input.append(helper.make_tensor_value_info(stored.name, stored.data_type, stored.dims))
    x = batch(4)
    model = load(tmp_path, made)
    result = twofold.decompose(model, data=x["x"], macs=0.5, multiple=4, schemes="spatial")
    assert result.model.replaced
    written = result.save(tmp_path / "out")[0]
    (expected,) = small.run(written, **x)
    found = 1 / (1 + np.exp(-runner_for(twofold.load(written)).run(x)["logits"]))
    np.testing.assert_allclose(found.transpose(0, 2, 3, 1), expected, atol=1e-5)


def test_operators_without_gradients_are_named(tmp_path):
    made = net()
    made.graph.node[1].CopyFrom(make("Hardmax", ["a"], ["b"]))
    model = load(tmp_path, made)
    runner = runner_for(model)
    assert not runner.differentiable
    plan = twofold.decompose(model, data=batch(4)["x"], macs=0.5, multiple=4, schemes="spatial").plan
    assert not plan.calibration["gradients"]
    assert any("no gradients are known of Hardmax" in note for note in plan.notes)


def test_half_precision(tmp_path):
    made = net()
    constants = [node.attribute[0].t for node in made.graph.node if node.op_type == "Constant"]
    for tensor in (*made.graph.initializer, *constants):
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    model = load(tmp_path, made)
    result = twofold.decompose(model, data=batch(4)["x"], macs=0.5, multiple=4, schemes="spatial")
    assert result.plan.measured_error < 1
    layers, x = layers_of(model), batch()
    stack = LayerFit(layers[0]).factorize("channel", "").factors((8,))
    runner = runner_for(model)
    ((_, _, tried),) = runner.trials([(layers[0], [stack])], x)
    np.testing.assert_allclose(tried["logits"], runner.run(x, [(layers[0], stack)])["logits"], atol=3e-2)


def test_the_command_line_from_end_to_end(tmp_path, monkeypatch, capsys):
    from twofold.cli import main

    monkeypatch.chdir(tmp_path)
    load(tmp_path)
    np.save("x.npy", batch(20)["x"])
    options = ["--macs", "0.5", "--data", "x.npy", "--multiple", "4"]
    assert main(["decompose", "net.onnx", "-o", "out", *options]) == 0
    assert re.search(r"measured on \d+ inputs that", capsys.readouterr().out)
    assert main(["compare", "net.onnx", "out", "--data", "x.npy"]) == 0
    printed = capsys.readouterr().out
    assert "logits" in printed
    assert "time in ONNX Runtime" in printed
    before = (tmp_path / "out" / "net.onnx").read_bytes()
    assert main(["apply", "out/plan.json", "net.onnx", "-o", "again"]) == 0
    assert (tmp_path / "again" / "net.onnx").read_bytes() == before
    capsys.readouterr()
    assert main(["decompose", "net.onnx", "-o", "new", "--images", ".", "--preset", "imagenet"]) == 1
    assert "no image of 1 or 3 channels" in capsys.readouterr().err
    assert main(["decompose", "net.onnx", "-o", "new", "--data", "x.npy", "--targets", "z"]) == 1
    assert "computes no 'z' from its inputs" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
