"""Outputs whose size depends on the values teach through what stands before them."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("pytorch_optimizer")

from PIL import Image  # noqa: E402
from tests.calibration.test_varying_outputs import Detector, compressed, suppressed  # noqa: E402
from tests.formats.onnx.small import weight, write  # noqa: E402

import twofold  # noqa: E402
from twofold.calibration.runners import runner_for  # noqa: E402
from twofold.calibration.source import CalibrationSource  # noqa: E402
from twofold.cli import main  # noqa: E402
from twofold.errors import OptionError  # noqa: E402

OPTIONS = twofold.RecoverOptions(steps=6, rate=3e-3, batch=8)


def files(folder, made):
    """A net, what became of it, and inputs, of which the net takes one at a time where it suppresses."""
    proto = made()
    if made is suppressed:
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    net = twofold.load(write(folder / "net.onnx", proto))
    result = twofold.decompose(net, macs=0.5, multiple=4, no_data=True)
    result.save(folder / "small")
    return net, twofold.load(folder / "small" / "net.onnx"), 10 * weight(18, 3, 4, 4)


@pytest.mark.parametrize("made", [compressed, suppressed])
def test_onnx(tmp_path, made):
    net, small, x = files(tmp_path, made)
    recovery = twofold.recover(net, small, data=x, options=OPTIONS)
    assert any("depends on the values" in note and "'b'" in note for note in recovery.notes)
    before, after = (
        [runner_for(one, ("b",)).run({"x": x})["b"] for one in pair]
        for pair in ((net, small), (net, recovery.model))
    )
    assert np.square(after[0] - after[1]).sum() < np.square(before[0] - before[1]).sum()
    with pytest.raises(OptionError, match=r"size of 'y' depends on the values.*targets"):
        twofold.recover(net, small, CalibrationSource(data=x, targets=("y",)), options=OPTIONS)


def test_commands(tmp_path, capsys):
    files(tmp_path, suppressed)
    pair = [str(tmp_path / "net.onnx"), str(tmp_path / "small" / "net.onnx")]
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8)):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    given = ["--images", str(tmp_path), "--preset", "imagenet"]
    steps = ["--output", str(tmp_path / "better"), "--steps", "4", "--rate", "1e-3"]
    assert main(["recover", *pair, *given, *steps, "--targets", "y"]) != 0
    assert "the size of 'y' depends on the values" in capsys.readouterr().err
    assert not (tmp_path / "better").exists()
    assert main(["recover", *pair, *given, *steps]) == 0
    assert "errors are those of 'b', 'scores' before" in "".join(capsys.readouterr())
    assert main(["compare", pair[0], str(tmp_path / "better" / "net.onnx"), *given]) == 0
    assert "boxes found again" in capsys.readouterr().out


def test_a_module_that_returns_a_list_per_image():
    torch.manual_seed(0)
    net, x = Detector(0.05), torch.rand(18, 3, 16, 16)
    small = twofold.decompose(net, macs=0.5, multiple=4, no_data=True, example_inputs=(x[:3],))
    recovery = twofold.recover(net, small, data=x, options=OPTIONS, example_inputs=(x[:3],))
    assert recovery.after < recovery.before
    compared = twofold.compare(net, recovery.model, data=x[:4], example_inputs=(x[:3],))
    assert [one.name for one in compared.outputs] == ["h", "0.boxes"]
    source = CalibrationSource(data=x, targets=("0.boxes",))
    with pytest.raises(OptionError, match=r"size of '0.boxes' depends on the values.*targets"):
        twofold.recover(net, small, source, options=OPTIONS, example_inputs=(x[:3],))
