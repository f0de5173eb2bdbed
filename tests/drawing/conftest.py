"""A browser for the tests of pages, started once a module."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Page


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install -e '.[dev]'")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # Without the background flags Chromium calls home, which a closed network refuses.
    flags = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
        --disable-component-update --disable-sync --window-size=1200,900"""
    for flag in [*flags.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    driver.set_script_timeout(60)
    driver.get("about:blank")  # away from the browser's own first page, which loads a lot
    yield driver
    driver.quit()


@pytest.fixture
def shown(driver: Any, tmp_path: Path) -> Iterator[Page]:
    """The browser; after every test, no page may have complained or asked for anything but itself."""
    shown = Page(driver, tmp_path)
    yield shown
    assert shown.complaints() == []
    assert [url for url in shown.requests() if not url.startswith(("file:", "data:", "blob:"))] == []
