"""Training in int8 from the command and from Python: what it gains, writes, resumes, reports and refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.finetune.taught import BATCH, DATA, NORM, SIDE, SOLVER, Rows, body, write_taught
from tests.finetune.tiny import BATCH_NORM, write_training
from tests.processes import together

import twofold
from twofold.backends.exported import as_onnx
from twofold.calibration.inputs import Inputs, Provenance
from twofold.calibration.source import CalibrationSource
from twofold.cli import main
from twofold.errors import MissingExtraError, ModelError, OptionError, TwofoldError
from twofold.finetune import Outcome, TrainOptions, train
from twofold.formats.caffe.caffemodel import read_weights
from twofold.int8.qdq import prepare, write_int8

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("torchao")

SHAPES = {"data": (1, 3, SIDE, SIDE), "wanted": (1, 4)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(rows: tuple[Rows, Rows] = ({}, {}), weights: str = "net.caffemodel", **options) -> Outcome:
    given = TrainOptions(**{"qat": True, **options})
    train_data, test_data = rows
    return train(
        "solver.prototxt",
        weights,
        given,
        train_data=train_data,
        test_data=test_data,
        report=lambda line: None,
    )


def scores(path: Path | str, data: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["score"], {"data": data})[0]


def loss(path: Path | str, rows: Rows) -> float:
    """What EuclideanLoss gives, over all rows."""
    return float(((scores(path, rows["data"]) - rows["wanted"]) ** 2).sum() / 2 / len(rows["data"]))


def int8(outcome: Outcome) -> Path:
    (path,) = [path for path in outcome.files if path.name.endswith("_int8.onnx")]
    return path


def blobs(path: str | Path) -> dict[str, list[np.ndarray]]:
    return {layer.name: [blob.array() for blob in layer.blobs] for layer in read_weights(path).layers}


def test_the_int8_net_is_better_than_the_float_net_quantized():
    solver = SOLVER.replace("max_iter: 12", "max_iter: 200").replace("_interval: 6", "_interval: 200")
    fitted, holdout = write_taught(Path(), DATA + body(NORM), solver.replace("snapshot: 6", ""))
    outcome = run((fitted, holdout))
    model = twofold.load("net.prototxt", "net.caffemodel", inputs=SHAPES)
    # Each weight to the nearest step, as training rounds it.
    prepare(as_onnx(model), Path("plain.onnx"))
    inputs = Inputs({"data": fitted["data"]}, Provenance("arrays")).batched(1)
    write_int8(Path("plain.onnx"), Path("quantized.onnx"), inputs)
    before, after = loss("quantized.onnx", holdout), loss(int8(outcome), holdout)
    twofold.quantize(model, "to_outputs.onnx", CalibrationSource(data=fitted))
    # 0.41 and 0.54 when this was written: what is left is the rounding of values, which no weight undoes.
    assert after < 0.8 * before
    assert after < loss("to_outputs.onnx", holdout)
    # The tests of the training say the same; at its beginning, of the net before it.
    first, last = [test for test in outcome.tests if test.int8]
    assert first.outputs["loss"][0] == pytest.approx(before, rel=0.1)
    assert last.outputs["loss"][0] == pytest.approx(after, rel=1e-4)
    # Rounded are the same values, and the weights of the same layers.
    ours, theirs = (places(path) for path in (int8(outcome), "quantized.onnx"))
    assert ours == theirs


def places(path: Path | str) -> tuple[set[str], int]:
    """The values that are rounded, and the number of layers with weights in int8."""
    graph = onnx.load(path).graph
    rounded = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    arrays = [onnx.numpy_helper.to_array(one) for one in graph.initializer]
    return rounded, sum(one.dtype == np.int8 and one.ndim > 1 for one in arrays)


def test_what_is_tested_in_int8_is_what_the_file_gives():
    write_training(Path(), between=BATCH_NORM.replace("GLOBAL", ""))
    outcome = run(weights=())
    plain, rounded = ([test for test in outcome.tests if test.int8 == kind] for kind in (False, True))
    assert [test.iteration for test in plain] == [test.iteration for test in rounded] == [0, 4, 8, 12]
    assert plain[-1].outputs.keys() == rounded[-1].outputs.keys() == {"accuracy", "loss"}
    assert plain[-1].outputs["loss"] != rounded[-1].outputs["loss"]
    # Batches of 5 of 12 images, 4 at a time, go round and round: the fourth test begins at item 60.
    from tests.finetune.tiny import striped

    images, labels = striped(12, 2)
    order = np.arange(60, 80) % 12
    data = (images[order][:, :, 1:9, 1:9].astype(np.float32) - 100) * np.float32(0.01)
    found = scores(int8(outcome), data)
    shifted = found - found.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    expected = -logs[np.arange(20), labels[order]].mean()
    assert rounded[-1].outputs["loss"][0] == pytest.approx(expected, rel=1e-4)
    # Two scores of steps of int8 are often equal, which counts as wrong.
    wanted = found[np.arange(20), labels[order]]
    right = (found >= wanted[:, None]).sum(1) == 1
    assert rounded[-1].outputs["accuracy"][0] == pytest.approx(right.mean())


def test_every_snapshot_has_its_int8_form():
    rows = write_taught(Path(), DATA + body())
    outcome = run(rows)
    kinds = (".caffemodel", ".resume", ".solverstate", "_int8.onnx")
    assert sorted(path.name for path in Path("snap").iterdir()) == sorted(
        f"taught_iter_{i}{kind}" for i in (6, 12) for kind in kinds
    )
    assert [path.name for path in outcome.files] == [
        f"taught_iter_12{kind}" for kind in (kinds[0], *kinds[2:])
    ]
    # The weights of Caffe's file are in float32: between the steps of int8, and near what they came from.
    before, after = blobs("net.caffemodel"), blobs("snap/taught_iter_12.caffemodel")
    assert before.keys() == after.keys()
    weight = after["c2"][0]
    steps = weight / (np.abs(weight).max((1, 2, 3), keepdims=True) / 127)
    assert np.abs(steps - steps.round()).mean() > 0.1
    assert 0 < np.abs(weight - before["c2"][0]).max() < 0.1 * np.abs(weight).max()
    # And the file in int8 holds these, rounded.
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(int8(outcome)).graph.initializer}
    np.testing.assert_array_equal(arrays["c2/weight_quantized"], steps.round())


def test_snapshots_in_hdf5_have_it_too():
    solver = SOLVER + "snapshot_format: HDF5\n"
    rows = write_taught(Path(), (DATA + body()).replace("/", "_"), solver)
    outcome = run(rows, max_iter=2)
    kinds = (".caffemodel.h5", ".solverstate.h5", "_int8.onnx")
    assert [path.name for path in outcome.files] == [f"taught_iter_2{kind}" for kind in kinds]
    assert run(rows, max_iter=3, resume=True).iterations == 3


def test_a_training_that_is_resumed_is_the_same():
    rows = write_taught(Path(), DATA + body(NORM))
    run(rows, output=Path("whole"))
    Path("parts").mkdir()
    for path in Path("whole").glob("taught_iter_6*"):
        (Path("parts") / path.name).write_bytes(path.read_bytes())
    resumed = run(rows, output=Path("parts"), resume=True)
    assert resumed.resumed_from == Path("parts/taught_iter_6.solverstate")
    for kind in (".caffemodel", "_int8.onnx"):
        whole, parts = (Path(name, f"taught_iter_12{kind}").read_bytes() for name in ("whole", "parts"))
        assert whole == parts


def test_the_report_tells_float_and_int8(capsys):
    write_training(Path())
    argv = ["finetune", "solver.prototxt", "-o", "out", "--qat"]
    assert main([*argv, "--max-iter", "8"]) == 0
    out, err = capsys.readouterr()
    assert "Test net #0 in int8: accuracy = " in out
    assert "Iteration 8: Test net #0 in int8: accuracy = " in err
    assert out.splitlines()[-1].endswith("out/tiny_iter_8_int8.onnx")
    assert main([*argv, "--resume", "--json"]) == 0
    found = json.loads(Path("out/report.json").read_text())["training"]
    assert found["int8"]
    for name in ("test net #0: accuracy", "test net #0: loss"):
        assert [at for at, _ in found["tests"][name]] == [0, 4, 8, 12]
        assert [at for at, _ in found["int8_tests"][name]] == [0, 4, 8, 12]
    assert json.loads(capsys.readouterr().out)["int8"]
    page = Path("out/report.html").read_text()
    assert "as it computes in int8" in page
    value = found["int8_tests"]["test net #0: loss"][-1][1]
    assert f"{value:.4g}" in page
    assert page.count('<svg class="chart"') == 2 * (
        2 + 2 * len(found["tests"])
    )  # for wide screens and narrow ones


def test_without_a_test_net_the_net_in_training_is_written():
    solver = SOLVER.replace("test_iter: 4 test_interval: 6", "")
    fitted, holdout = write_taught(Path(), DATA + body(), solver)
    outcome = run((fitted, {}))
    assert outcome.tests == ()
    assert scores(int8(outcome), holdout["data"]).shape == holdout["wanted"].shape
    assert loss(int8(outcome), holdout) < 1e-3


def test_a_layer_of_the_test_phase_alone_is_no_obstacle():
    prob = 'layer { name: "prob" type: "Softmax" bottom: "score" top: "prob" include { phase: TEST } }\n'
    rows = write_taught(Path(), DATA + body() + prob)
    outcome = run(rows, max_iter=2)
    session = onnxruntime.InferenceSession(int8(outcome), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["data"]
    prob, score = session.run(["prob", "score"], {"data": rows[1]["data"][:BATCH]})
    np.testing.assert_allclose(prob, np.exp(score) / np.exp(score).sum(1, keepdims=True), rtol=1e-5)


def test_a_test_net_of_another_kind_is_tested_in_float32_alone():
    rows = write_taught(Path(), DATA + body(), SOLVER + 'test_net: "other.prototxt" test_iter: 2\n')
    mean = 'layer { name: "mean" type: "Reduction" bottom: "wanted" top: "mean" }'
    Path("other.prototxt").write_text(DATA + mean)
    outcome = run(rows, max_iter=2)
    assert "test net #0 is not tested in int8: it has no blob 'score'" in outcome.notes
    assert {(test.net, test.int8) for test in outcome.tests} == {(0, False), (1, False), (1, True)}


def test_the_python_interface_says_what_is_missing(monkeypatch):
    rows = write_taught(Path(), DATA + body())
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(MissingExtraError, match=r"needs torchao.*twofold\[qat\]"):
        run(rows)
    assert not Path("snap").exists()


def fails(kind: type[TwofoldError], match: str, rows: tuple[Rows, Rows], **options) -> None:
    with pytest.raises(kind, match=match) as caught:
        run(rows, **options)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_quantized_is_refused_before_the_training():
    unstored = NORM.replace("use_global_stats: true", "use_global_stats: false")
    rows = write_taught(Path(), DATA + body(unstored))
    fails(ModelError, "'c1/bn' normalises by the statistics of each batch", rows)
    ends = 'layer { name: "loss" type: "EuclideanLoss" bottom: "soft" bottom: "wanted" top: "loss" }'
    soft = 'layer { name: "soft" type: "Softmax" bottom: "data" top: "soft" }'
    Path("net.prototxt").write_text(DATA + soft + ends)
    same = {**rows[0], "wanted": rows[0]["data"]}
    fails(ModelError, "no layers with weights", (same, same), weights=())
    assert not Path("snap").exists()


def test_data_without_a_range_are_refused():
    fitted, holdout = write_taught(Path(), DATA + body())
    fitted["data"][3, 0, 0, 0] = np.inf
    fails(ModelError, "blob 'data' has no range", (fitted, holdout))
    assert not Path("snap").exists()


def test_a_training_goes_on_as_it_was_begun():
    rows = write_taught(Path(), DATA + body())
    run(rows, max_iter=2, qat=False)
    fails(OptionError, "without --qat", rows, resume=True)
    run(rows, max_iter=2, force=True)
    fails(OptionError, "with --qat", rows, resume=True, qat=False)
    assert run(rows, max_iter=2, resume=True).iterations == 2
    # A net that has changed has other values.
    Path("net.prototxt").write_text(
        Path("net.prototxt").read_text().replace('"c4/relu" type: "ReLU"', '"c4/relu" type: "TanH"')
    )
    fails(ModelError, "the ranges are those of", rows, resume=True, max_iter=4)


@pytest.mark.parametrize("rate", ["1e5", "1e20", "1e38"])
def test_numbers_beyond_all_bounds_end_the_training_with_one_line(rate):
    solver = SOLVER.replace('type: "Adam" base_lr: 0.0003', f"base_lr: {rate}")
    rows = write_taught(Path(), DATA + body(NORM), solver.replace("snapshot: 6", ""))
    fails(ModelError, "lower the learning rate", rows)
    assert not Path("snap").exists()


def test_what_runs_otherwise_than_it_was_trained_is_refused_and_the_training_is_kept(monkeypatch):
    from twofold.finetune import int8_net

    rows = write_taught(Path(), DATA + body())
    quantized, made = int8_net.quantized, []

    def broken(proto, sample, ranges, floats):
        made.append(proto)
        wider = {name: (9 * scale, zero) for name, (scale, zero) in ranges.items()}
        return quantized(proto, sample, ranges if len(made) < 2 else wider, floats)

    monkeypatch.setattr(int8_net, "quantized", broken)
    fails(ModelError, "otherwise than training", rows)
    assert {path.name for path in Path("snap").iterdir()} == {
        f"taught_iter_6{kind}" for kind in (".caffemodel", ".resume", ".solverstate")
    }


def test_several_processes_are_refused_with_one_line(folder):
    write_training(folder)
    done = together(folder, "finetune", "solver.prototxt", "--device", "cpu", "--qat")
    assert done.returncode != 0
    says = [line for line in done.stderr.splitlines() if line.startswith("twofold: ")]
    assert says
    assert all("2 processes cannot train in int8" in line for line in says)
    assert not Path("snap").exists()
