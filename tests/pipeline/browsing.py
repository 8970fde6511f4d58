"""Debian's Chromium for tests of pages: one browser for a module, and what it says on its console."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:  # a second of imports for the one process of several that opens a browser
    from playwright.sync_api import Browser, Locator, Page

PROGRAM = shutil.which("chromium")


@contextmanager
def chromium() -> Iterator["Browser"]:
    """A browser; without one the tests are skipped, but never where CI is set: there they have to run."""
    if PROGRAM is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium: apt-get install chromium")
        pytest.skip("no chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def page_of(browser: "Browser", **how) -> Iterator["Page"]:
    """A tab in which nothing may go wrong and nothing may be fetched but the page itself."""
    context = browser.new_context(**how)
    context.set_default_timeout(5000)
    page = context.new_page()
    with nothing_wrong(page):
        yield page
        context.close()


@contextmanager
def shown(
    page: "Page", address: str, scheme: Literal["light", "dark"] = "light", width: int = 1280
) -> Iterator["Page"]:
    """A tab in which a page was loaded anew, and where nothing goes wrong until the end of the block."""
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    with nothing_wrong(page):
        page.goto(address)
        yield page


@contextmanager
def nothing_wrong(page: "Page") -> Iterator[None]:
    """What the console says, and what is fetched but the page itself, fails the test that it happens in."""
    wrong = list[str]()
    heard: dict[Any, Callable[[Any], None]] = {
        "console": lambda message: wrong.append(f"{message.type}: {message.text}"),
        "pageerror": lambda error: wrong.append(str(error)),
        "request": lambda asked: wrong.append(asked.url) if asked.url.startswith("http") else None,
    }
    for event, hear in heard.items():
        page.on(event, hear)
    yield
    for event, hear in heard.items():
        page.remove_listener(event, hear)
    assert wrong == []


def expect(what: "Locator"):
    """Playwright's own, which waits for what is said of a part of the page."""
    from playwright.sync_api import expect as waiting

    return waiting(what)


def serious(page: "Page") -> list[str]:
    """What axe-core finds on a page as it stands that shuts people out."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {[node['target'] for node in one['nodes']]}" for one in found
        if one["impact"] in ("serious", "critical")
    ]  # fmt: skip
