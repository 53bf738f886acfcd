"""How images become inputs of PyTorch and ONNX models: where it is found, and what stands in the plan."""

from __future__ import annotations

import io
import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import twofold  # noqa: E402
from twofold.backends import as_model  # noqa: E402
from twofold.calibration.preprocessing.description import options_of  # noqa: E402
from twofold.calibration.runners import runner_for  # noqa: E402
from twofold.calibration.source import CalibrationSource, calibration_inputs  # noqa: E402
from twofold.calibration.synthetic import dead_leaves  # noqa: E402
from twofold.errors import InputError, OptionError  # noqa: E402

RGB = (np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375]))
UNIT, SIGNED = (np.zeros(3), np.full(3, 255.0)), (np.full(3, 127.5),) * 2
BGR, ODD = (np.array([104.0, 117, 123]), np.ones(3)), (np.array([60.0, 116, 160]), np.array([20.0, 57, 110]))
NORMS = {"imagenet": RGB, "zero-one": UNIT, "minus-one-one": SIGNED, "caffe": BGR, "odd": ODD}


@pytest.fixture(scope="module")
def images():
    return 255 * dead_leaves(32, 3, (32, 32), seed=11)


def mapped(images, norm, channels=3):
    mean, std = (np.asarray(one, np.float32)[:channels].reshape(-1, 1, 1) for one in norm)
    return torch.from_numpy(((images[:, :channels] - mean) / std).astype(np.float32))


def plain(channels=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()


def found(module, example=None, channels=3, **options):
    """What is recorded of the only input, and the inputs themselves."""
    example = torch.zeros(1, channels, 32, 32) if example is None else example
    source = CalibrationSource(options=twofold.CalibrationOptions(synthetic=16), **options)
    model = module if hasattr(module, "convolutions") else as_model(module, example)
    inputs = calibration_inputs(runner_for(model), source)
    (record,) = inputs.record()["preprocessing"].values()
    return record, inputs


def assert_is(record, norm, channels=3, rel=1e-3):
    mean, std = (np.asarray(one)[:channels] for one in norm)
    got = [np.broadcast_to(record[name], mean.shape) for name in ("mean", "scale")]
    np.testing.assert_allclose(got[1], 1 / std, rtol=rel)
    np.testing.assert_allclose(got[0], mean, atol=255 * rel)


# ---- what the user and the model say


@pytest.mark.parametrize("name", ["imagenet", "caffe", "zero-one", "minus-one-one"])
def test_presets(name, images):
    record, inputs = found(plain(), image_options=twofold.ImageOptions(preset=name))
    assert_is(record, NORMS[name])
    assert record["color"] == ("bgr" if name == "caffe" else "rgb")
    assert not record["assumed"]
    values, (mean, std) = inputs.arrays["input"], NORMS[name]
    for channel in range(3):
        low, high = ((limit - mean[channel]) / std[channel] for limit in (0, 255))
        assert low - 1e-3 <= values[:, channel].min() < low + 0.2 * (high - low)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "imagnet"}, "unknown preset 'imagnet'.*imagenet, caffe, zero-one, minus-one-one"),
        ({"preset": "caffe", "mean": 3.0}, "preset caffe and mean: give one"),
        ({"scale": (1.0, 0.0, 1.0)}, "scale must be a finite number other than 0"),
    ],
)
def test_presets_are_checked(options, message):
    with pytest.raises(OptionError, match=message):
        twofold.ImageOptions(**options)


def transform(**attributes):
    return SimpleNamespace(**attributes)


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    "described",
    [
        {"mean": MEAN, "std": STD, "input_size": (3, 224, 224)},  # timm's configuration
        transform(meta={}, transforms=lambda: transform(mean=list(MEAN), std=list(STD), crop_size=[224])),
        transform(
            transforms=[transform(size=256), transform(mean=torch.tensor(MEAN), std=torch.tensor(STD))]
        ),
        transform(image_mean=MEAN, image_std=STD, rescale_factor=1 / 255, do_normalize=True, do_rescale=True),
        transform(image_processor=transform(image_mean=MEAN, image_std=STD, rescale_factor=1 / 255)),
    ],
    ids=["timm", "torchvision weights", "Compose", "transformers", "transformers processor"],
)
def test_what_libraries_say(described):
    """By an attribute of the module or of a part of it, and as the option itself."""
    inner = plain()
    inner.pretrained_cfg = described
    wrapped = nn.Sequential(inner)
    for record in (found(wrapped)[0], found(plain(), image_options=described)[0]):
        assert_is(record, RGB)
        assert record["color"] == "rgb"
    assert "pretrained_cfg of Sequential (0)" in found(wrapped)[0]["found"]


def test_what_says_nothing_is_rejected():
    assert options_of(transform(size=3)) is None
    with pytest.raises(OptionError, match="tells no mean and standard deviation; give ImageOptions"):
        CalibrationSource(image_options=transform(size=3))


class Normalising(nn.Module):
    """Normalises in lines of its own, and may turn BGR into RGB."""

    def __init__(self, norm, turned=False):
        super().__init__()
        self.mean, self.std = (torch.tensor(one, dtype=torch.float32).reshape(-1, 1, 1) for one in norm)
        self.turned, self.net = turned, plain()

    def forward(self, x):
        return self.net(((x.flip(1) if self.turned else x) - self.mean) / self.std)


@pytest.mark.parametrize(
    ("norm", "turned", "expected", "color"),
    [
        (RGB, False, (np.zeros(3), np.ones(3)), "rgb"),
        (RGB, True, (np.zeros(3), np.ones(3)), "bgr"),
        ((RGB[0] / 255, RGB[1] / 255), False, UNIT, "rgb"),
        (BGR, False, (np.zeros(3), np.ones(3)), "bgr"),
        (([0.5] * 3, [0.5] * 3), False, UNIT, None),
        (([0.0] * 3, [255.0] * 3), False, (np.zeros(3), np.ones(3)), None),
    ],
)
def test_a_normalisation_at_the_entrance(norm, turned, expected, color):
    module = Normalising(norm, turned)
    module.pretrained_cfg = {"mean": MEAN, "std": STD}  # of the part inside, say
    record, _ = found(module)
    assert_is(record, expected)
    assert (record["color"], record["assumed"]) == (color, False)


def test_an_unknown_affine_map_at_the_entrance_says_nothing():
    assert found(Normalising(([7.0] * 3, [3.0] * 3)))[0]["assumed"]


# ---- what example inputs show


@pytest.mark.parametrize("name", ["imagenet", "zero-one", "minus-one-one", "caffe"])
@pytest.mark.parametrize("count", [1, 8])
def test_example_images(name, count, images):
    record, _ = found(plain(), mapped(images[:count], NORMS[name]))
    assert_is(record, NORMS[name])
    assert "example inputs" in record["found"]
    assert not record["assumed"]


def test_example_images_in_a_range_of_their_own(images):
    example = mapped(images, (np.full(3, -900.0), np.full(3, 4.0)))
    record, inputs = found(plain(), example)
    assert not record["assumed"]
    assert float(inputs.arrays["input"].mean()) == pytest.approx(float(example.mean()), rel=0.1)
    assert float(inputs.arrays["input"].std()) == pytest.approx(float(example.std()), rel=0.3)


def test_noise_and_constants_are_no_evidence():
    for example in (torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32), torch.randn(1, 3, 32, 32)):
        record, inputs = found(plain(), example)
        assert record["assumed"]
        assert len(inputs.provenance.warnings) == 1
        for word in ("not known", "preset", "imagenet, caffe, zero-one, minus-one-one"):
            assert word in inputs.provenance.warnings[0]
    record, inputs = found(plain(), torch.rand(1, 3, 32, 32))
    assert record["assumed"]
    assert 0 <= inputs.arrays["input"].min() <= inputs.arrays["input"].max() <= 1


# ---- what the first batch normalisation shows


def normed(images, norm, build, channels=3):
    torch.manual_seed(1)
    module = nn.Sequential(*build(channels), nn.ReLU(), nn.Conv2d(16, 8, 3))
    for layer in module:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean of all batches, which one is enough for
    module.train()
    with torch.no_grad():
        module(mapped(images, norm, channels))
    return module.eval()


BUILDS = {
    "conv": lambda c: (nn.Conv2d(c, 16, 3, padding=1), nn.BatchNorm2d(16)),
    "strided": lambda c: (nn.Conv2d(c, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16)),
    "depthwise": lambda c: (nn.Conv2d(c, 5 * c, 3, groups=c), nn.BatchNorm2d(5 * c), nn.Conv2d(5 * c, 16, 1)),
    "behind two": lambda c: (nn.Conv2d(c, 16, 3), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16)),
    "behind a ReLU": lambda c: (nn.Conv2d(c, 16, 3), nn.ReLU(), nn.BatchNorm2d(16)),
    "at the input": lambda c: (nn.BatchNorm2d(c), nn.Conv2d(c, 16, 3)),
}


@pytest.mark.parametrize(
    ("name", "build"),
    [*((name, "conv") for name in NORMS), *(("zero-one", build) for build in BUILDS if build != "conv")],
)
def test_the_first_batch_normalisation(name, build, images):
    record, inputs = found(normed(images, NORMS[name], BUILDS[build]))
    assert "batch normalisation" in record["found"]
    expected, got = mapped(images, NORMS[name]).numpy(), inputs.arrays["input"]
    for channel in range(3):  # up to how one draw of images differs from another
        std = float(expected[:, channel].std())
        assert got[:, channel].std() == pytest.approx(std, rel=0.3)
        assert got[:, channel].mean() == pytest.approx(expected[:, channel].mean(), abs=0.35 * std)


def test_a_gray_net(images):
    norm = (np.array([33.0]), np.array([79.0]))
    record, inputs = found(normed(images, norm, BUILDS["conv"], 1), channels=1)
    assert not record["assumed"]
    expected = mapped(images, norm, 1).numpy()
    assert inputs.arrays["input"].std() == pytest.approx(expected.std(), rel=0.2)
    assert inputs.arrays["input"].mean() == pytest.approx(expected.mean(), abs=0.2 * float(expected.std()))


def test_statistics_that_no_images_have_are_not_used(images):
    module = normed(images, RGB, BUILDS["conv"])
    module[1].running_mean.mul_(torch.linspace(-9, 9, 16))
    module[1].running_var.mul_(torch.logspace(-3, 3, 16))
    assert found(module)[0]["assumed"]
    fresh = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)).eval()
    assert found(fresh)[0]["assumed"]


# ---- ONNX


def onnx_file(folder, metadata, normed_by=None):
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(16, 3, 3, 3)).astype(np.float32)
    nodes, tensors, name = [], [numpy_helper.from_array(weight, "w")], "x"
    for op, value in normed_by or ():
        tensors.append(numpy_helper.from_array(np.float32(value).reshape(1, -1, 1, 1), f"{op}_c"))
        nodes.append(helper.make_node(op, [name, f"{op}_c"], [op]))
        name = op
    nodes.append(helper.make_node("Conv", [name, "w"], ["y"]))
    value = lambda what, shape: helper.make_tensor_value_info(what, 1, shape)  # noqa: E731
    graph = helper.make_graph(nodes, "g", [value("x", ["n", 3, 32, 32])], [value("y", None)], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)
    onnx.save(model, folder / "net.onnx")
    return twofold.load(folder / "net.onnx")


@pytest.mark.parametrize(
    ("metadata", "expected", "color"),
    [
        ({"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "Normalized_1_1"}, SIGNED, "bgr"),
        ({"Image.NominalPixelRange": "Normalized_0_1", "Image.BitmapPixelFormat": "Rgb8"}, UNIT, "rgb"),
        ({"mean": "[0.485, 0.456, 0.406]", "std": "[0.229, 0.224, 0.225]"}, RGB, "rgb"),
        ({"mean": "123.675 116.28 103.53", "std": "58.395 57.12 57.375"}, RGB, "rgb"),
        ({"author": "Ultralytics", "stride": "32", "names": "{0: 'face'}"}, UNIT, "rgb"),
        ({"preprocessor_config": json.dumps({"image_mean": MEAN, "image_std": STD})}, RGB, "rgb"),
    ],
)
def test_onnx_metadata(tmp_path, metadata, expected, color):
    record, _ = found(onnx_file(tmp_path, metadata))
    assert_is(record, expected)
    assert record["color"] == color
    assert "metadata" in record["found"]


def test_onnx_nodes_at_the_entrance(tmp_path):
    record, _ = found(onnx_file(tmp_path, {}, [("Sub", RGB[0] / 255), ("Div", RGB[1] / 255)]))
    assert_is(record, UNIT)
    record, _ = found(onnx_file(tmp_path, {}, [("Mul", [1 / 255] * 3)]))
    assert_is(record, (np.zeros(3), np.ones(3)))


def test_an_exported_net_with_batch_normalisation(tmp_path, images):
    pytest.importorskip("onnx")
    module = normed(images, UNIT, BUILDS["conv"])
    stored = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the old exporter, which is what keeps the normalisation
        torch.onnx.export(
            module, (torch.zeros(1, 3, 32, 32),), stored, dynamo=False, do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE, opset_version=13,
        )  # fmt: skip
    (tmp_path / "net.onnx").write_bytes(stored.getvalue())
    record, inputs = found(twofold.load(tmp_path / "net.onnx"))
    assert "batch normalisation" in record["found"]
    assert inputs.arrays[next(iter(inputs.arrays))].max() < 2


# ---- images of the user's own


def test_images_that_nothing_tells_how_to_read_are_rejected(tmp_path, images):
    pillow = pytest.importorskip("PIL.Image")
    opened = [pillow.fromarray(one.transpose(1, 2, 0).astype(np.uint8)) for one in images[:4]]
    for index, one in enumerate(opened):
        one.save(tmp_path / f"{index}.png")
    with pytest.raises(InputError, match=r"nothing tells how images become.*preset.*imagenet.*zero-one"):
        found(plain(), images=tmp_path)
    _, from_files = found(plain(), images=tmp_path, image_options=twofold.ImageOptions(preset="imagenet"))
    expected = mapped(np.floor(images[:4]), RGB).numpy()
    np.testing.assert_allclose(from_files.arrays["input"], expected, atol=1e-4)
    assert not from_files.provenance.warnings
    # Images of Pillow, one of them and an iterator of them, are read as their files are.
    for given in (opened, iter(opened)):
        _, inputs = found(plain(), images=given, image_options=twofold.ImageOptions(preset="imagenet"))
        np.testing.assert_array_equal(inputs.arrays["input"], from_files.arrays["input"])
    assert found(plain(), images=opened[0], image_options=twofold.ImageOptions(preset="caffe"))[1].count == 1
    # The range is shown by the examples; the order of the channels is an assumption, and a warning.
    _, inputs = found(plain(), mapped(images, RGB), images=tmp_path)
    np.testing.assert_allclose(inputs.arrays["input"], expected, atol=1e-4)
    assert "order of the channels; RGB is assumed" in inputs.provenance.warnings[0]
    with pytest.raises(InputError, match="paths or images of Pillow, got a ndarray"):
        found(plain(), images=[images[0]], image_options=twofold.ImageOptions(preset="caffe"))


# ---- the plan


def test_the_plan_says_it_and_measures_the_net_as_it_runs(images):
    """What is called measured is the error under stored statistics, whichever the fit was made under."""
    module = normed(images, RGB, lambda c: (nn.Conv2d(c, 16, 3), nn.BatchNorm2d(16)))
    x = mapped(images, RGB)
    for wanted, options in ((True, {"data": x}), (False, {"data": x}), (True, {}), (None, {"data": x})):
        result = twofold.decompose(
            module, macs=0.5, multiple=2, refine=0, example_inputs=x[:1], **options,
            calibration=twofold.CalibrationOptions(
                batch_statistics=wanted, synthetic=None if options else 16
            ),
        )  # fmt: skip
        assert result.plan.calibration["batch_statistics"] == bool(wanted)
        calibration = twofold.decomposition.calibrate.Calibration.prepare(
            as_model(module, x[:1]),
            CalibrationSource(options=twofold.CalibrationOptions(synthetic=16), **options),
        )
        held = torch.from_numpy(np.array(calibration.holdout.arrays["input"]))
        with torch.no_grad():
            out, ref = result.model.module(held), module(held)
        true = float((out - ref).norm() / (ref - ref.mean(dim=(0, 2, 3), keepdim=True)).norm())
        assert result.plan.measured_error == pytest.approx(true, rel=0.2)
    record = json.loads(result.plan.to_json())["calibration"]["inputs"]["preprocessing"]
    assert record == {}  # data go in as they are


def test_an_assumption_is_a_warning_of_the_result():
    result = twofold.decompose(
        plain(), macs=0.5, multiple=2, refine=0, example_inputs=torch.zeros(1, 3, 32, 32)
    )
    assert any("is not known: " in warning and "assumed" in warning for warning in result.warnings)
    assert result.plan.calibration["inputs"]["preprocessing"]["input"]["assumed"]
