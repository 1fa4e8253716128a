"""A real browser, for tests of pages; a module that imports this is skipped where there is none."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is a package of developers")

CHROMIUM = shutil.which("chromium")
NEEDS_BROWSER = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no browser: install Debian's package chromium"),
]

# A phone, a tablet, a desk.
WIDTHS = (360, 800, 1280)
# In a box without network and GPU; the first two are what root and a container need.
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking"]


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """A browser. No longer than for a module: beside it, nothing else can run an event loop."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
