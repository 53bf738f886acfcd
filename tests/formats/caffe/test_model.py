"""A Caffe model: weights that do not fit, names, sharing, phases, encodings, and what is written."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from tests.formats.caffe.tiny_net import FOLDER as ENCODINGS
from tests.small import (
    HEAD,
    NET,
    TRAIN_VAL,
    assert_close,
    conv,
    image,
    opencv,
    random_blobs,
    write,
    write_weights,
)  # fmt: skip

import twofold
from twofold.conv import ConvLayer, Skipped
from twofold.errors import FormatError, ModelError, OptionError, OutputError, TwofoldError
from twofold.formats.caffe.caffemodel import NewLayer, create_weights, read_weights
from twofold.formats.caffe.model import CaffeModel

VERDICTS = json.loads((ENCODINGS / "verdicts.json").read_text())
#: Read although Caffe refuses it: NVCaffe loads it; a blob where the layer has none does no harm.
READ_ANYWAY = {"nvcaffe_raw_fp16", "zero_size_blob_in_relu"}

#: Schemes that together take every layer type.
BOTH = ("spatial", "channel")


def load(folder: Path, text: str = NET, blobs=None) -> CaffeModel:
    return twofold.load(*write(folder, text, blobs))


def full_rank(model: CaffeModel, folder: Path) -> list[str]:
    """Decompose all that can be at full rank and save; gives the paths."""
    result = twofold.decompose(model, ranks={"*": "full"}, no_data=True)
    return [str(path) for path in result.save(folder)][:2]


@pytest.mark.parametrize("encoding", sorted(VERDICTS))
def test_caffes_verdict_on_every_encoding(encoding):
    def open_it() -> tuple:
        return twofold.load(
            ENCODINGS / "deploy.prototxt", ENCODINGS / f"{encoding}.caffemodel"
        ).convolutions()

    if VERDICTS[encoding]["caffe"] == "fail" and encoding not in READ_ANYWAY:
        with pytest.raises((FormatError, ModelError), match=re.escape(f"{encoding}.caffemodel")) as caught:
            open_it()
        assert "\n" not in str(caught.value)
    else:
        assert [layer.name for layer in open_it()] == ["conv1", "conv2", "ip1", "ip2"]


LOADED = sorted(
    name for name, verdict in VERDICTS.items() if verdict["caffe"] != "fail" or name in READ_ANYWAY
)


@pytest.mark.parametrize("encoding", LOADED)
def test_decomposing_keeps_every_encoding(tmp_path, encoding):
    model = twofold.load(ENCODINGS / "deploy.prototxt", ENCODINGS / f"{encoding}.caffemodel")
    names = [layer.name for layer in model.convolutions() if isinstance(layer, ConvLayer)]
    if encoding == "weight_nan":
        names = [name for name in names if name not in ("conv1", "ip2")]
    result = twofold.decompose(
        model, ranks={name: 3 for name in names}, only=names, no_data=True, schemes=BOTH
    )
    _, caffemodel, _ = result.save(tmp_path)
    before, after = model.weights, read_weights(caffemodel)
    assert after.version == before.version
    for choice in result.plan.choices:
        first = before.layer(choice.layer)
        for new in result.model.replaced[choice.layer]:
            for old_blob, new_blob in zip(first.blobs, after.layer(new).blobs, strict=False):
                # Values that were stored in pieces are stored in one.
                wanted = old_blob.encoding.replace("chunked", "packed")
                if choice.relative_error < 1e-3 and len(new_blob.shape) > 1:
                    wanted = wanted.replace("raw float16", "packed float32")  # half would lose more
                assert new_blob.encoding == wanted
    kept = [[one for one in w.layers if not one.name.startswith(("conv", "ip"))] for w in (before, after)]
    for old, new in zip(*kept, strict=True):
        assert old.name == new.name
        for old_blob, new_blob in zip(old.blobs, new.blobs, strict=True):
            np.testing.assert_array_equal(old_blob.array(), new_blob.array())


def test_weights_that_do_not_fit_name_layer_and_shapes(tmp_path):
    blobs = random_blobs(NET)
    blobs["two"][0] = blobs["two"][0][:, :32]
    model = load(tmp_path, NET, blobs)
    with pytest.raises(
        ModelError,
        match=r"'two': .*net\.caffemodel has arrays of shape 64x32x3x3 and 64, but .*net\.prototxt needs "
        r"64x64x3x3 and 64; they do not belong together",
    ):
        model.convolutions()


@pytest.mark.parametrize(
    ("layer", "shapes", "needs"),
    [
        ('type: "InnerProduct" inner_product_param { num_output: 7 }', [(7, 720), (6,)], "7x720 and 7"),
        ('type: "InnerProduct" inner_product_param { num_output: 7 }', [(7, 719), (7,)], "7x720 and 7"),
        ('type: "InnerProduct" inner_product_param { num_output: 7 transpose: true bias_term: false }',
         [(7, 720)], "720x7"),
        ('type: "PReLU" prelu_param { channel_shared: true }', [(5,)], "scalar"),
        ('type: "PReLU"', [(4,)], "of shape 4, but .* needs 5"),
        ('type: "Scale" scale_param { bias_term: true }', [(5,)], "5 and 5"),
        ('type: "Bias"', [(5, 1)], "needs 5"),
        ('type: "Deconvolution" convolution_param { num_output: 2 kernel_size: 4 }', [(2, 5, 4, 4), (2,)],
         "5x2x4x4 and 2"),
        ('type: "Deconvolution" convolution_param { num_output: 2 kernel_size: 4 }', [(5, 2, 4, 4)],
         "5x2x4x4 and 2"),
    ],
)  # fmt: skip
def test_other_layers_are_checked_too(tmp_path, layer, shapes, needs):
    text = NET + f'layer {{ name: "last" bottom: "out" top: "last" {layer} }}\n'
    blobs = random_blobs(NET) | {"last": [np.zeros(shape, np.float32) for shape in shapes]}
    with pytest.raises(ModelError, match=f"'last'.*{needs}"):
        load(tmp_path, text, blobs).convolutions()


def test_batch_norms_of_forks_are_not_judged(tmp_path):
    text = NET + 'layer { name: "bn" type: "BatchNorm" bottom: "out" top: "bn" }\n'
    blobs = random_blobs(NET) | {"bn": [np.ones(5, np.float32)] * 5}
    assert len(load(tmp_path, text, blobs).convolutions()) == 3


def test_a_damaged_array_of_any_layer_is_refused(tmp_path):
    blobs = random_blobs(NET)
    write(tmp_path, NET, blobs)
    whole = (tmp_path / "net.caffemodel").read_bytes()
    for cut in (len(whole) - 1, len(whole) - 4, len(whole) // 2, 40, 3):
        (tmp_path / "net.caffemodel").write_bytes(whole[:cut])
        with pytest.raises((FormatError, ModelError), match=r"net\.caffemodel"):
            twofold.load(tmp_path / "net.prototxt", tmp_path / "net.caffemodel").convolutions()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "HTML|web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git LFS pointer"),
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(100), "ZIP|zip"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        (b"\0" * 50, "no layers|zero"),
        (b"random text that is nothing", "."),
    ],
)
def test_what_is_no_caffemodel(tmp_path, content, reason):
    write(tmp_path)
    (tmp_path / "net.caffemodel").write_bytes(content)
    with pytest.raises(FormatError, match=rf"net\.caffemodel: .*({reason})") as caught:
        twofold.load(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert "\n" not in str(caught.value)


def test_a_layer_without_weights_is_left_alone_and_named(tmp_path):
    blobs = random_blobs(NET)
    del blobs["two"]
    one, two, _ = load(tmp_path, NET, blobs).convolutions()
    assert isinstance(one, ConvLayer)
    assert isinstance(two, Skipped)
    assert re.search(r"no weights in .*net\.caffemodel; Caffe would run it with its filler", two.reason)


def test_weights_of_another_net(tmp_path):
    blobs = {f"other_{name}": arrays for name, arrays in random_blobs(NET).items()}
    with pytest.raises(
        ModelError, match=r"other layers than .*net\.prototxt has: 'other_one', .*do not belong"
    ):
        load(tmp_path, NET, blobs)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no layers"),
        ('name: "empty"\ninput: "data"\ninput_dim: [1, 3, 8, 8]\n', "no layers"),
        ('net: "train_val.prototxt"\nbase_lr: 0.01\nlr_policy: "step"\nmax_iter: 10\n', "solver"),
        ("# only a comment\n", "no layers"),
    ],
)
def test_a_net_without_layers(tmp_path, text, reason):
    (tmp_path / "net.prototxt").write_text(text)
    with pytest.raises(ModelError, match=rf"net\.prototxt: .*{reason}"):
        twofold.load(tmp_path / "net.prototxt")


def test_a_net_without_convolutions(tmp_path):
    write(tmp_path, HEAD + 'layer { name: "r" type: "ReLU" bottom: "data" top: "r" }\n', {"r": []})
    model = twofold.load(tmp_path / "net.prototxt")
    with pytest.raises(ModelError, match="no convolutions"):
        twofold.decompose(model, no_data=True)


def test_without_weights_only_shapes_are_known(tmp_path):
    write(tmp_path)
    model = twofold.load(tmp_path / "net.prototxt")
    one, *_ = model.convolutions()
    assert isinstance(one, ConvLayer)
    assert one.weight is None
    assert one.input_sizes == ((12, 12),)
    with pytest.raises(TwofoldError, match="weights are not loaded"):
        twofold.decompose(model, ranks={"one": 4}, no_data=True)


def test_new_names_avoid_every_name_in_the_files(tmp_path):
    """A layer, a blob and an entry of the weights are in the way."""
    text = HEAD + conv("one", "data") + conv("two", "one")
    text += 'layer { name: "two_0" type: "ReLU" bottom: "two" top: "one_0" }\n'
    blobs = random_blobs(text) | {"one_1": [np.zeros(3, np.float32)]}
    model = load(tmp_path, text, blobs)
    files = full_rank(model, tmp_path / "out")
    new = twofold.load(*files)
    names = [layer.name for layer in new.net().layers]
    assert len(set(names)) == len(names)
    assert {"one_1", "one_0"} - set(names) == {"one_1"}
    assert "two_0" in names
    assert_close(
        opencv(*files, image())[0],
        opencv(tmp_path / "net.prototxt", tmp_path / "net.caffemodel", image())[0],
    )
    assert "".join(names).count("two") == 3


def test_consumers_and_in_place_layers_see_what_they_saw(tmp_path):
    text = HEAD + conv("one", "data") + 'layer { name: "act" type: "ReLU" bottom: "one" top: "one" }\n'
    text += conv("two", "one") + conv("three", "one")
    text += 'layer { name: "sum" type: "Eltwise" bottom: "one" bottom: "two" bottom: "three" top: "sum" }\n'
    model = load(tmp_path, text)
    files = full_rank(model, tmp_path / "out")
    x = image()
    for layer in ("act", "two", "three", "sum"):
        wanted = opencv(tmp_path / "net.prototxt", tmp_path / "net.caffemodel", x, layer)[0]
        assert_close(opencv(*files, x, layer)[0], wanted)


def test_one_name_in_train_and_test_is_one_convolution(tmp_path):
    text = (
        HEAD
        + conv("one", "data")
        + "".join(
            conv("two", "one").replace(
                'type: "Convolution"', f'type: "Convolution" include {{ phase: {phase} }}'
            )
            for phase in ("TRAIN", "TEST")
        )
    )
    model = load(tmp_path, text)
    assert [layer.name for layer in model.convolutions()] == ["one", "two"]
    two = model.convolutions()[1]
    assert two.input_sizes == ((12, 12),)
    result = twofold.decompose(model, only="two", ranks={"two": 8}, no_data=True)
    result.save(tmp_path / "out")
    new = twofold.load(tmp_path / "out" / "net.prototxt", tmp_path / "out" / "net.caffemodel")
    for phase in ("TRAIN", "TEST"):
        assert [layer.name for layer in new.net(phase).layers] == ["data", "one", "two_0", "two"]
    assert [layer.name for layer in new.weights.layers] == ["one", "two_0", "two"]


def test_one_name_twice_in_one_phase_is_left_alone(tmp_path):
    text = HEAD.replace("16", "64") + conv("one", "data")
    blobs = random_blobs(text)
    text += conv("one", "one").replace('top: "one"', 'top: "again"')
    (skipped,) = load(tmp_path, text, blobs).convolutions()
    assert isinstance(skipped, Skipped)
    assert "two layers of this name in one phase" in skipped.reason


def sharing(*layers: str) -> str:
    return HEAD.replace("16", "64") + "".join(layers)


def shared(name: str, bottom: str, parameter: str = 'param { name: "w" }') -> str:
    return conv(name, bottom).replace("convolution_param", f"{parameter}\n  convolution_param")


def test_a_weight_shared_with_another_kind_of_layer_is_left_alone(tmp_path):
    """An InnerProduct may use the convolution's weight under PERMISSIVE; its copy must not be orphaned."""
    text = sharing(
        shared("left", "data"),
        'layer { name: "fc" type: "InnerProduct" bottom: "left" top: "fc" '
        'param { name: "w" share_mode: PERMISSIVE } inner_product_param { num_output: 4 bias_term: false } }',
    )
    blobs = random_blobs(text) | {"fc": [np.zeros((4, 9216), np.float32)]}
    left, other = load(tmp_path, text, blobs).convolutions()
    assert isinstance(left, Skipped)
    assert "layer 'fc' shares its weight or bias" in left.reason
    assert isinstance(other, Skipped)


def test_a_bias_shared_without_the_weight_is_left_alone(tmp_path):
    """A correction of the one's bias would be loaded into the other's."""
    text = sharing(
        shared("left", "data", 'param { } param { name: "b" }'),
        shared("right", "data", 'param { } param { name: "b" }'),
    )
    for skipped, other in zip(load(tmp_path, text).convolutions(), ("right", "left"), strict=True):
        assert isinstance(skipped, Skipped)
        assert f"layer {other!r} shares its weight or bias" in skipped.reason
    both = 'param { name: "w" } param { name: "b" }'
    (layer,) = load(tmp_path, sharing(shared("l", "data", both), shared("r", "data", both))).convolutions()
    assert isinstance(layer, ConvLayer)


def test_a_sharer_alone_in_the_file(tmp_path):
    """The owner has a bias but no entry; its bias is its filler's, which no file of weights tells."""
    text = sharing(
        shared("left", "data"), shared("right", "data").replace("pad: 1", "pad: 1\n    bias_term: false")
    )
    blobs = random_blobs(text)
    bias = blobs["left"].pop()
    only_right = {"right": blobs["right"]}
    (skipped,) = load(tmp_path, text, only_right).convolutions()
    assert isinstance(skipped, Skipped)
    assert "has no weights" in skipped.reason
    (layer,) = load(tmp_path, text, {"left": [blobs["right"][0], bias]}).convolutions()  # as Caffe shares it
    assert isinstance(layer, ConvLayer)
    np.testing.assert_array_equal(layer.bias, bias)


def test_full_rank_of_shared_weights(tmp_path):
    text = sharing(
        shared("left", "data"), shared("right", "data"),
        'layer { name: "cat" type: "Concat" bottom: "left" bottom: "right" top: "cat" }\n',
    )  # fmt: skip
    model = load(tmp_path, text)
    assert len(model.convolutions()) == 1
    files = full_rank(model, tmp_path / "out")
    x = image(1, 64, 12, 12)
    assert_close(opencv(*files, x)[0], opencv(tmp_path / "net.prototxt", tmp_path / "net.caffemodel", x)[0])


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_bias_that_is_not_finite_stays_as_it_is(tmp_path, value):
    blobs = random_blobs(NET)
    blobs["two"][1][5] = value
    result = twofold.decompose(load(tmp_path, NET, blobs), ranks={"two": 16}, only="two", no_data=True)
    _, caffemodel, _ = result.save(tmp_path / "out")
    np.testing.assert_array_equal(read_weights(caffemodel).layer("two_1").blobs[1].array(), blobs["two"][1])


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1e12, 1e30])
def test_weights_of_any_size(tmp_path, scale):
    blobs = random_blobs(NET)
    blobs["two"][0] = (blobs["two"][0] * np.float32(scale)).astype(np.float32)
    result = twofold.decompose(load(tmp_path, NET, blobs), ranks={"two": 192, "one": 48}, no_data=True)
    result.save(tmp_path / "out")
    new = twofold.load(tmp_path / "out" / "net.prototxt", tmp_path / "out" / "net.caffemodel")
    x = image()
    (before,) = opencv(tmp_path / "net.prototxt", tmp_path / "net.caffemodel", x, "two")
    (after,) = opencv(tmp_path / "out" / "net.prototxt", tmp_path / "out" / "net.caffemodel", x, "two")
    assert all(np.isfinite(layer.weight).all() for layer in new.convolutions())
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-4 * max(np.ptp(before), 1e-6))


def test_gray_images_of_a_data_base(tmp_path):
    """A cropping data layer does not tell the channels; the first convolution's weight does."""
    text = TRAIN_VAL.replace(
        'data_param { source: "train"', 'transform_param { crop_size: 12 } data_param { source: "train"'
    )
    text = text.replace(
        'data_param { source: "val"', 'transform_param { crop_size: 12 } data_param { source: "val"'
    )
    model = load(tmp_path, text, random_blobs(NET))
    one, *_ = model.convolutions()
    assert isinstance(one, ConvLayer)
    assert one.geometry.c_in == 16
    assert one.input_sizes == ((12, 12),)


def test_sizes_are_given_where_the_file_has_none(tmp_path):
    write(tmp_path, TRAIN_VAL, random_blobs(NET))
    files = (tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert twofold.load(*files).convolutions()[0].macs == 0
    assert twofold.load(*files, inputs={"data": (1, 16, 12, 12)}).convolutions()[0].macs == 64 * 16 * 9 * 144


def test_hdf5_weights(tmp_path):
    h5py = pytest.importorskip("h5py")
    blobs = random_blobs(NET)
    write(tmp_path, NET, blobs)
    path = tmp_path / "net.caffemodel.h5"
    with h5py.File(path, "w") as file:
        for name, arrays in blobs.items():
            for i, array in enumerate(arrays):
                file.create_dataset(f"data/{name}/{i}", data=array)
    model = twofold.load(tmp_path / "net.prototxt", path)
    result = twofold.decompose(model, ranks={"one": 48, "two": 192}, no_data=True)
    _, written, _ = result.save(tmp_path / "out")
    assert written.name == "net.caffemodel.h5"
    stored = {layer.name: [b.array() for b in layer.blobs] for layer in read_weights(written).layers}
    assert sorted(stored) == ["one_0", "one_1", "out", "two_0", "two_1"]
    as_protobuf = write_weights(tmp_path / "again.caffemodel", stored)
    x = image()
    assert_close(
        opencv(tmp_path / "out" / "net.prototxt", as_protobuf, x)[0],
        opencv(tmp_path / "net.prototxt", tmp_path / "net.caffemodel", x)[0],
    )


def test_v1_net_with_v1_weights_keeps_its_age(tmp_path):
    golden = ENCODINGS.parent / "forward" / "net_v1_lenet"
    model = twofold.load(golden / "net.prototxt", golden / "weights.caffemodel")
    names = [layer.name for layer in model.convolutions() if isinstance(layer, ConvLayer)]
    result = twofold.decompose(model, ranks={name: 2 for name in names}, no_data=True, schemes=BOTH)
    prototxt, caffemodel, _ = result.save(tmp_path)
    assert "layers" in prototxt.read_text()
    assert not re.search(r"\blayer\b", prototxt.read_text())
    assert read_weights(caffemodel).version == model.weights.version


def test_a_v0_net_is_decomposed_and_becomes_v1(tmp_path):
    text = """input: "data" input_dim: 1 input_dim: 16 input_dim: 12 input_dim: 12
layers { layer { name: "pad" type: "padding" pad: 1 } bottom: "data" top: "pad" }
layers {  # the only one
  layer { name: "one" type: "conv" num_output: 64 kernelsize: 3 blobs_lr: 1 blobs_lr: 2. }
  bottom: "pad" top: "one"
}
"""
    (tmp_path / "net.prototxt").write_text(text)
    blobs = {"one": random_blobs(HEAD + conv("one", "data"))["one"]}
    model = twofold.load(tmp_path / "net.prototxt", write_weights(tmp_path / "net.caffemodel", blobs))
    (one,) = model.convolutions()
    assert isinstance(one, ConvLayer)
    assert (one.geometry.kernel, one.geometry.pad) == ((3, 3), ((1, 1), (1, 1)))
    result = twofold.decompose(model, ranks={"one": "full"}, schemes="spatial", no_data=True)
    prototxt, caffemodel, _ = result.save(tmp_path / "out")
    written = prototxt.read_text()
    assert "# the only one" in written
    assert "blobs_lr: 2" in written
    assert re.search(r"kernel_h: 3\s+kernel_w: 1|kernel_h: 1\s+kernel_w: 3", written)
    (tmp_path / "v2.prototxt").write_text(HEAD + conv("one", "data"))
    x = image()
    wanted = opencv(tmp_path / "v2.prototxt", tmp_path / "net.caffemodel", x)[0]
    assert_close(opencv(prototxt, caffemodel, x)[0], wanted)


def test_what_was_written_is_compared_before_it_is_in_place(tmp_path, monkeypatch):
    model = load(tmp_path)
    result = twofold.decompose(model, ranks={"two": 16}, no_data=True)
    real = read_weights

    def damaged(path):
        weights = real(path)
        new = result.model.replaced["two"][0]
        other = create_weights([NewLayer(new, "Convolution", [weights.layer(new).blobs[0].array() * 1.01])])
        return type(weights)(weights.path, weights.version, [
            *(r for r in weights._records if r.layer is None or r.layer.name != new), *other._records
        ])  # fmt: skip

    monkeypatch.setattr("twofold.formats.caffe.model.read_weights", damaged)
    with pytest.raises(OutputError, match="'two_0': its weights differ"):
        result.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_model_save_needs_a_place_for_the_weights(tmp_path):
    model = load(tmp_path)
    with pytest.raises(OptionError, match="say where they go"):
        model.save(tmp_path / "out.prototxt")
    with pytest.raises(OptionError, match="different files"):
        model.save(tmp_path / "out", tmp_path / "out")
    model.save(tmp_path / "new" / "a.prototxt", tmp_path / "new" / "b.caffemodel")
    assert (tmp_path / "new" / "a.prototxt").read_bytes() == (tmp_path / "net.prototxt").read_bytes()
    assert (tmp_path / "new" / "b.caffemodel").read_bytes() == (tmp_path / "net.caffemodel").read_bytes()


def test_files_of_one_name_in_two_folders_are_refused(tmp_path):
    write(tmp_path)
    other = tmp_path / "weights"
    other.mkdir()
    (tmp_path / "net.caffemodel").rename(other / "net.prototxt")
    result = twofold.decompose(
        twofold.load(tmp_path / "net.prototxt", other / "net.prototxt"), ranks={"two": 16}, no_data=True
    )
    with pytest.raises(TwofoldError, match=r"both called 'net\.prototxt'; rename one"):
        result.save(tmp_path / "out")


def test_decomposing_twice(tmp_path):
    """A result is a model like any other."""
    first = twofold.decompose(load(tmp_path), ranks={"two": 64}, only="two", no_data=True)
    again = twofold.decompose(first.model, ranks={"one": 48}, only="one", no_data=True)
    again.save(tmp_path / "out")
    names = [layer.name for layer in twofold.load(tmp_path / "out" / "net.prototxt").net().layers]
    assert names == ["data", "one_0", "one_1", "two_0", "two_1", "relu", "out"]
    assert_close(
        opencv(tmp_path / "out" / "net.prototxt", tmp_path / "out" / "net.caffemodel", image(), "one")[0],
        opencv(tmp_path / "net.prototxt", tmp_path / "net.caffemodel", image(), "one")[0],
    )


OUTPUT = HEAD + conv("one", "data") + conv("conv6-2", "one")
TWIN = OUTPUT.replace('"Input" top: "data" input_param', '"Input" top: "data" top: "label" input_param') + (
    'layer { name: "loss" type: "EuclideanLoss" bottom: "conv6-2" bottom: "label" top: "loss" }'
)


LAST = {
    "Deconvolution": ("convolution_param { num_output: 12 kernel_size: 4 stride: 2 pad: 1 }", (64, 12, 4, 4)),
    "InnerProduct": ("inner_product_param { num_output: 24 }", (24, 64 * 144)),
    "Convolution": ("convolution_param { num_output: 12 kernel_size: 1 }", (12, 64, 1, 1)),
}


@pytest.mark.parametrize("tail", ["", 'layer { name: "r" type: "ReLU" bottom: "up" top: "up" }'])
@pytest.mark.parametrize("layer_type", LAST)
def test_the_last_layer_keeps_its_name_whatever_its_type_and_top(tmp_path, layer_type, tail):
    parameters, shape = LAST[layer_type]
    text = HEAD + conv("one", "data")
    text += f'layer {{ name: "dc" type: "{layer_type}" bottom: "one" top: "up" {parameters} }} {tail}'
    rng = np.random.default_rng(0)
    weight = rng.normal(size=shape) / np.prod(shape[1:]) ** 0.5
    bias = np.zeros(shape[layer_type == "Deconvolution"])
    blobs = {"dc": [one.astype(np.float32) for one in (weight, bias)]}
    files, x = write(tmp_path, text, random_blobs(HEAD + conv("one", "data")) | blobs), image()
    result = twofold.decompose(twofold.load(*files), ranks={"dc": "full"}, only="dc", no_data=True)
    assert [choice.becomes for choice in result.plan.choices] == [("dc_0", "dc")]
    prototxt, caffemodel, _ = result.save(tmp_path / "out")
    name = "up" if layer_type == "Convolution" else "dc"  # OpenCV calls convolutions by their tops
    (got,), (wanted,) = opencv(prototxt, caffemodel, x, name), opencv(*files, x, name)
    assert_close(got, wanted)


@pytest.mark.parametrize("tail", ["", 'layer { name: "p" type: "Softmax" bottom: "conv6-2" top: "p" }'])
def test_a_layer_that_gives_an_output_keeps_its_name(tmp_path, tail):
    """OpenCV asks for outputs by layer; and the training net's weights must fit the net's."""
    files, x = write(tmp_path, OUTPUT + tail), image()
    result = twofold.decompose(twofold.load(*files), ranks={"*": "full"}, schemes="spatial", no_data=True)
    prototxt, caffemodel, _ = result.save(tmp_path / "out")
    (got,), (wanted,) = opencv(prototxt, caffemodel, x, "conv6-2"), opencv(*files, x, "conv6-2")
    assert_close(got, wanted)
    names = [choice.becomes for choice in result.plan.choices]
    assert names == [("one_0", "one_1"), ("conv6-2_0", "conv6-2")]
    # A plan that was edited names no layers; then the rule must say the same of the training net.
    edited = [dataclasses.replace(choice, becomes=()) for choice in result.plan.choices]
    (tmp_path / "twin.prototxt").write_text(TWIN)
    twin = twofold.load(tmp_path / "twin.prototxt", files[1])
    for plan in (result.plan, dataclasses.replace(result.plan, choices=tuple(edited))):
        assert [choice.becomes for choice in twofold.apply_plan(plan, twin).plan.choices] == names


def test_a_twin_takes_the_names_of_its_plan(tmp_path):
    """Where a layer is read by more in the training net, the rule alone would name it otherwise."""
    files = write(tmp_path, OUTPUT)
    result = twofold.decompose(twofold.load(*files), ranks={"*": "full"}, schemes="spatial", no_data=True)
    more = 'layer { name: "more" type: "ReLU" bottom: "conv6-2" top: "more" }'
    (tmp_path / "twin.prototxt").write_text(TWIN + more)
    twin = twofold.apply_plan(result.plan, twofold.load(tmp_path / "twin.prototxt", files[1]))
    assert twin.plan.choices[-1].becomes == ("conv6-2_0", "conv6-2")
