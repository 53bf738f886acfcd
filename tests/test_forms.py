"""Functions that check and improve take every form of a network, and inputs as `decompose` takes them."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from tests.small import write
from tests.test_calibrated import samples

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import twofold  # noqa: E402
from twofold.errors import InputError, OptionError  # noqa: E402
from twofold.formats.torch.model import TorchModel  # noqa: E402
from twofold.report import files_of  # noqa: E402


class Heads(nn.Module):
    """Two outputs, of which one is a softmax; an argument with a default stays out."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(16, 32, 3, padding=1)
        self.two = nn.Conv2d(32, 32, 3, padding=1)
        self.left, self.right = nn.Conv2d(32, 4, 1), nn.Conv2d(32, 5, 1)

    def forward(self, x, scale=1.0):
        x = torch.relu(self.two(torch.relu(self.one(x)))) * scale
        return torch.softmax(self.left(x), 1), self.right(x).mean((2, 3))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Heads()


@pytest.fixture(scope="module")
def x():
    return torch.from_numpy(samples(48))


@pytest.fixture(scope="module")
def result(net, x):
    return twofold.decompose(net, macs=0.6, multiple=4, data=x[:32])


#: Forms of a decomposed module.
FORMS = {
    "result": lambda result: result,
    "model": lambda result: result.model,
    "module": lambda result: result.model.module,
    "model without inputs": lambda result: TorchModel(result.model.module),
}


def error_of(first, second, x):
    """PyTorch's own forwards: relative error of the second output."""
    with torch.no_grad():
        ref, out = first(x)[1].double(), second(x)[1].double()
    return float((out - ref).norm() / (ref - ref.mean()).norm())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [nn.Module, TorchModel])
def test_modules_are_compared_on_data(net, result, x, form, kind):
    first = net if kind is nn.Module else TorchModel(net)
    found = twofold.compare(first, FORMS[form](result), data=x[32:], threads=1)
    errors = {one.name: one.error for one in found.outputs}
    assert errors["1"] == pytest.approx(error_of(net, result.model.module, x[32:]), rel=1e-3)
    assert set(errors) == {"0", "0 before softmax", "1"}
    assert found.samples == 16
    assert found.macs[1] / found.macs[0] == pytest.approx(result.plan.totals.macs_ratio, rel=1e-6)
    assert [time.runtime.partition(",")[0] for time in found.times] == ["PyTorch CPU"]


def test_what_came_with_the_result_serves_the_module_it_was_made_of(net, result, x):
    found = twofold.compare(net, result, threads=1)
    assert found.macs[0] > 0
    assert any("synthetic" in note and "12x12" in note for note in found.notes)  # as `x` is
    wider = torch.randn(3, 16, 9, 9)
    assert twofold.compare(net, result, example_inputs=wider[:1], data=wider, threads=1).samples == 3


def test_files_of_nets_are_compared_on_data_and_images(tmp_path):
    model = twofold.load(*write(tmp_path))
    result = twofold.decompose(model, macs=0.5, no_data=True, multiple=4)
    x = samples(20)
    source = twofold.CalibrationSource(data=x)
    as_source = twofold.compare(model, result.model, source, threads=1)
    by_name = twofold.compare(model, result, data=x, threads=1)
    assert by_name.outputs == as_source.outputs
    assert by_name.outputs[0].error > 0
    with pytest.raises(InputError, match="no image of 1 or 3 channels"):
        twofold.compare(model, result, images=tmp_path / "missing")


def test_the_table_says_what_the_error_was_measured_on(net, result, x):
    where = "relative error of the network's outputs, root mean square over 2, measured on"
    assert f"{where} 4 inputs that no factor was fitted to: " in str(result.plan)
    few = twofold.decompose(net, macs=0.6, multiple=4, data=x[:9])
    assert f"{where} 9 inputs that factors were fitted to, too: " in str(few.plan)
    again = twofold.Plan.from_json(few.plan.to_json())
    assert str(again) == str(few.plan)
    # The numbers follow from what PyTorch's forwards give.
    with torch.no_grad():
        ref, out = ([value.double() for value in heads(one, x[:9])] for one in (net, few.model.module))
    pairs = zip(ref, out, strict=True)
    squares = [float(((o - r) ** 2).sum() / ((r - r.mean()) ** 2).sum()) for r, o in pairs]
    assert few.plan.measured_error == pytest.approx(np.mean(squares) ** 0.5, rel=1e-3)


def heads(module, x):
    """What the two outputs are read out of, before the softmax."""
    inside = []
    handle = module.left.register_forward_hook(lambda one, given, value: inside.append(value))
    right = module(x)[1]
    handle.remove()
    return inside[0], right


def test_a_result_is_saved_with_its_report(result, tmp_path):
    names = ["state_dict.pt", "plan.json"]
    assert [path.name for path in result.save(tmp_path / "plain")] == names
    files = result.save(tmp_path / "out", extra=files_of(result))
    assert sorted(path.name for path in files) == sorted([*names, "report.html", "report.json"])
    assert "two" in (tmp_path / "out" / "report.html").read_text()


# How a form becomes a model is the same for all calls; the export behind it takes seconds.
@pytest.mark.parametrize("form", ["result", "module"])
def test_modules_are_quantized(result, x, form, tmp_path):
    found = twofold.quantize(FORMS[form](result), tmp_path / "int8.onnx", data=x)
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx", providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_outputs()] == ["0", "1"]
    (out,) = session.run(["1"], {"x": x[:6].numpy()})
    with torch.no_grad():
        ref = result.model.module(x[:6])[1].numpy()
    error = np.linalg.norm(out - ref) / np.linalg.norm(ref - ref.mean())
    # As in `test_quantize`: 8 bits cost less than a hundredth, a broken scale would cost all.
    assert 0.0002 < error < 0.1
    assert found.outputs["1"] == pytest.approx(error, rel=1)


@pytest.mark.parametrize("form", FORMS)
def test_modules_are_recovered_on_data(net, result, x, form):
    options = twofold.RecoverOptions(steps=30, rate=2e-3, batch=8)
    found = twofold.recover(net, FORMS[form](result), options=options, data=x)
    assert found.after < found.before
    again = twofold.compare(net, found, data=x[32:], threads=1)  # a recovery is a form, too
    assert {one.name: one.error for one in again.outputs}["1"] == pytest.approx(
        error_of(net, found.model.module, x[32:]), rel=1e-3
    )


@pytest.mark.parametrize("call", [twofold.compare, twofold.recover])
def test_what_is_no_source_is_refused(net, result, x, call):
    with pytest.raises(OptionError, match=r"CalibrationSource, got a Tensor; give arrays as data="):
        call(net, result, x)
    with pytest.raises(OptionError, match="a source and data: give one of them"):
        call(net, result, twofold.CalibrationSource(data=x), data=x)
    with pytest.raises(OptionError, match="images or data"):
        call(net, result, images="photos/", data=x)
    with pytest.raises(OptionError, match="a value of type dict is no model"):
        call(net, {}, data=x)


def test_example_inputs_of_what_is_no_module_are_refused(tmp_path, x):
    model = twofold.load(*write(tmp_path))
    with pytest.raises(OptionError, match="example inputs belong to"):
        twofold.compare(model, model, example_inputs=x)
