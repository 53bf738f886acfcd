"""Drawn text with its labels, how what is found is counted, and the networks that find and read it."""

import cv2
import numpy as np
import pytest
from benchmarks.words import f_score, matches, words
from zoo.onnx_models import ONNX_FILES, captcha_characters, read_text, run, written
from zoo.photographs import crops, photographs
from zoo.words import ALPHABET, CAPTCHA, LENGTH, Page, captchas, pages


@pytest.fixture
def images():
    noise = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    return {"noise": noise, "gray": np.full_like(noise, 128)}


def test_words_are_drawn_into_their_boxes_and_nowhere_else(images):
    found = pages(images, 4, 128, seed=3)
    assert sum(len(page.boxes) for page in found) > 8
    for page, background in zip(found, crops(images, 4, (128, 128), 3), strict=True):
        changed = (page.image != background).any(axis=2)
        for left, top, right, bottom in page.boxes.astype(int):
            part = changed[top:bottom, left:right]
            assert all(edge.any() for edge in (part[0], part[-1], part[:, 0], part[:, -1]))
            changed[top:bottom, left:right] = False
        assert not changed.any()


def test_equal_seeds_draw_the_same(images):
    one, same, other = (pages(images, 2, 128, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0].image, other[0].image)
    texts = [[captcha.text for captcha in captchas(3, seed)] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert all(len(text) == LENGTH and set(text) <= set(ALPHABET) for text in texts[0])
    assert captchas(1, 0)[0].image.shape == CAPTCHA


def test_a_component_is_a_word_where_the_region_is_sure():
    region, affinity = np.zeros((2, 32, 64), np.float32)
    region[4:10, 4:10] = region[4:10, 14:20] = 0.9  # two characters, and what joins them
    affinity[6:8, 9:15] = 0.9
    region[20:26, 30:40] = 0.9  # another word
    region[20:26, 50:60] = 0.6  # never sure
    found = words(np.stack([region, affinity]))
    assert found == pytest.approx(np.array([[8, 8, 40, 20], [60, 40, 80, 52]]), abs=2)


def test_boxes_are_paired_one_to_one_and_extra_ones_count():
    drawn = np.array([[0, 0, 10, 10], [20, 0, 30, 10.0]])
    found = np.array([[0, 0, 10, 9], [1, 0, 10, 10], [40, 0, 50, 10.0]])
    assert matches(found, drawn) == 1
    page = Page(np.zeros((50, 50, 3), np.uint8), drawn)
    assert f_score([found], [page]) == pytest.approx(100 * 2 * 1 / (3 + 2))
    assert f_score([drawn], [page]) == 100


@pytest.mark.models
def test_craft_sees_words_and_skips_lead_where_its_statistics_were_taken():
    torch = pytest.importorskip("torch")
    from zoo.craft import craft

    net, file = craft(), ONNX_FILES["craft"]
    seen = {}
    for index in range(1, 5):
        convolution, norm = net.get_submodule(f"upconv{index}.conv")[:2]
        convolution.register_forward_hook(lambda _, __, y, norm=norm: seen.update({norm: y}))
    cut = crops(photographs().holdout, 2, (160, 160), seed=0)
    image = written("Twofold 2026", (160, 256))
    with torch.no_grad():
        net(torch.from_numpy(np.concatenate([file.normalized(one) for one in cut])))
        for norm, y in seen.items():  # 2 and 0.9 with the skips taken before their ReLU
            apart = (y.mean((0, 2, 3)) - norm.running_mean) / norm.running_var.sqrt()
            assert float(apart.square().mean().sqrt()) < 0.6
        maps = net(torch.from_numpy(file.normalized(image)))[0].numpy()
    ink = cv2.dilate((image[..., 0] < 128).astype(np.uint8), np.ones((9, 9), np.uint8))[::2, ::2] > 0
    assert maps.shape == (2, 80, 128)
    assert maps[0][~ink].mean() < 0.05
    assert maps[0][ink].mean() > 0.3
    assert len(words(maps)) == 2


@pytest.mark.models
def test_ddddocr_reads_captchas():
    file, characters = ONNX_FILES["ddddocr"], captcha_characters()
    outputs = [run(file.path, file.input, file.normalized(one.image))[0] for one in captchas(12, 5)]
    texts = [read_text(one.swapaxes(0, 1), characters).lower() for one in outputs]
    assert sum(a == b.text for a, b in zip(texts, captchas(12, 5), strict=True)) >= 9
