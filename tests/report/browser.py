"""A browser for the tests of the page; `python -m tests.report.browser` installs one where it can."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Ways to get one; the first needs a Debian and its root, the second playwright's own server.
INSTALLS = (
    ("apt-get", "install", "-y", "--no-install-recommends", "chromium"),
    (sys.executable, "-m", "playwright", "install", "chromium"),
)


def find() -> str | None:
    """Path of a Chromium; playwright's own where the system has none; None where there is neither."""
    for name in NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if os.path.exists(path) else None


def main() -> int:
    """Install a browser unless there is one; the tests that need it say so where this fails."""
    for command in INSTALLS:
        if find() is not None:
            break
        if shutil.which(command[0]) is None or (command[0] == "apt-get" and os.geteuid() != 0):
            continue
        if command[0] == "apt-get":
            subprocess.run(["apt-get", "update", "-qq"], check=False, timeout=300)
        subprocess.run(command, check=False, timeout=600, stdout=subprocess.DEVNULL)
    found = find()
    print(f"browser: {found or 'none to be had; tests of the page in a browser are skipped'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
