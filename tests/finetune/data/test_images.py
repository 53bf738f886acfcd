"""ImageData: files and labels of a list, by OpenCV; shuffling; rejections."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from tests.finetune.data.requests import reader

from twofold.errors import InputError

LAYER = """layer { name: "d" type: "ImageData" top: "data" top: "label"
  image_data_param { source: "list.txt" batch_size: 3 MORE } }"""


def layer(more: str = "") -> str:
    return LAYER.replace("MORE", more)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for i in range(7):
        name = f"images/an image {i}.png"
        # Smooth, as photographs are, so that resizing by other rounding differs by little.
        image = cv2.resize(rng.integers(256, size=(4, 5, 3)).astype(np.uint8), (15, 12))
        cv2.imwrite(str(tmp_path / name), image)
        lines.append(f"{name} {i * 10}\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    return tmp_path


def opened(folder, index: int, flag: int = cv2.IMREAD_COLOR) -> np.ndarray:
    return cv2.imread(str(folder / f"images/an image {index}.png"), flag)


def test_images_and_labels_in_the_order_of_the_list(folder):
    read = reader(folder, layer())
    for number in range(4):
        where = [i % 7 for i in range(number * 3, number * 3 + 3)]
        got = read.batch(number)
        assert got["label"].tolist() == [i * 10 for i in where]
        want = np.stack([opened(folder, i).transpose(2, 0, 1) for i in where])
        assert np.array_equal(got["data"], want)


def test_gray_and_resized(folder):
    got = reader(folder, layer("is_color: false new_height: 8 new_width: 20")).batch(0)["data"]
    want = [cv2.resize(opened(folder, i, cv2.IMREAD_GRAYSCALE), (20, 8))[None] for i in range(3)]
    np.testing.assert_allclose(got, np.stack(want), atol=2)  # one of gray, one of resizing


def test_the_root_folder_stands_before_every_name(folder):
    text = (folder / "list.txt").read_text().replace("images/", "")
    (folder / "list.txt").write_text(text)
    got = reader(folder, layer('root_folder: "images/"')).batch(0)["data"]
    assert np.array_equal(got[0], opened(folder, 0).transpose(2, 0, 1))
    with pytest.raises(InputError, match=r"the first image of .*list.txt 'an image 0.png' is neither"):
        reader(folder, layer())


def test_every_epoch_has_each_image_once_in_an_order_of_its_own(folder):
    read = reader(folder, layer("shuffle: true"))
    labels = np.concatenate([read.batch(number)["label"] for number in range(7)]).reshape(3, 7)
    assert all(sorted(epoch) == list(range(0, 70, 10)) for epoch in labels.tolist())
    assert len({tuple(epoch) for epoch in labels.tolist()}) == 3
    # Batch 5 alone is the same as batch 5 after the others.
    assert np.array_equal(reader(folder, layer("shuffle: true")).batch(5)["label"], labels.reshape(-1)[15:18])


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            "images/x.png one\n",
            r"list.txt:1: 'images/x.png one' is not a path, a space and a whole number",
        ),
        ("\n7\n", r"list.txt:2: '7' is not a path"),
        ("", "its source is empty"),
        ("none.png 1\n", "the first image of .* 'none.png' is neither in the working directory"),
    ],
)
def test_a_list_that_is_refused(folder, lines, says):
    (folder / "list.txt").write_text(lines)
    with pytest.raises(InputError, match=says):
        reader(folder, layer())


def test_a_image_that_cannot_be_decoded_is_named(folder):
    (folder / "images" / "an image 1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"an image 1.png: not an image"):
        reader(folder, layer()).batch(0)


def test_half_a_size_is_refused(folder):
    with pytest.raises(InputError, match="new_height and new_width are needed together"):
        reader(folder, layer("new_height: 8"))
