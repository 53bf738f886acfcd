"""The real models: fetched, built, and what OpenCV computes with them."""

import hashlib
import os
import shutil
import subprocess
import tarfile
import zipfile
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image
from zoo import packages
from zoo.hed import BLOCKS, bilinear_kernel, prototxt
from zoo.models import model
from zoo.packages import DebianPackage, FetchError, NpmPackage, Package, cached
from zoo.photographs import as_inputs, crops, in_another_light, photographs, varied_crops, webp_images


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TWOFOLD_MODEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_of_the_cache_is_complete_or_absent(cache):
    calls = []

    def build(folder):
        calls.append(folder)
        (folder / "a").write_text("first half")
        if len(calls) == 1:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        cached("thing", build)
    assert not [path for path in cache.iterdir() if path.is_dir()]
    folder = cached("thing", build)
    assert cached("thing", build) == folder
    assert len(calls) == 2
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_only_the_named_members_are_written(cache, tmp_path, monkeypatch):
    archive = tmp_path / "evil-1-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../outside", "bad")
        file.writestr("pkg/good", "good")
    monkeypatch.setattr(Package, "_download", lambda self, scratch: archive)
    package = Package("evil", "1", archive.name, "0" * 64, {"pkg/good": "good"})
    assert package.file("good").read_text() == "good"
    assert not list(tmp_path.rglob("outside"))


def test_a_package_that_cannot_be_fetched_is_one_clear_line(cache, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    package = Package("no-such-package-of-twofold", "1", "x-1-py3-none-any.whl", "0" * 64, {})
    with pytest.raises(FetchError, match="need the network once") as caught:
        package.folder()
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="runs a shell script in npm's place")
def test_an_npm_package_gives_what_is_named_or_one_clear_line(cache, tmp_path, monkeypatch):
    archive = tmp_path / "scope-thing-1.0.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("package/a.jpg", "package/b.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    tools = tmp_path / "tools"
    tools.mkdir()
    npm = tools / "npm"
    path = os.environ["PATH"]
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    members = {"package/a.jpg": "one.jpg"}
    package = NpmPackage("@scope/thing", "1.0", archive.name, digest, members)
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(FetchError, match="there is no npm here"):
        package.folder()
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{path}")
    npm.write_text("#!/bin/sh\necho 'npm error 404' >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(FetchError, match=r"@scope/thing==1.0 .*npm error 404"):
        package.folder()
    npm.write_text(f'#!/bin/sh\n[ "$4" = @scope/thing@1.0 ] && cp {archive} .\n')
    other = NpmPackage("@scope/thing", "1.0", archive.name, "0" * 64, members)
    with pytest.raises(FetchError, match=f"its sha256 is {digest}, not 000"):
        other.folder()
    assert package.file("one.jpg").is_file()
    assert [one.name for one in package.folder().iterdir()] == ["one.jpg"]


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs Debian's tools")
def test_a_debian_package_gives_what_is_named_or_one_clear_line(cache, tmp_path, monkeypatch):
    tree, tools = tmp_path / "tree", tmp_path / "tools"
    for folder in (tree / "DEBIAN", tree / "usr/share/thing/deep", tools):
        folder.mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: thing\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\n"
    )
    (tree / "usr/share/thing/deep/one").write_text("1")
    (tree / "usr/share/thing/two").write_text("2")
    subprocess.run(["dpkg-deb", "--build", tree, tmp_path / "thing.deb"], check=True, capture_output=True)
    apt = tools / "apt-get"
    apt.write_text("#!/bin/sh\necho 'E: no such package' >&2\nexit 100\n")
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    package = DebianPackage("thing", "usr/share/thing", ("deep/one",))
    with pytest.raises(FetchError, match=r"the Debian package thing \(E: no such package\)"):
        package.files()
    apt.write_text(f"#!/bin/sh\ncp {tmp_path}/thing.deb .\n")
    (file,) = package.files()
    assert file.read_text() == "1"
    assert [path.name for path in file.parent.iterdir()] == ["one"]
    (other,) = DebianPackage("thing", "usr/share/thing", ("two",)).files()  # not what is kept of the first
    assert other.read_text() == "2"
    with pytest.raises(FetchError, match=r"thing.deb has no usr/share/thing/three"):
        DebianPackage("thing", "usr/share/thing", ("three",)).files()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="there is no apt-get here"):
        DebianPackage("other", "usr", ("one",)).files()


def test_varied_crops_are_of_every_image_of_many_scales_and_mirrored():
    ramp = np.broadcast_to(np.arange(120, dtype=np.uint8)[:, None], (100, 120, 3))
    images = {"rising": ramp, "bright": np.full((90, 300, 3), 200, np.uint8)}
    cut = varied_crops(images, 60, (40, 30), seed=2)
    assert cut.shape == (60, 40, 30, 3)
    np.testing.assert_array_equal(cut, varied_crops(images, 60, (40, 30), seed=2))
    plain = np.ptp(cut, axis=(1, 2, 3)) == 0
    assert plain.sum() == 30
    assert 12 < (cut[plain] == 200).all(axis=(1, 2, 3)).sum() < 24  # the others are in another light
    ramps = cut[~plain].astype(int)
    slopes = (ramps[:, 0, -1, 0] - ramps[:, 0, 0, 0]) / 29  # of an image reduced by f it is 1 / f
    assert 5 < (slopes < 0).sum() < 25
    assert np.abs(slopes).min() < 0.95
    assert np.abs(slopes).max() > 1.5


def test_another_light_changes_color_contrast_and_brightness():
    rng = np.random.default_rng(0)
    gray = np.repeat(rng.integers(80, 120, (20, 30, 1), np.uint8), 3, axis=2)
    tinted = gray.copy()
    tinted[..., 0] += 60
    for _ in range(8):
        lit = in_another_light(gray, rng).astype(float)
        assert np.ptp(lit, axis=2).max() == 0  # what is gray stays gray
        assert 0.6 < lit.std() / gray.std() < 1.4
    means = [in_another_light(gray, rng).mean() - gray.mean() for _ in range(40)]
    assert -31 < min(means) < -15
    assert 15 < max(means) < 31
    tints = [np.ptp(in_another_light(tinted, rng).mean(axis=(0, 1))) / 60 for _ in range(40)]
    assert min(tints) < 0.6
    assert max(tints) > 1.4


def test_inputs_are_pixels_without_the_mean_in_the_nets_order():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    mean = (104.0, 116.7, 122.7)  # of the net's own channels
    for color, order in (("bgr", [2, 1, 0]), ("rgb", [0, 1, 2])):
        expected = np.stack([0.5 * (images[..., c] - m) for c, m in zip(order, mean, strict=True)], axis=1)
        found = as_inputs(images, color, mean, 0.5)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_images_are_found_in_files_of_resources(tmp_path):
    rng = np.random.default_rng(0)
    colors = [rng.integers(0, 256, (30 + n, 40, 3), np.uint8) for n in range(2)]
    parts = [b"qres\0RIFF\4\0\0\0WAVE"]
    for array in (colors[0], np.full((9, 9, 4), 7, np.uint8), colors[1]):  # what is cut out is no photograph
        file = BytesIO()
        Image.fromarray(array).save(file, "webp", lossless=True)
        parts += [len(file.getvalue()).to_bytes(4, "big"), file.getvalue()]
    path = tmp_path / "animals.rcc"
    path.write_bytes(b"".join(parts))
    found = webp_images(path)
    assert list(found) == ["animals-0", "animals-1"]
    for one, color in zip(found.values(), colors, strict=True):
        np.testing.assert_array_equal(one, color)


def test_every_archive_is_pinned():
    assert all(len(package.sha256) == 64 and package.members for package in packages.PACKAGES)


def test_unknown_models_are_answered_with_the_known_ones():
    with pytest.raises(KeyError, match="hed, nsfw, res10-ssd"):
        model("alexnet")


def test_the_kernel_is_that_of_half_pixel_centres():
    torch = pytest.importorskip("torch")
    image = torch.rand(1, 1, 9, 7)
    for factor in (2, 4, 8, 16):
        expected = torch.nn.functional.interpolate(
            image, scale_factor=factor, mode="bilinear", align_corners=False
        )
        kernel = torch.from_numpy(bilinear_kernel(factor))
        result = torch.nn.functional.conv_transpose2d(image, kernel, stride=factor, padding=factor // 2)
        inner = (..., slice(factor // 2, -factor // 2), slice(factor // 2, -factor // 2))
        torch.testing.assert_close(result[inner], expected[inner], rtol=0, atol=1e-6)
        assert torch.all(result <= expected + 1e-6)  # the stated difference: the border is darker


def test_heds_text_has_every_layer():
    text = prototxt(64)
    assert text.count('type: "Convolution"') == sum(map(len, BLOCKS)) + 5 + 1
    with pytest.raises(ValueError, match="multiple of 16"):
        prototxt(100)


@pytest.mark.models
def test_photographs_for_calibration_and_for_judging_are_different():
    both = photographs()
    assert not set(both.calibration) & set(both.holdout)
    assert len(both.calibration) >= 15
    assert len(both.holdout) >= 5
    cut = crops(both.calibration, 40, (64, 80), seed=1)
    assert cut.shape == (40, 64, 80, 3)
    np.testing.assert_array_equal(cut, crops(both.calibration, 40, (64, 80), seed=1))


@pytest.mark.models
def test_hed_finds_edges_where_the_image_has_them():
    real = model("hed")
    net = cv2.dnn.readNetFromCaffe(str(real.prototxt), str(real.caffemodel))
    disc = np.full((320, 320, 3), 60, np.uint8)
    cv2.circle(disc, (160, 160), 90, (200, 180, 160), -1)
    net.setInput(as_inputs([disc], "bgr", real.options.channel_mean(3), 1.0))
    edges = net.forward("sigmoid-fuse")[0, 0]
    y, x = np.ogrid[:320, :320]
    distance = np.abs(np.hypot(y - 160, x - 160) - 90)
    assert edges[distance < 1].mean() > 0.5
    assert edges[(distance > 20) & (np.hypot(y - 160, x - 160) < 130)].mean() < 0.1
