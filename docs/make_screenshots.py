"""Draws the images of a report, docs/figures/report_{light,dark}.png, from a net of `examples/fashion`.

`make figures` runs it. It needs a Chromium (`make browser`).
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from tests.report import browser
from zoo.fashion_mnist import EXAMPLE, shipped

from twofold.cli import main as twofold

FOLDER = Path(__file__).with_name("figures")
NET = ("resnet_deploy.prototxt", "resnet.caffemodel")
#: Up to the end of this section.
LAST = "#tradeoff"
WIDTH = 1120


def main() -> int:
    """Draw both; gives the exit code."""
    chromium = browser.find()
    if chromium is None:
        print("no Chromium is installed; `make browser` installs one", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        page = report(Path(folder))
        with sync_playwright() as driver:
            opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for scheme in ("light", "dark"):
                image(opened, page, scheme)
            opened.close()
    return 0


def report(folder: Path) -> Path:
    """The report of the example net at half its MACs."""
    for name in NET:
        (folder / name).symlink_to(EXAMPLE / name)
    np.save(folder / "images.npy", shipped().inputs())
    os.chdir(folder)  # so that the command is as a user would type it
    with redirect_stdout(sys.stderr):
        code = twofold(["decompose", *NET, "-o", "out/", "--macs", "0.5", "--data", "images.npy"])
    os.chdir(FOLDER)
    assert code == 0, "Bug: the example cannot be decomposed"
    return folder / "out" / "report.html"


def image(opened: Browser, page: Path, scheme: str) -> None:
    """Draw the page in one colour scheme."""
    shown = opened.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme=scheme)
    shown.goto(page.as_uri())
    end = shown.locator(LAST).bounding_box()
    assert end is not None, f"Bug: the page lacks {LAST}"
    path = FOLDER / f"report_{scheme}.png"
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": end["y"] + end["height"] + 24}
    shown.screenshot(path=path, full_page=True, clip=clip)
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    shown.close()


if __name__ == "__main__":
    raise SystemExit(main())
