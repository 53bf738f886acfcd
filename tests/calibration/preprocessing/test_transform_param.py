"""What the data layers of a net say about its images."""

import numpy as np
import pytest

from twofold.calibration.preprocessing.transform_param import model_options
from twofold.errors import InputError, OptionError
from twofold.formats.caffe.fields import Fields
from twofold.formats.caffe.net import LayerSpec, NetDefinition


def net(kind="Data", *, transform=None, image_data=None):
    """A net with one data layer, as the reader gives it."""
    values = {}
    if transform is not None:
        given = {name: value if isinstance(value, list) else [value] for name, value in transform.items()}
        values["transform_param"] = [Fields("TransformationParameter", given)]
    if image_data is not None:
        given = {name: [value] for name, value in image_data.items()}
        values["image_data_param"] = [Fields("ImageDataParameter", given)]
    layer = LayerSpec("d", kind, (), ("data", "label"), Fields("LayerParameter", values))
    return NetDefinition("net", "TEST", (layer,))


def test_a_deploy_net_says_nothing():
    options, notes = model_options(net("Input"))
    assert (options.mean, options.scale, options.crop, options.color, options.size) == (None,) * 5
    assert notes == ()


def test_transform_param_is_honoured():
    transform = {"crop_size": 227, "mean_value": [104.0, 117.0, 123.0], "scale": 0.5, "mirror": True}
    options, notes = model_options(net(transform=transform))
    assert (options.crop, options.mean, options.scale) == ((227, 227), (104.0, 117.0, 123.0), 0.5)
    assert "mirror is left out" in notes[0]


def test_what_is_not_said_stays_open():
    options, notes = model_options(net(transform={"crop_size": 0}))
    assert (options.mean, options.scale, options.crop, options.color) == (None,) * 4
    assert notes == ()


def test_image_data_layers_resize_and_may_be_gray():
    image_data = {"source": "list.txt", "new_height": 40, "new_width": 50, "is_color": False}
    options, _ = model_options(net("ImageData", transform={"scale": 2.0}, image_data=image_data))
    assert (options.size, options.color, options.scale) == ((40, 50), "gray", 2.0)
    options, _ = model_options(net("ImageData", image_data=image_data))
    assert (options.size, options.color, options.scale) == ((40, 50), "gray", None)


@pytest.mark.parametrize("forced", ["force_gray", "force_color"])
def test_forced_colours(forced):
    options, _ = model_options(
        net("ImageData", transform={forced: True}, image_data={"is_color": forced == "force_gray"})
    )
    assert options.color == ("gray" if forced == "force_gray" else None)


def test_the_mean_file_is_found_beside_the_net(tmp_path):
    mean = np.random.default_rng(0).uniform(0, 255, (3, 6, 5)).astype(np.float32)
    np.save(tmp_path / "mean.npy", mean)
    told = net(transform={"mean_file": "data/x/mean.npy"})
    options, _ = model_options(told, tmp_path)
    np.testing.assert_array_equal(options.mean, mean)
    with pytest.raises(InputError, match=r"layer d names the mean file .*mean=\(104, 117, 123\)"):
        model_options(told, tmp_path / "elsewhere")


def test_two_means_are_refused():
    with pytest.raises(OptionError, match="which Caffe rejects"):
        model_options(net(transform={"mean_file": "m", "mean_value": [1.0]}))
