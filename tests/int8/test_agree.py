"""An int8 model beside training: what differs by rounding alone passes, anything else is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
pytest.importorskip("torchao")

from onnx import ModelProto, numpy_helper  # noqa: E402

from twofold.calibration.inputs import Inputs, Provenance  # noqa: E402
from twofold.errors import ModelError  # noqa: E402
from twofold.int8.fake import FakeInt8  # noqa: E402
from twofold.int8.parity import Agreement  # noqa: E402
from twofold.int8.qdq import prepare, session, with_outputs, write_int8  # noqa: E402

SIDE, CHANNELS = 12, 16


def chain(depth: int, end: str = "") -> ModelProto:
    """Convolutions with ReLUs, c0, c1 and on; the last one has none, perhaps another operator."""
    rng = np.random.default_rng(0)
    graph = [f"chain (float[1,{CHANNELS},{SIDE},{SIDE}] data) => (float[1,{CHANNELS},{SIDE},{SIDE}] out) {{"]
    before, tensors = "data", []
    for number in range(depth):
        name = f"c{number}"
        weight = rng.normal(size=(CHANNELS, CHANNELS, 3, 3)) * np.sqrt(2 / 9 / CHANNELS)
        bias = rng.normal(size=CHANNELS) / 4
        for key, array in (("w", weight), ("b", bias)):
            tensors.append(numpy_helper.from_array(array.astype(np.float32), f"{name}{key}"))
        last = number == depth - 1
        given = name if not last or end else "out"
        graph.append(f"{given} = Conv <pads=[1,1,1,1]> ({before}, {name}w, {name}b)")
        before = given
        if not last:
            graph.append(f"r{number} = Relu ({name})")
            before = f"r{number}"
    graph += [f"out = {end} ({before})"] if end else []
    proto = onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 13]>\n' + "\n".join(graph) + "\n}")
    proto.graph.initializer.extend(tensors)
    for node in proto.graph.node:
        node.name = node.output[0]
    return proto


class Pair:
    """A model in int8, its training, and samples."""

    def __init__(self, proto: ModelProto, folder: Path, floats: tuple[str, ...] = ()) -> None:
        torch.set_num_threads(1)
        rng = np.random.default_rng(1)
        self.data = rng.normal(size=(8, CHANNELS, SIDE, SIDE)).astype(np.float32)
        plain, int8 = folder / "plain.onnx", folder / "int8.onnx"
        prepare(proto, plain)
        write_int8(plain, int8, Inputs({"data": self.data}, Provenance("arrays")).batched(1), floats=floats)
        self.plain, self.int8 = onnx.load(plain), onnx.load(int8)
        self.training = FakeInt8(self.plain, self.int8, ["out"], torch.device("cpu"))

    def agreement(self) -> Agreement:
        """Of the int8 model as it is now."""
        found = Agreement(self.int8, self.training.values.values())
        for row in range(len(self.data)):
            part = self.data[row : row + 1]
            runtime = found.run({"data": part})
            with torch.no_grad(), self.training.following(found):
                trained = self.training({"data": torch.from_numpy(part)})["out"].numpy()
            found.compare({self.training.values["out"]: trained}, runtime)
        return found

    def stored(self, name: str) -> np.ndarray:
        """A constant of the int8 model."""
        return numpy_helper.to_array(self._tensor(name)).copy()

    def store(self, name: str, array: np.ndarray) -> None:
        """Put another one in its place."""
        self._tensor(name).CopyFrom(numpy_helper.from_array(array, name))

    def _tensor(self, name: str) -> onnx.TensorProto:
        (found,) = [one for one in self.int8.graph.initializer if one.name == name]
        return found


def outputs(proto: ModelProto, name: str, data: np.ndarray) -> np.ndarray:
    net = session(with_outputs(proto, [name]))
    return np.concatenate([net.run([name], {"data": one[None]})[0] for one in data])


def test_a_deep_net_agrees_though_its_outputs_differ_as_much_as_rounding_makes_them(tmp_path):
    pair = Pair(chain(24), tmp_path)
    with torch.no_grad():
        trained = pair.training({"data": torch.from_numpy(pair.data)})["out"].numpy()
    runtime = outputs(pair.int8, pair.training.values["out"], pair.data)
    plain = outputs(pair.plain, "out", pair.data)
    # Two nets that round alike, to the last bit of their sums, are as strange to each other as to the one
    # that does not round: what the end of a deep net gives says nothing of how it was computed.
    assert np.linalg.norm(runtime - trained) > 0.6 * np.linalg.norm(plain - trained)
    found = pair.agreement()
    assert found.problem() is None
    assert len(found.differences) == 25
    assert max(one.steps for one in found.differences) < 0.02
    found.reject("do something else")


def other_weights(pair: Pair) -> None:
    """As if they were rounded to 6 bits."""
    pair.store("c2w_quantized", (pair.stored("c2w_quantized") // 4 * 4).astype(np.int8))


def other_bias(pair: Pair) -> None:
    """Off by one step of the value."""
    steps = pair.stored("r2_scale") / pair.stored("c2b_quantized_scale")
    pair.store("c2b_quantized", (pair.stored("c2b_quantized") + np.rint(steps)).astype(np.int32))


@pytest.mark.parametrize("spoil", [other_weights, other_bias])
def test_the_value_is_named_that_is_computed_otherwise(tmp_path, spoil: Callable[[Pair], None]):
    pair = Pair(chain(5), tmp_path)
    spoil(pair)
    found = pair.agreement()
    wrong = [one for one in found.differences if one.steps > one.allowed]
    # Only there: what comes behind is made of the runtime's own values.
    assert [one.name for one in wrong] == ["r2"]
    assert max(one.steps for one in found.differences if one not in wrong) < 0.02
    with pytest.raises(ModelError, match=r"value 'r2' lies [0-9.]+ steps beyond .*, 0\.5 is allowed; see"):
        found.reject("see what can be done")


def test_values_that_are_all_a_little_off_are_told_together(tmp_path):
    pair = Pair(chain(5), tmp_path)
    for number in range(5):
        steps = pair.stored("r2_scale") / pair.stored(f"c{number}b_quantized_scale")
        bias = pair.stored(f"c{number}b_quantized")
        pair.store(f"c{number}b_quantized", (bias + np.rint(0.3 * steps)).astype(np.int32))
    found = pair.agreement()
    assert all(one.steps < one.allowed for one in found.differences)
    assert re.match(r"values lie 0\.[1-4][0-9]+ steps in the mean beyond", str(found.problem()))


@pytest.mark.parametrize(("name", "other"), [("r2_scale", np.float32(1.001)), ("r2_zero_point", np.int8(1))])
def test_other_ranges_are_told(tmp_path, name: str, other: np.generic):
    pair = Pair(chain(5), tmp_path)
    old = pair.stored(name)
    pair.store(name, old * other if old.dtype == np.float32 else old + other)
    assert re.match(
        "value 'r2' has scale [0-9.e-]+ and zero point -?[0-9]+, in training [0-9.e-]+ and -?[0-9]+$",
        str(pair.agreement().problem()),
    )


def test_values_beyond_the_range_are_no_disagreement(tmp_path):
    pair = Pair(chain(5), tmp_path)
    pair.data *= 9
    assert max(one.steps for one in pair.agreement().differences) < 0.02


def test_a_softmax_in_int8_may_be_coarse_in_the_runtime(tmp_path):
    found = Pair(chain(2, "Softmax <axis=1>"), tmp_path).agreement()
    assert found.problem() is None
    (end,) = [one for one in found.differences if one.allowed > 0.5]
    assert end.name.startswith("out")


def test_outputs_that_are_not_rounded_are_compared_too(tmp_path):
    pair = Pair(chain(3), tmp_path, floats=("out",))
    assert pair.training.values["out"] == "out"
    assert pair.agreement().problem() is None
    pair.store("c2w", pair.stored("c2w") * np.float32(1.05))
    assert re.match(
        r"outputs differ by 0\.04[0-9]+ of what they vary, 0\.01", str(pair.agreement().problem())
    )


def test_no_number_is_no_agreement(tmp_path):
    pair = Pair(chain(3), tmp_path)
    with torch.no_grad():
        pair.training.weights["c1b"].fill_(np.nan)
    assert "steps beyond" in str(pair.agreement().problem())
