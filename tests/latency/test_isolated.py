"""Runtimes in processes of their own: they compute what ONNX Runtime does, and fail in one line."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.latency.test_stacks import STACKS, UNEVEN
from tests.small import HEAD, TAIL, conv, write

import twofold
from twofold.conv import ConvGeometry
from twofold.errors import ModelError
from twofold.latency import clock
from twofold.latency.clock import Effort, interleaved
from twofold.latency.nets import opened
from twofold.latency.runtimes import runtime
from twofold.latency.runtimes.isolated import IsolatedRuntime, relative_difference
from twofold.latency.stacks import Stack

ISOLATED = ("openvino", "ncnn", "mnn")
MORE = {
    "uneven": UNEVEN,
    "linear": Stack((ConvGeometry.linear(4, 8), ConvGeometry.linear(6, 4)), (1,)),
    "one axis": Stack((ConvGeometry.of(6, 4, (3,), pad=1, groups=2),), (9,)),
    "depthwise": Stack(
        (ConvGeometry.of(4, 4, (3, 3), pad=1, groups=4), ConvGeometry.of(6, 4, (1, 1))), (9, 7)
    ),
    "enlarging": Stack(
        (ConvGeometry(6, 6, (4, 3), (2, 2), ((1, 1), (0, 1)), (1, 1), 3, "transposed", (1, 0)),), (6, 7)
    ),
}
NET = HEAD + conv("one", "data") + conv("two", "one") + TAIL


@pytest.mark.parametrize("name", ISOLATED)
def test_every_stack_is_computed_as_onnx_runtime_computes_it(name, capfd):
    """`stack` itself compares; that the comparison is one, the next tests show."""
    found = runtime(name)
    with found.running(1):
        for stack in (*STACKS.values(), *MORE.values()):
            if name == "ncnn" and stack.batch > 1:
                with pytest.raises(ModelError, match="ncnn CPU cannot open the model: it has no batches"):
                    found.stack(stack, 1)
                continue
            found.stack(stack, 1)()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ISOLATED)
@pytest.mark.parametrize("kind", ["caffe", "onnx"])
def test_whole_nets(name, kind, tmp_path, capfd):
    model = twofold.load(*write(tmp_path, NET))
    if kind == "onnx":
        twofold.export(model, tmp_path / "net.onnx")
        model = twofold.load(tmp_path / "net.onnx")
    capfd.readouterr()
    with opened(runtime(name), 1, model, model) as runs:
        for run in runs:
            run()
    assert capfd.readouterr() == ("", "")


def test_a_quantized_net_may_be_rounded_otherwise(tmp_path):
    model = twofold.load(*write(tmp_path, NET))
    data = np.random.default_rng(0).random((6, 16, 12, 12), np.float32)
    twofold.quantize(model, tmp_path / "int8.onnx", data=data)
    with opened(runtime("openvino"), 1, twofold.load(tmp_path / "int8.onnx")) as (run,):
        run()


@pytest.mark.parametrize(
    ("constant", "said"), [(True, None), (False, "does not give the model's output 'z'")]
)
def test_only_outputs_that_no_input_changes_may_be_missing(constant, said, odd, tmp_path, monkeypatch):
    monkeypatch.setenv("DROPS", "z")
    x, y, z = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xyz")
    one = numpy_helper.from_array(np.ones((1, 4), np.float32), "one")
    last = helper.make_node("Add", ["one" if constant else "x", "one"], ["z"])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"]), last], "g", [x], [y, z], [one])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "net.onnx",
    )
    model = twofold.load(tmp_path / "net.onnx")
    expected = contextlib.nullcontext() if said is None else pytest.raises(ModelError, match=said)
    with expected, opened(odd, 1, model):
        pass


@pytest.fixture
def odd() -> IsolatedRuntime:
    found = IsolatedRuntime("odd", "Odd", 4, "1", simplified=False)
    found._engine = "tests.latency.engines"
    return found


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"OFF": "0.01"}, r"Odd computes another 'y' than ONNX Runtime: they differ by 0\.01 .* not timed"),
        ({"OFF": "nan"}, "differ by nan"),
        ({"ENGINE": "crashes"}, r"Odd crashed \(SIGSEGV; it wrote: about to read .* the model\)"),
        ({"ENGINE": "ends"}, r"Odd ended \(exit code 3; .*\) while it had to convert the model"),
        ({"ENGINE": "raises"}, "Odd cannot convert the model: two lines"),
    ],
)
def test_what_goes_wrong_there_is_one_line_here(odd, variables, said, monkeypatch, capfd):
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    with odd.running(1), pytest.raises(ModelError, match=said) as raised:
        odd.stack(STACKS["one"], 1)
    assert str(raised.value).isprintable()
    assert capfd.readouterr() == ("", "")


def test_rounding_is_no_difference(odd, monkeypatch):
    monkeypatch.setenv("OFF", "1e-5")
    with odd.running(1):
        odd.stack(STACKS["one"], 1)()


def test_differences_are_relative_and_never_hidden():
    right = np.array([[3.0, 4.0]], np.float32)
    assert relative_difference(right.ravel() + np.float32([0.03, 0.04]), right) == pytest.approx(
        0.01, rel=1e-4
    )
    assert relative_difference(right[:, :1], right) == float("inf")
    assert relative_difference(0 * right, 0 * right) == 0
    assert relative_difference(right, 0 * right) > 1e9
    assert np.isnan(relative_difference(np.array([np.nan, 1]), right))
    assert relative_difference(np.array([[1.0, 2, 3, 5]]), np.array([1, 2, 3, 90])) == 0.25


def test_the_clock_of_the_other_process_is_asked(monkeypatch):
    """The way there and back is not counted: this process's clock only tells when to stop."""

    class TableTimer:
        def __init__(self, seconds: float) -> None:
            self.each, self.asked = seconds, []

        def __call__(self) -> None:
            self.seconds(1)

        def seconds(self, times: int) -> float:
            self.asked.append(times)
            return self.each

    class Stopped:
        @staticmethod
        def perf_counter() -> float:
            return 0.0

    monkeypatch.setattr(clock, "time", Stopped)
    slow, fast = TableTimer(0.5), TableTimer(1e-4)
    assert interleaved([slow, fast], Effort(0, 3, 3)) == [[0.5] * 3, [1e-4] * 3]
    assert (slow.asked[-3:], fast.asked[-3:]) == ([1] * 3, [20] * 3)
