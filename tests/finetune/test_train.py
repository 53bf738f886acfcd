"""Whole trainings from files: what is tested, displayed and written, and that a resumed one is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tests.finetune.tiny import BATCH_NORM, BODY, DATA, SOLVER, striped, write_training

from twofold.caffe_torch import to_torch
from twofold.errors import FormatError, InputError, ModelError, OptionError, OutputError
from twofold.finetune import Outcome, Solver, TrainOptions, read_solver, read_state, train
from twofold.finetune.data import Locator, Request, open_reader
from twofold.formats.caffe.caffemodel import NewLayer, create_weights, read_weights
from twofold.formats.caffe.model import CaffeModel
from twofold.formats.caffe.net import read_net
from twofold.formats.caffe.prototxt import parse


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The folder of a training, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    write_training(Path())
    return tmp_path


def run(*, weights=(), lines: list[str] | None = None, solver: str = "solver.prototxt", **options) -> Outcome:
    log = [] if lines is None else lines
    return train(solver, weights, TrainOptions(**options), report=log.append)


def change(old: str, new: str, file: str = "solver.prototxt") -> None:
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new))


def contents(folder: str = "snap") -> dict[str, bytes]:
    """Caffe's files of a folder."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.suffix != ".resume"}


def blobs(path: str | Path) -> dict[str, list[np.ndarray]]:
    return {layer.name: [blob.array() for blob in layer.blobs] for layer in read_weights(path).layers}


def test_a_training_is_the_solvers_steps_on_the_readers_batches(tiny):
    """An oracle by hand: the recorded-Caffe-tested Solver, fed with batches one by one."""
    write_training(tiny / "plain", drop=0.0)
    os.chdir(tiny / "plain")
    change("random_seed: 7", "random_seed: 7 iter_size: 2")
    got = run()
    document = parse(Path("train_val.prototxt").read_bytes(), "train_val.prototxt")
    (first, *_) = read_net(document, "TRAIN").layers
    reader = open_reader(Request(first, "TRAIN", Locator(Path())), 7)
    model = CaffeModel.load("train_val.prototxt", inputs={"data": (8, 1, 8, 8), "label": (8,)})
    solver = Solver(to_torch(model, "TRAIN"), read_solver("solver.prototxt"))
    solver.net.load_arrays(_fillers(model, 7))
    losses = []
    for i in range(12):
        passes = [reader.batch(2 * i + k) for k in range(2)]
        losses.append(
            solver.step([{n: torch.from_numpy(a.copy()) for n, a in one.items()} for one in passes]).loss
        )
    assert got.loss == pytest.approx(sum(losses[-5:]) / 5, rel=1e-6)
    for name, arrays in solver.net.arrays().items():
        for one, other in zip(arrays, blobs("snap/tiny_iter_12.caffemodel")[name], strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-7)


def _fillers(model: CaffeModel, seed: int) -> dict[str, list[np.ndarray]]:
    from twofold.caffe_torch import CaffeNet

    return CaffeNet(model.net("TRAIN"), shapes=model.inputs, seed=seed).arrays()


def test_what_is_displayed_tested_and_written_when(tiny):
    lines: list[str] = []
    got = run(lines=lines)
    assert [line.split(":")[0] for line in lines if "lr =" in line] == [
        f"Iteration {i}" for i in (0, 3, 6, 9)
    ]
    assert [line.split(":")[0] for line in lines if "Test net #0: accuracy = " in line] == [
        f"Iteration {i}" for i in (0, 4, 8, 12)
    ]
    assert sorted(contents()) == sorted(
        f"tiny_iter_{i}.{kind}" for i in (4, 8, 12) for kind in ("caffemodel", "solverstate")
    )
    assert [test.iteration for test in got.tests] == [0, 4, 8, 12]
    assert (got.iterations, got.seed, got.rank) == (12, 7, 0)
    assert got.files == (Path("snap/tiny_iter_12.caffemodel"), Path("snap/tiny_iter_12.solverstate"))
    assert "written: snap/tiny_iter_12.caffemodel" in str(got)
    assert read_state(got.files[1]).iteration == 12


def test_a_test_is_what_opencv_finds_with_the_snapshot(tiny):
    got = run()
    deploy = (
        (
            'input: "data" input_shape { dim: 1 dim: 1 dim: 8 dim: 8 }'
            + BODY.split("layer {", 1)[1].join(["layer {", ""]).split('layer { name: "accuracy"')[0]
        )
        .replace("BETWEEN", "")
        .replace("DROP", "0.3")
    )
    Path("deploy.prototxt").write_text(deploy)
    images, labels = striped(12, 2)
    for test in got.tests[1:]:
        net = cv2.dnn.readNetFromCaffe("deploy.prototxt", f"snap/tiny_iter_{test.iteration}.caffemodel")
        # 4 batches of 5 in every test; each goes on where the last one ended.
        first = test.iteration // 4 * 20
        where = np.arange(first, first + 20) % 12
        net.setInput((images[where][:, :, 1:9, 1:9].astype(np.float32) - 100) * 0.01)
        scores = net.forward()
        right = scores.argmax(1) == labels[where]
        logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        assert test.outputs["accuracy"] == (pytest.approx(right.mean()),)
        assert test.outputs["loss"] == (pytest.approx(-logs[np.arange(20), labels[where]].mean(), rel=1e-4),)
    assert got.tests[-1].outputs["loss"] < got.tests[0].outputs["loss"]


def test_the_loss_of_a_test_is_the_sum_of_its_losses(tiny):
    change("random_seed", "test_compute_loss: true random_seed")
    lines: list[str] = []
    got = run(lines=lines)
    assert all(test.loss == pytest.approx(test.outputs["loss"][0]) for test in got.tests)
    assert any("loss of the net = " in line for line in lines)


@pytest.mark.parametrize("format", ["BINARYPROTO", "HDF5"])
@pytest.mark.parametrize("between", ["", BATCH_NORM.replace("GLOBAL", "")])
def test_a_resumed_training_ends_with_the_same_bits(tmp_path, monkeypatch, between, format):
    monkeypatch.chdir(tmp_path)
    for name in ("straight", "resumed"):
        write_training(Path(name), solver=SOLVER + f"snapshot_format: {format}", between=between)
    monkeypatch.chdir("straight")
    straight = run()
    monkeypatch.chdir("../resumed")
    run(max_iter=8)
    resumed = run(resume=True)
    assert resumed.resumed_from is not None
    assert resumed.resumed_from.name.startswith("tiny_iter_8.solverstate")
    # The test at 8 stands before iteration 8, so the resumed training does it again.
    assert resumed.tests == straight.tests[2:]
    assert resumed.loss == straight.loss  # a mean over 5 iterations, one of them before the resumption
    ours, theirs = contents("snap"), contents("../straight/snap")
    assert ours.keys() == theirs.keys()
    for name, content in ours.items():
        if format == "BINARYPROTO":
            assert content == theirs[name], name
        elif "caffemodel" in name:
            for layer, arrays in blobs(f"snap/{name}").items():
                other = blobs(f"../straight/snap/{name}")[layer]
                assert all(np.array_equal(a, b) for a, b in zip(arrays, other, strict=True))


def test_a_drawn_seed_is_resumed_too(tiny):
    change("random_seed: 7", "")
    first = run(max_iter=4)
    resumed = run(resume=True)
    assert resumed.seed == first.seed
    change("net:", f"random_seed: {first.seed} net:")
    straight = run(output=Path("straight"))
    assert straight.files[0].read_bytes() == resumed.files[0].read_bytes()


#: A training that dies while its second snapshot is written.
KILLED = """
import os, signal, sys
def die(event, args):
    if any("tiny_iter_80" in str(arg) for arg in args):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
from twofold.cli import main
from twofold.caffe_torch import to_torch
main(["finetune", "solver.prototxt", "--resume"])
"""


def test_a_killed_training_ends_with_the_same_bits(tmp_path, monkeypatch):
    solver = SOLVER.replace("max_iter: 12", "max_iter: 160").replace("snapshot: 4", "snapshot: 40")
    for name in ("straight", "killed"):
        write_training(tmp_path / name, solver=solver)
    monkeypatch.chdir(tmp_path / "straight")
    run()
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path / "killed", check=False)
    assert killed.returncode == -signal.SIGKILL
    monkeypatch.chdir(tmp_path / "killed")
    got = run(resume=True)
    assert got.resumed_from is not None
    assert read_state(got.resumed_from).iteration in (40, 80)  # the second may be finished by its journal
    for kind in ("caffemodel", "solverstate"):
        name = f"snap/tiny_iter_160.{kind}"
        assert Path(name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_ctrl_c_writes_a_snapshot_to_resume_from(tiny):
    change("max_iter: 12", "max_iter: 100000")
    change("snapshot: 4", "snapshot: 0")
    command = [sys.executable, "-m", "twofold", "finetune", "solver.prototxt", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("Iteration 9:"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=1200)
    assert process.returncode == 130
    assert "stopping behind this iteration" in err
    assert "the same command with --resume goes on from here" in out
    (state,) = Path("snap").glob("*.solverstate")
    stopped = read_state(state).iteration
    got = run(resume=True, max_iter=stopped + 2)
    assert (got.resumed_from, got.iterations) == (state, stopped + 2)


def test_what_is_there_is_not_overwritten_unasked(tiny):
    run(max_iter=4)
    before = contents()
    with pytest.raises(
        OutputError, match=r"tiny_iter_4.solverstate: a training of this name is there already"
    ):
        run(max_iter=4, lr_scale=0.5)
    assert contents() == before
    run(max_iter=4, lr_scale=0.5, force=True)
    assert contents() != before


def test_the_last_one_written_is_the_newest(tiny):
    run(max_iter=8)
    run(max_iter=4, lr_scale=0.5, force=True)
    assert run(resume=True, max_iter=5).resumed_from == Path("snap/tiny_iter_4.solverstate")


def test_a_finished_training_has_nothing_left_to_do(tiny):
    run()
    before = contents()
    got = run(resume=True)
    assert (got.iterations, got.files) == (12, ())
    assert "no snapshot was written" in str(got)
    assert contents() == before


def test_resume_without_a_snapshot_begins_at_the_beginning(tiny):
    lines: list[str] = []
    got = run(resume=True, max_iter=4, lines=lines)
    assert got.resumed_from is None
    assert any("no snapshot snap/tiny_iter_N to resume from" in line for line in lines)


def test_caffes_own_snapshots_can_be_gone_on_from(tiny):
    run(max_iter=4)
    Path("snap/tiny_iter_4.resume").unlink()
    got = run(resume=True)
    assert got.iterations == 12
    assert any("no .resume file beside it" in note for note in got.notes)
    Path("snap/tiny_iter_12.resume").write_bytes(b"junk")
    with pytest.raises(FormatError, match=r"tiny_iter_12.resume: cannot be read.*remove it to go on"):
        run(resume=True, max_iter=13)


def test_weights_to_begin_with(tiny):
    run(max_iter=4)
    got = run(weights="snap/tiny_iter_4.caffemodel", output=Path("out"), max_iter=1, lr_scale=1e-9)
    assert got.files[0] == Path("out/tiny_iter_1.caffemodel")
    before, after = blobs("snap/tiny_iter_4.caffemodel"), blobs(got.files[0])
    for name in ("conv", "score"):
        for one, other in zip(before[name], after[name], strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-7)
    change('name: "score"', 'name: "other"', "train_val.prototxt")
    got = run(weights="snap/tiny_iter_4.caffemodel", output=Path("other"), max_iter=1)
    assert "no weights for 'other'; they begin with their fillers' values" in got.notes
    assert any("the net to train has no layers 'score'" in note for note in got.notes)
    change('name: "conv"', 'name: "another"', "train_val.prototxt")
    with pytest.raises(ModelError, match="holds weights of other layers than the net to train"):
        run(weights="snap/tiny_iter_4.caffemodel", output=Path("third"), max_iter=1)


def test_the_solver_may_name_the_weights_itself(tiny):
    run(max_iter=4)
    change("net:", 'weights: "snap/tiny_iter_4.caffemodel" net:')
    by_solver = run(output=Path("a"), max_iter=1)
    change('weights: "snap/tiny_iter_4.caffemodel" ', "")
    by_caller = run(weights=Path("snap/tiny_iter_4.caffemodel"), output=Path("b"), max_iter=1)
    assert by_solver.files[0].read_bytes() == by_caller.files[0].read_bytes()


def test_the_scale_multiplies_the_rate(tiny):
    lines: list[str] = []
    run(lr_scale=0.1, max_iter=1, lines=lines)
    assert any("lr = 0.005" in line for line in lines)


def test_the_seed_decides_and_is_told(tiny):
    change("random_seed: 7", "")
    first = run(max_iter=3, output=Path("a"))
    other = run(max_iter=3, output=Path("b"))
    assert first.seed != other.seed
    assert first.files[0].read_bytes() != other.files[0].read_bytes()
    change("net:", f"random_seed: {first.seed} net:")
    again = run(max_iter=3, output=Path("c"))
    assert again.files[0].read_bytes() == first.files[0].read_bytes()


def test_a_training_leaves_the_callers_random_numbers_alone(tiny):
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    run(max_iter=2)
    assert torch.equal(torch.rand(3), want)


def test_rows_from_python(tiny):
    images, labels = striped(40)
    text = Path("train_val.prototxt").read_text()
    inputs = """
    layer { name: "data" type: "MemoryData" top: "data" top: "label"
      memory_data_param { batch_size: 8 channels: 1 height: 10 width: 10 } }"""
    Path("train_val.prototxt").write_text(text.replace(DATA, inputs))
    rows = {"data": (images - 100.0) / 100, "label": labels}
    options = TrainOptions(max_iter=60)
    got = train("solver.prototxt", (), options, train_data=rows, test_data=rows, report=lambda line: None)
    assert got.tests[-1].outputs["accuracy"][0] > 0.9
    with pytest.raises(InputError, match=r"call finetune\.train"):
        run(force=True)
    with pytest.raises(OptionError, match=r"differ in their rows: \{'data': 40, 'label': 39\}"):
        train("solver.prototxt", (), TrainOptions(force=True), train_data={**rows, "label": labels[:39]})
    with pytest.raises(OptionError, match="data are given for 'x', which no data layer has"):
        train("solver.prototxt", (), TrainOptions(force=True), train_data={"x": labels})


@pytest.mark.parametrize(
    ("changed", "says", "kept", "bad"),
    [
        ("snapshot: 4", "the loss is not a number in iteration 6", (4,), ()),
        ("snapshot: 12", "the loss is not a number in iteration 6", (), ()),
        # A snapshot that was written leads to it.
        ("snapshot: 1", "the loss is not a number in iteration 6", (1, 2, 3, 4, 5), (6,)),
    ],
)
def test_a_training_that_diverges_keeps_what_was_good(tiny, changed, says, kept, bad):
    """The rate leaps in iteration 5: snapshots until then are as without the leap, and none comes after."""
    change("snapshot: 4", changed)
    run(max_iter=5)
    before = {name: content for name, content in contents().items() if name.startswith(_names(kept))}
    change('lr_policy: "fixed"', 'lr_policy: "multistep" gamma: 1e38 stepvalue: 5')
    for path in Path("snap").iterdir():
        path.unlink()
    with pytest.raises(ModelError, match=says) as caught:
        run()
    last = f"the snapshot snap/tiny_iter_{kept[-1]}" if kept else "no snapshot"
    more = f"; remove snap/tiny_iter_{bad[0]}, which is not" if bad else ""
    assert str(caught.value).endswith(f"rate, or set clip_gradients; {last} is from before{more}")
    after = contents()
    assert {name for name in after if not name.startswith(_names(bad))} == set(before)
    assert {name: after[name] for name in before} == before
    if kept and not bad:
        assert run(resume=True, max_iter=kept[-1]).resumed_from == Path(
            f"snap/tiny_iter_{kept[-1]}.solverstate"
        )


def test_weights_that_are_no_numbers_are_not_kept(tiny):
    """The loss does not depend on a layer whose weights the decay blows up."""
    between = """layer { name: "lost" type: "InnerProduct" bottom: "conv" top: "lost"
      param { decay_mult: 1e38 } inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }"""
    write_training(Path(), between=between)
    change("snapshot: 4", "snapshot: 1")
    says = "after 2 iterations weights of layer 'lost' are NaN or infinite; lower .*_iter_1 is from before$"
    with pytest.raises(ModelError, match=says):
        run()
    assert {Path(name).stem for name in contents()} == {"tiny_iter_1"}
    change("decay_mult: 1e38", "lr_mult: 1e38 decay_mult: 0", "train_val.prototxt")
    change("base_lr: 0.05", "base_lr: 50")
    with pytest.raises(
        ModelError, match=r"the learning rate of layer 'lost' is 5e[+]39; lower.*; no snapshot is"
    ):
        run(force=True)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ('"exp" gamma: 1e30', "learning rate in iteration 11, but inf"),
        ('"step" stepsize: 1 gamma: 1e4', "in iteration 11, but 5e[+]42"),
        ('"multistep" stepvalue: 5 stepvalue: 6 gamma: 1e30', "in iteration 11, but 5e[+]58"),
        ('"inv" gamma: -1 power: 0.5', r"in iteration 11, but .*j"),
        ('"sigmoid" gamma: 1e3 stepsize: 7', "in iteration 0, but inf"),
        ('"inv" gamma: -1 power: 2', "in iteration 1, but inf"),
    ],
)
def test_rates_without_bounds(tiny, policy, said):
    change('lr_policy: "fixed"', f"lr_policy: {policy}")
    with pytest.raises(
        (OptionError, ModelError), match=f"lr_policy '.*' with base_lr .* {said}; change these"
    ):
        run()


def _names(iterations: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"tiny_iter_{number}." for number in iterations)


BATCH_NORM_TRAINING = {
    # What the phases normalise by, the variance that is stored, and whether it is a reason to reject it.
    "batch statistics, no test": ("", False, -0.5, True),
    "batch statistics, a test": ("", True, -0.5, False),
    "stored statistics": ("batch_norm_param { use_global_stats: true }", False, -0.5, False),
    "never stored ones": ("batch_norm_param { use_global_stats: false }", True, -0.5, True),
    "as good as 0": ("batch_norm_param { use_global_stats: true }", True, -1e-7, True),
}


@pytest.mark.parametrize("case", BATCH_NORM_TRAINING)
def test_a_variance_without_a_root_is_rejected_where_it_is_used(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    said, tests, variance, fine = BATCH_NORM_TRAINING[case]
    write_training(Path(), between=BATCH_NORM.replace("GLOBAL", said))
    if not tests:
        change("test_iter: 4 test_interval: 4", "")
    values = np.array([1, 2, variance, 1], np.float32)
    layer = NewLayer("bn", "BatchNorm", (np.zeros(4, np.float32), values, np.ones(1, np.float32)))
    with Path("start.caffemodel").open("wb") as stream:
        create_weights([layer]).write(stream)
    if fine:
        assert np.isfinite(run(weights="start.caffemodel", max_iter=2).loss)
        return
    with pytest.raises(ModelError, match=r"'bn' \(BatchNorm\): the variance of channel 2 is -0.5, which has"):
        run(weights="start.caffemodel", max_iter=2)
    assert not Path("snap").exists() or not contents()


def test_hdf5_cannot_hold_slashes(tiny):
    change("random_seed", "snapshot_format: HDF5 random_seed")
    change('name: "conv"', 'name: "a/b"', "train_val.prototxt")
    with pytest.raises(OptionError, match="cannot hold a layer named 'a/b'"):
        run()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lr_scale": 0.0}, "lr_scale must be a positive number, got 0"),
        ({"max_iter": 0}, "max_iter must be at least 1"),
        ({"resume": True, "force": True}, "choose one"),
        ({"device": "tpu9"}, "device 'tpu9' is unknown; choose cpu, cuda"),
        ({"device": "cuda:77"}, "device cuda:77 is not there"),
    ],
)
def test_options_that_are_refused(tiny, options, says):
    with pytest.raises(OptionError, match=says):
        run(**options)


def test_a_missing_max_iter_is_named(tiny):
    change("max_iter: 12", "")
    with pytest.raises(OptionError, match="max_iter is missing"):
        run()


def test_a_prefix_without_a_name_takes_the_solvers(tiny):
    change('snapshot_prefix: "snap/tiny"', 'snapshot_prefix: "snap/"')
    assert run(max_iter=1).files[0] == Path("snap/solver_iter_1.caffemodel")


RECURRENT = """
layer { name: "x" type: "Input" top: "x" top: "cont" top: "t" input_param {
  shape { dim: 3 dim: 2 dim: 4 } shape { dim: 3 dim: 2 } shape { dim: 3 dim: 2 dim: 5 } } }
layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "y" recurrent_param { num_output: 5
  weight_filler { type: "uniform" min: -0.5 max: 0.5 } bias_filler { type: "constant" } } }
layer { name: "noise" type: "DummyData" top: "noise"
  dummy_data_param { shape { dim: 3 dim: 2 dim: 5 } data_filler { type: "gaussian" std: 0.1 } } }
layer { name: "sum" type: "Eltwise" bottom: "y" bottom: "noise" top: "sum" }
layer { name: "loss" type: "EuclideanLoss" bottom: "sum" bottom: "t" top: "loss" }
"""


def test_recurrent_states_and_noise_are_resumed(tmp_path, monkeypatch):
    """What an LSTM carries over, and what DummyData draws, is as if nothing had happened."""
    rng = np.random.default_rng(0)
    rows = {"x": rng.normal(size=(10, 2, 4)), "cont": np.ones((10, 2)), "t": rng.normal(size=(10, 2, 5))}
    solver = 'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 8 random_seed: 1'
    files = []
    for name, steps in (("straight", (8,)), ("resumed", (3, 8))):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        Path("net.prototxt").write_text(RECURRENT)
        Path("solver.prototxt").write_text(solver)
        for step in steps:
            options = TrainOptions(max_iter=step, resume=True)
            got = train("solver.prototxt", (), options, train_data=rows, report=lambda line: None)
        files.append(Path(got.files[0]).read_bytes())
    assert files[0] == files[1]
