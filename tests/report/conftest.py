"""Pages of reports in a real browser."""

from __future__ import annotations

import pytest
from tests.report import browser
from tests.report.nets import long_report, report_of, result_of

from twofold.report.page import page as made


@pytest.fixture(scope="package")
def chromium():
    """A browser; tests that need one are skipped only where none is to be had."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = browser.find()
    if executable is None:
        pytest.skip("no Chromium is installed, and none could be")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="package")
def page_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(made(report_of(result_of(tmp_path_factory.mktemp("net")))), encoding="utf-8")
    return path


@pytest.fixture(scope="package")
def long_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "report.html"
    path.write_text(made(long_report()), encoding="utf-8")
    return path


@pytest.fixture
def opened(chromium, page_file):
    """Opens the page; at the end nothing may have been said, raised, or fetched."""
    contexts, said, fetched = [], [], []

    def open_page(file=page_file, **options):
        context = chromium.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: fetched.append(request.url))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in fetched if not url.startswith(("file:", "data:"))] == []
