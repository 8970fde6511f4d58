"""The report as people use it, in Chromium: sort, filter, leaf through, open, slide; keyboard; no error, no barrier."""

import pytest

from s3pot_batch.manifests.outcomes import Outcome
from s3pot_batch.pipeline.report.compare import write_comparison
from s3pot_batch.pipeline.report.page import write_page
from tests.pipeline.browsing import chromium, expect, page_of, serious, shown
from tests.pipeline.drawn_run import draw_run, found

OK = 66
"""Photos with a mask: two pages with the others."""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A run of photos that are hidden the more, and the surer, the later they come; every third is of group b."""
    outcomes = [found(n, f"photo {n:02d}", n / OK, *([0.5] if n == 7 else []), sure=0.2 + n / 100) for n in range(OK)]
    outcomes += [Outcome(OK, "none", "no_face"), Outcome(OK + 1, "bad", "failed", "NotAnImage", "no photo; convert it")]
    kinds = ["b" if n % 3 == 0 else "a" for n in range(len(outcomes))]
    run = draw_run(tmp_path_factory.mktemp("browser") / "run", outcomes, len(outcomes), kind=kinds)
    return write_page(run).absolute().as_uri()


@pytest.fixture(scope="module")
def tab():
    """One for all: a new one costs more than what is shown in it."""
    with chromium() as browser, page_of(browser) as opened:
        yield opened


@pytest.fixture
def page(tab, address):
    with shown(tab, address) as opened:
        yield opened


def names(page):
    return page.locator("#grid .name").all_inner_texts()


def test_the_gallery_is_sorted(page):
    assert names(page)[:3] == ["photo 00", "photo 01", "photo 02"]
    page.locator("[name=sort]").select_option("most hidden")
    assert names(page)[:2] == ["photo 65", "photo 64"]
    page.locator("[name=sort]").select_option("least sure")
    assert names(page)[:2] == ["photo 00", "photo 01"]


def test_the_gallery_is_filtered_and_cleared(page):
    for name, choice, expected in (("status", "failed", ["bad"]), ("faces", "several", ["photo 07"])):
        page.locator(f"[name={name}]").select_option(choice)
        assert names(page) == expected
        page.get_by_text("Clear all", exact=True).click()
    page.locator("[name=group]").select_option("b")
    page.get_by_label("Find").fill("PHOTO 1")
    assert names(page) == ["photo 12", "photo 15", "photo 18"]
    assert page.locator("#count").inner_text() == "3 of 68 photos"
    page.get_by_label("Find").fill("nothing")
    assert page.locator("#empty").is_visible()
    page.get_by_text("Clear all", exact=True).click()
    page.get_by_label("Hidden from, percent").fill("90")
    assert names(page) == [f"photo {n}" for n in range(60, 66)]


def test_a_bar_of_the_histogram_shows_its_photos(page):
    bar = page.get_by_label("Hidden share of the face 0.95 to 1.00: 3 photos")
    bar.click()
    assert names(page) == ["photo 63", "photo 64", "photo 65"]
    assert bar.get_attribute("aria-pressed") == "true"
    bar.click()
    assert page.locator("#count").inner_text() == "68 photos"


def test_there_are_pages_and_the_address_keeps_them(page):
    assert len(names(page)) == 60
    page.get_by_label("Next page").first.click()
    assert names(page)[-2:] == ["none", "bad"]
    assert page.get_by_label("Next page").first.is_disabled()
    page.reload()
    assert len(names(page)) == 8
    page.locator("[name=status]").select_option("with a mask")
    assert len(names(page)) == 60  # of another choice it is the first page


def test_what_is_to_be_looked_at_first_leads_to_it(page):
    page.locator("[data-look]", has_text="failed").click()
    expect(page.locator("#gallery")).to_be_focused()
    assert names(page) == ["bad"]


def test_a_photo_opens_into_its_steps(page):
    page.locator(".card").nth(33).click()
    expect(page.locator("#title")).to_have_text("photo 33")
    steps = page.locator("#steps button")
    assert steps.all_inner_texts() == ["photo", "parse", "reference", "contrast", "prompts", "mask"]
    assert page.locator("#steps [aria-pressed=true]").inner_text() == "mask"
    assert "50.0 %" in page.locator("#figures").inner_text()
    page.get_by_label("Slide between photo and mask").fill("25")
    assert page.locator(".cut").evaluate("cut => getComputedStyle(cut).clipPath") == "inset(0px 0px 0px 25%)"
    steps.get_by_text("prompts").click()
    assert page.locator("#stage circle").count() == 2
    page.keyboard.press("3")
    assert page.locator("#caption").inner_text().startswith("The same face, painted anew")
    assert page.locator("#stage img").evaluate_all("all => all.every(one => one.naturalWidth === 64)")


def test_the_keyboard_alone_will_do(page):
    page.keyboard.press("/")
    page.keyboard.type("photo 0")
    page.locator(".card").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_have_text("photo 00")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#title").inner_text() == "photo 01"
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).not_to_be_visible()
    expect(page.locator("[data-n='1']")).to_be_focused()


def test_every_face_of_a_photo_has_its_steps(page, address):
    page.goto(f"{address}#photo=7")
    expect(page.locator("#faces button")).to_have_count(2)
    assert page.locator("#faces button").all_inner_texts() == ["Face 1", "Face 2"]
    page.get_by_text("Face 2").click()
    assert "this face hidden\n50.0 %" in page.locator("#figures").inner_text()


def test_a_failure_says_why_and_masks_can_be_put_away(page, address):
    page.get_by_text("Masks", exact=True).click()
    assert not page.locator("#grid .stencil").first.is_visible()
    page.goto(f"{address}#photo={OK + 1}")
    expect(page.locator("#about")).to_have_text("NotAnImageno photo; convert it")
    page.get_by_text("Close", exact=True).click()
    expect(page.locator("dialog")).not_to_be_visible()
    assert "photo" not in page.url.split("#")[1]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("dark", 390)])
def test_nobody_is_shut_out(tab, address, scheme, width):
    with shown(tab, address, scheme, width) as page:
        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator(".card").first.click()
        expect(page.locator("#title")).to_have_text("photo 00")
        if width == 390:
            assert serious(page) == []
        alts = page.locator("#grid img").evaluate_all("all => all.map(one => one.alt)")
        assert alts[0] == "photo 00, 0 % of the face hidden"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Six photos; in the second run two are hidden by more, and one has no face."""
    folder = tmp_path_factory.mktemp("compared")
    one = draw_run(folder / "one", [found(n, f"photo {n}", n / 10) for n in range(6)])
    other = [found(n, f"photo {n}", 0.8 if n < 2 else n / 10) for n in range(5)]
    return write_comparison(
        one, draw_run(folder / "other", [*other, Outcome(5, "photo 5", "no_face")])
    ).absolute().as_uri()  # fmt: skip


def test_two_runs_are_compared_photo_by_photo(tab, compared):
    with shown(tab, compared, "dark", 390) as page:
        assert names(page)[:3] == ["photo 0", "photo 5", "photo 1"]
        page.locator("[name=verdict]").select_option("changed")
        assert sorted(names(page)) == ["photo 0", "photo 1", "photo 5"]
        page.locator("[data-look]", has_text="ended otherwise").click()
        expect(page.locator("#gallery")).to_be_focused()
        page.get_by_text("Clear all", exact=True).click()
        page.locator("[name=sort]").select_option("more")
        assert names(page)[0] == "photo 0"
        page.locator(".card").nth(1).click()
        expect(page.locator("#title")).to_have_text("photo 1")
        page.get_by_label("Slide between one and other").fill("30")
        clips = page.locator("#stage .under, #stage .cut").evaluate_all(
            "all => all.map(one => getComputedStyle(one).clipPath)"
        )
        assert clips == ["inset(0px 70% 0px 0px)", "inset(0px 0px 0px 30%)"]
        page.keyboard.press("3")
        assert page.locator("#steps [aria-pressed=true]").inner_text() == "photo and after"
        assert "10.0 % → 80.0 %" in page.locator("#figures").inner_text()
        assert serious(page) == []
        page.get_by_text("Close", exact=True).click()
        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
