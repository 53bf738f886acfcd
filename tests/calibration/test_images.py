"""Odd image files, made by Pillow. OpenCV, which Caffe reads images with, is the oracle."""

import warnings

import cv2
import numpy as np
import pytest
from PIL import Image

from twofold.calibration.images import ImageOptions, load_images
from twofold.calibration.pixels import BadImageError, find_images, read_pixels, resize
from twofold.errors import InputError, OptionError

RNG = np.random.default_rng(1)
NET = {"data": (3, 8, 10)}


def image(height=30, width=40, channels=3):
    """Smooth, so that JPEG keeps it."""
    small = RNG.integers(0, 256, (4, 4, channels), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, channels)


@pytest.fixture
def folder(tmp_path):
    for index in range(4):
        Image.fromarray(image()).save(tmp_path / f"{index}.png")
    return tmp_path


# What the pixels are ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "jpg", "tif", "webp"])
def test_pixels_are_those_of_opencv(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(image()).save(path)
    # JPEG decoders may differ by rounding in the inverse transform.
    np.testing.assert_allclose(read_pixels(path, "bgr").astype(int), cv2.imread(str(path)), atol=3)
    np.testing.assert_array_equal(read_pixels(path, "bgr")[:, :, ::-1], read_pixels(path, "rgb"))


def test_gray_is_weighted_as_opencv_weights_it(tmp_path):
    Image.fromarray(image()).save(tmp_path / "a.png")
    expected = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_GRAYSCALE)
    gray = read_pixels(tmp_path / "a.png", "gray")
    assert gray.shape == (30, 40, 1)
    np.testing.assert_allclose(gray[:, :, 0].astype(int), expected, atol=1)


def test_exif_orientation_turns_the_image(tmp_path):
    opened = Image.fromarray(image())
    exif = opened.getexif()
    exif[0x0112] = 6
    opened.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    pixels = read_pixels(tmp_path / "turned.jpg", "bgr")
    assert pixels.shape == (40, 30, 3)
    np.testing.assert_allclose(pixels.astype(int), cv2.imread(str(tmp_path / "turned.jpg")), atol=3)


def test_alpha_is_dropped(tmp_path):
    colors = image()
    alpha = RNG.integers(0, 256, (30, 40, 1), dtype=np.uint8)
    Image.fromarray(np.concatenate([colors, alpha], 2)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png", "rgb"), colors)
    Image.fromarray(np.concatenate([colors[:, :, :1], alpha], 2), "LA").save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_pixels(tmp_path / "la.png", "gray"), colors[:, :, :1])


def test_sixteen_bits_keep_the_upper_eight(tmp_path):
    values = RNG.integers(0, 65536, (30, 40), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_pixels(tmp_path / "deep.png", "gray")[:, :, 0], values >> 8)
    np.testing.assert_array_equal(
        read_pixels(tmp_path / "deep.png", "bgr"), cv2.imread(str(tmp_path / "deep.png"))
    )


def test_palette_with_transparency_black_and_white_and_cmyk(tmp_path):
    opened = Image.fromarray(image())
    opened.quantize(16).save(tmp_path / "palette.png", transparency=3)
    np.testing.assert_array_equal(
        read_pixels(tmp_path / "palette.png", "bgr"), cv2.imread(str(tmp_path / "palette.png"))
    )
    opened.convert("1").save(tmp_path / "bits.png")
    assert set(np.unique(read_pixels(tmp_path / "bits.png", "gray"))) == {0, 255}
    opened.convert("CMYK").save(tmp_path / "print.tif")
    np.testing.assert_allclose(
        read_pixels(tmp_path / "print.tif", "rgb").astype(int), np.asarray(opened), atol=2
    )


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 200)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert np.all(read_pixels(tmp_path / "moving.gif", "gray") == 10)


def test_images_without_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "long.tif")
    (tmp_path / "html.jpg").write_text("<html>404</html>")
    Image.fromarray(image(200, 200)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:300])
    (tmp_path / "empty.png").write_bytes(b"")
    for name, reason in [
        ("float.tif", "floating-point"),
        ("long.tif", "32-bit"),
        ("html.jpg", "not an image"),
        ("cut.png", "cannot be decoded"),
        ("empty.png", "not an image"),
        ("missing.png", "no such file"),
    ]:
        with pytest.raises(BadImageError, match=reason):
            read_pixels(tmp_path / name, "bgr")


@pytest.mark.parametrize("size", [(8, 10), (30, 20), (61, 85), (1, 1), (30, 40)])
def test_resizing_is_that_of_opencv(size):
    opened = image()
    expected = cv2.resize(opened, size[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resize(opened, size).astype(int), expected, atol=1)


# Which files --------------------------------------------------------------------------------------------


def test_a_folder_is_read_with_its_subfolders(folder):
    (folder / "more").mkdir()
    Image.fromarray(image()).save(folder / "more" / "b.JPG")
    (folder / "notes.md").write_text("no image")
    (folder / ".hidden.png").write_text("thumbnail")
    assert [path.name for path in find_images(folder)] == ["0.png", "1.png", "2.png", "3.png", "b.JPG"]


def test_patterns_lists_and_single_files(folder):
    assert [path.name for path in find_images(f"{folder}/[12].png")] == ["1.png", "2.png"]
    assert find_images(str(folder / "0.png")) == [folder / "0.png"]
    Image.fromarray(image()).save(folder / "two words 7", "PNG")
    (folder / "val.txt").write_text("0.png 3\n\n2.png\ntwo words 7\n")
    assert [path.name for path in find_images(folder / "val.txt")] == ["0.png", "2.png", "two words 7"]
    assert len(find_images([folder / "0.png", str(folder / "1.png")])) == 2


def test_nothing_there_is_an_error(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    for source in (tmp_path, tmp_path / "missing", f"{tmp_path}/*.png", tmp_path / "empty.txt"):
        with pytest.raises(InputError, match=r"no |empty"):
            find_images(source)


# From pixels to samples ---------------------------------------------------------------------------------


def test_default_is_what_opencvs_blob_has(folder):
    options = ImageOptions(mean=(104.0, 117.0, 123.0), scale=0.017)
    inputs = load_images(folder, NET, options)
    expected = cv2.dnn.blobFromImages(
        [cv2.imread(str(path)) for path in find_images(folder)], 0.017, (10, 8), (104, 117, 123)
    )
    np.testing.assert_allclose(inputs.arrays["data"], expected, atol=0.017 * 1.01)


def test_size_then_centre_crop(folder):
    inputs = load_images(folder, NET, ImageOptions(size=(13, 21)))
    image = resize(read_pixels(folder / "0.png", "bgr"), (13, 21))
    np.testing.assert_array_equal(inputs.arrays["data"][0], image[2:10, 5:15].transpose(2, 0, 1))


def test_one_number_is_the_shorter_side(folder):
    inputs = load_images(folder, NET, ImageOptions(size=15))
    image = resize(read_pixels(folder / "0.png", "bgr"), (15, 20))
    np.testing.assert_array_equal(inputs.arrays["data"][0], image[3:11, 5:15].transpose(2, 0, 1))


def test_crops_come_from_the_image_at_its_own_scale(folder):
    options = ImageOptions(crops=3, seed=5)
    inputs = load_images(folder, NET, options)
    assert inputs.count == 12
    whole = read_pixels(folder / "0.png", "bgr")
    windows = np.lib.stride_tricks.sliding_window_view(whole, (8, 10), (0, 1))
    for sample in inputs.arrays["data"][:3]:
        assert np.any(np.all(windows == sample, axis=(2, 3, 4)))
    assert load_images(folder, NET, options).digest() == inputs.digest()
    assert load_images(folder, NET, ImageOptions(crops=3, seed=6)).digest() != inputs.digest()


@pytest.mark.parametrize("shape", [(5, 40), (40, 3), (2, 2), (8, 10), (9, 11)])
def test_small_images_are_enlarged_to_cover_the_crop(tmp_path, shape):
    Image.fromarray(image(*shape)).save(tmp_path / "a.png")
    assert load_images(tmp_path, NET, ImageOptions(crops=2)).arrays["data"].shape == (2, 3, 8, 10)


def test_gray_nets_take_gray(folder):
    gray = load_images(folder, {"data": (1, 8, 10)})
    np.testing.assert_array_equal(
        gray.arrays["data"][0, 0], resize(read_pixels(folder / "0.png", "gray"), (8, 10))[..., 0]
    )
    with pytest.raises(OptionError, match="color gray gives 1"):
        load_images(folder, NET, ImageOptions(color="gray"))


def test_a_mean_image_is_cropped_with_the_image(folder):
    mean = RNG.uniform(0, 255, (3, 16, 20)).astype(np.float32)
    inputs = load_images(folder, NET, ImageOptions(size=(16, 20), mean=mean))
    image = resize(read_pixels(folder / "0.png", "bgr"), (16, 20)).transpose(2, 0, 1)
    np.testing.assert_allclose(inputs.arrays["data"][0], (image - mean)[:, 4:12, 5:15], atol=1e-4)
    assert not inputs.provenance.notes
    other = load_images(folder, NET, ImageOptions(mean=mean))
    assert "mean per channel" in other.provenance.notes[0]
    flat = load_images(folder, NET, ImageOptions(mean=tuple(mean.mean(axis=(1, 2)))))
    np.testing.assert_allclose(other.arrays["data"], flat.arrays["data"], atol=1e-4)


def test_free_sizes_need_a_size(folder):
    free = {"data": (3, None, None)}
    assert load_images(folder, free, ImageOptions(crop=(6, 7))).arrays["data"].shape == (4, 3, 6, 7)
    assert load_images(folder, free, ImageOptions(size=(6, 7))).arrays["data"].shape == (4, 3, 6, 7)
    with pytest.raises(OptionError, match="say the size"):
        load_images(folder, free)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (4, 4)}, "smaller than"),
        ({"size": 9}, "smaller than"),
        ({"crop": (9, 9)}, "does not fit"),
        ({"mean": (1.0, 2.0)}, "2 values"),
        ({"mean": (float("nan"),)}, "not finite"),
        ({"scale": 0.0}, "scale"),
        ({"size": 0}, "positive"),
        ({"crops": 0}, "at least one crop"),
        ({"color": "cmyk"}, "choose from bgr, rgb, gray"),
    ],
)
def test_impossible_options(folder, options, message):
    with pytest.raises(OptionError, match=message):
        load_images(folder, NET, ImageOptions(**options))


@pytest.mark.parametrize("shapes", [{"a": (3, 8, 8), "b": (3, 8, 8)}, {"a": (10,)}, {"a": (7, 8, 8)}])
def test_nets_that_take_no_images(folder, shapes):
    with pytest.raises(InputError, match="give arrays"):
        load_images(folder, shapes)


def test_bad_images_are_named_and_left_out(folder):
    (folder / "bad.png").write_text("not")
    inputs = load_images(folder, NET)
    assert inputs.count == 4
    assert inputs.provenance.skipped == ((str(folder / "bad.png"), "not an image in a known format"),)
    assert "1 of 5 images were skipped" in inputs.provenance.notes
    assert inputs.record()["skipped"] == [[str(folder / "bad.png"), "not an image in a known format"]]


def test_too_few_usable_images(folder):
    with pytest.raises(InputError, match=r"4 of 4 images can be used \(at least 5"):
        load_images(folder, NET, minimum=5)
    for index in range(5):
        (folder / f"bad{index}.png").write_text("not")
    with pytest.raises(InputError, match=r"4 of 9 .*fewer than half.*bad0\.png.*and 2 more"):
        load_images(folder, NET)


def test_the_limit_draws_by_seed(folder):
    options = ImageOptions(limit=2, seed=3)
    inputs = load_images(folder, NET, options)
    assert inputs.count == 2
    assert inputs.provenance.notes == ("2 of 4 images, drawn with seed 3",)
    assert load_images(folder, NET, options).digest() == inputs.digest()
    assert load_images(folder, NET, ImageOptions(limit=0)).count == 4


def test_a_large_image_warns_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.fromarray(image()).save(tmp_path / "large.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_images(tmp_path, NET).count == 1
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="too many pixels"):
        load_images(tmp_path, NET)


def test_what_is_said_wins_over_what_the_model_says():
    model = ImageOptions(crop=(8, 10), mean=(1.0, 2.0, 3.0), scale=0.5)
    merged = ImageOptions(scale=2.0, crops=4).or_else(model)
    assert (merged.crop, merged.mean, merged.scale, merged.crops) == ((8, 10), (1.0, 2.0, 3.0), 2.0, 4)


def test_options_are_plain_json():
    mean = np.ones((3, 4, 4), np.float32)
    record = ImageOptions(size=(5, 6), mean=mean).to_json()
    assert record["size"] == [5, 6]
    assert record["mean"] == {"shape": [3, 4, 4], "channels": [1.0, 1.0, 1.0]}
