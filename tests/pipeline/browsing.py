"""Debian's Chromium for tests of pages: one browser for a module, and what it says on its console."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

PROGRAM = shutil.which("chromium")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; without one the tests are skipped, but never where CI is set: there they have to run."""
    if PROGRAM is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium: apt-get install chromium")
        pytest.skip("no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def page_of(browser: Browser, **how) -> Iterator[Page]:
    """A tab in which nothing may go wrong and nothing may be fetched but the page itself."""
    context = browser.new_context(**how)
    context.set_default_timeout(5000)
    page, wrong = context.new_page(), list[str]()
    page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.append(asked.url) if asked.url.startswith("http") else None)
    yield page
    context.close()
    assert wrong == []


def serious(page: Page) -> list[str]:
    """What axe-core finds on a page as it stands that shuts people out."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {[node['target'] for node in one['nodes']]}" for one in found
        if one["impact"] in ("serious", "critical")
    ]  # fmt: skip
