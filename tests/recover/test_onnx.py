"""The original ONNX model teaches the decomposed one; what ONNX Runtime gives decides."""

from __future__ import annotations

import numpy as np
import pytest
from tests.test_calibrated import samples

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("torch")

from onnx import helper  # noqa: E402
from tests.formats.onnx import small  # noqa: E402

import twofold  # noqa: E402
from twofold.calibration.source import CalibrationSource  # noqa: E402
from twofold.cli import main  # noqa: E402
from twofold.errors import ModelError  # noqa: E402
from twofold.recover import RecoverOptions, recover  # noqa: E402

make = helper.make_node
RANKS = {"one": 8, "two": 12}
OPTIONS = RecoverOptions(steps=60, rate=1e-2, batch=8)


def net(count="n", dtype=np.float32, strange=False, **more):
    """`one`, Relu, BatchNormalization, `two`, whose weight a node gives, the same once more, Sigmoid."""
    nodes = [
        small.conv("one", "x", "a", "one.w", "one.b", pads=[1, 1, 1, 1]),
        make("Relu", ["a"], ["b"]),
        make("BatchNormalization", ["b", "scale", "shift", "mean", "var"], ["c"]),
        *([make("Hardmax", ["c"], ["h"], "strange"), make("Add", ["c", "h"], ["k"])] if strange else ()),
        make(
            "Constant", [], ["two.w"], value=small.tensor("", small.weight(64, 64, 3, 3, seed=2, dtype=dtype))
        ),
        small.conv("two", "k" if strange else "c", "d", "two.w", "two.b", pads=[1, 1, 1, 1]),
        make("Relu", ["d"], ["e"]),
        small.conv("three", "e", "f", "two.w", "three.b", pads=[1, 1, 1, 1]),
        small.conv("out", "f", "logits", "out.w"),
        make("Sigmoid", ["logits"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    tensors = {
        "one.w": small.weight(64, 16, 3, 3),
        "one.b": small.weight(64, 1, seed=1).ravel(),
        "two.b": small.weight(64, 1, seed=3).ravel(),
        "three.b": small.weight(64, 1, seed=7).ravel(),
        "out.w": small.weight(5, 64, 1, 1, seed=4),
        "scale": rng.uniform(0.5, 2, 64),
        "shift": rng.normal(size=64),
        "mean": rng.normal(size=64),
        "var": rng.uniform(0.5, 2, 64),
    }
    tensors = {name: array.astype(dtype) for name, array in tensors.items()}
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return small.model(
        nodes, tensors, {"x": (count, 16, 12, 12)}, {"y": (count, 5, 12, 12)}, kind=kind, **more
    )


def smaller_of(original):
    return twofold.decompose(
        original, macs=1.0, no_data=True, schemes="spatial", multiple=4, only=tuple(RANKS), ranks=RANKS
    )


def decomposed(folder, made, beside=False):
    """A model, and a coarse decomposition of it as it was loaded from its file."""
    path = folder / "net.onnx"
    if beside:
        onnx.save(made, path, save_as_external_data=True, location="net.data", size_threshold=1000)
    else:
        small.write(path, made)
    original = twofold.load(path)
    result = smaller_of(original)
    assert set(result.model.replaced) == {"one", "two"}
    result.save(folder / "out")
    return original, twofold.load(folder / "out" / "net.onnx")


def logits_error(folder, path):
    """Relative error before the sigmoid, on inputs that nobody was trained on."""
    x = samples(6, seed=11)
    out, ref = (
        np.concatenate([small.run(of, x=one[None])[0] for one in x]) for of in (path, folder / "net.onnx")
    )
    out, ref = (np.log(one / (1 - one)) for one in (out, ref))
    return np.linalg.norm(out - ref) / np.linalg.norm(ref - ref.mean())


def constants(path):
    """What initializers and Constant nodes of a file hold."""
    graph = onnx.load(path).graph
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    return found


@pytest.mark.parametrize(("count", "beside"), [("n", True), (1, False)], ids=["data beside", "one file"])
def test_the_error_falls_and_only_the_factors_change(tmp_path, count, beside):
    original, smaller = decomposed(tmp_path, net(count), beside)
    source = CalibrationSource(data=samples(64, seed=3))
    found = recover(original, smaller, source, OPTIONS)
    assert found.after < 0.6 * found.before
    files = found.model.save_to(tmp_path / "better", force=False, extra={}, check=lambda written: None)
    assert [path.name for path in files] == ["net.onnx", *(["net.data"] if beside else [])]
    was, new = tmp_path / "out" / "net.onnx", files[0]
    assert logits_error(tmp_path, new) < 0.7 * logits_error(tmp_path, was)
    before, after = constants(was), constants(new)
    assert before.keys() == after.keys()
    trained = {name for name in before if not np.array_equal(before[name], after[name])}
    factors = {f"{name}.w_{i}" for name in ("one", "two") for i in (0, 1)}
    assert trained == factors | {"one.b", "two.b", "three.b"}
    # Nothing else of the file differs.
    graphs = [onnx.load(path).graph for path in (was, new)]
    for one in graphs:
        del one.initializer[:]
        for node in one.node:
            if node.op_type == "Constant":
                del node.attribute[:]
    assert graphs[0] == graphs[1]


def test_a_result_that_was_not_written_yet(tmp_path):
    original, smaller = decomposed(tmp_path, net(), beside=True)
    in_memory = smaller_of(original).model
    options, source = RecoverOptions(steps=6, batch=8), CalibrationSource(data=samples(16))
    for number, model in enumerate((smaller, in_memory)):
        recover(original, model, source, options).model.save(tmp_path / str(number) / "net.onnx")
    for name in ("net.onnx", "net.data"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()


def test_what_does_not_help_is_not_kept(tmp_path):
    original, smaller = decomposed(tmp_path, net())
    wild = RecoverOptions(steps=8, rate=10.0, batch=4)
    found = recover(original, smaller, CalibrationSource(data=samples(16)), wild)
    assert found.after == found.before
    found.model.save(tmp_path / "same.onnx")
    before, after = constants(tmp_path / "out" / "net.onnx"), constants(tmp_path / "same.onnx")
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name])


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    decomposed(tmp_path, net())
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", samples(20))
    argv = [
        "recover",
        "net.onnx",
        "out",
        "-o",
        "better",
        "--data",
        "x.npy",
        "--steps",
        "4",
        "--device",
        "cpu",
    ]
    assert main(argv) == 0
    assert "before" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "better").iterdir()}
    assert written == {"net.onnx", "report.html", "report.json"}
    assert main(argv) == 1
    assert "exists already" in capsys.readouterr().err


def test_what_is_refused(tmp_path):
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
    source = CalibrationSource(data=samples(16))
    original, smaller = decomposed(tmp_path / "a", net())
    with pytest.raises(ModelError, match="nothing to train"):
        recover(original, original, source)
    with pytest.raises(ModelError, match=r"no gradients are known of Hardmax \(1 x, first 'strange'\)"):
        recover(*decomposed(tmp_path / "b", net(strange=True)), source)
    with pytest.raises(ModelError, match=r"'one\.w_0' is FLOAT16, too coarse to be trained"):
        recover(*decomposed(tmp_path / "c", net(dtype=np.float16)), source)
    made = net()
    made.graph.node[-2].output[0] = made.graph.node[-1].input[0] = "scores"
    with pytest.raises(ModelError, match=r"is not made of .*: the model computes no 'logits'"):
        recover(original, decomposed(tmp_path / "d", made)[1], source)
    assert smaller.convolutions()
