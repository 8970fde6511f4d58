"""The site of documents: it builds, its references name everything that there is, and it fetches nothing."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from docs.hooks import redone_by
from s3pot_batch.pipeline.cli import app
from s3pot_batch.stages.settings import Section, Settings
from tests.pipeline.browsing import chromium, page_of, serious

ROOT = Path(__file__).parent.parent
ROOMS = ("manifests", "stages", "pipeline")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site's folder; a link that leads nowhere ends the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def code_of(page):
    """What a page shows as code in its tables and headings."""
    return set(re.findall(r"<code>([^<]*)</code>", page.read_text()))


def test_every_setting_is_in_the_reference_with_its_range(site):
    shown = code_of(site / "settings.html")
    names = {name for _, section in Settings() if isinstance(section, Section) for name in type(section).model_fields}
    assert {"seed", *names} - shown == set()
    [row] = [row for row in (site / "settings.html").read_text().split("<tr>") if "<code>passes</code>" in row]
    assert re.findall(r"<td>(.*?)</td>", row)[1:4] == ["<code>1</code>", "whole number, ≥ 1, ≤ 2", "everything"]
    assert '<code>"both"</code>' in (site / "settings.html").read_text().replace("&quot;", '"')  # the profile's own


def test_a_setting_redoes_what_is_made_of_it_and_nothing_before():
    assert redone_by("segments.threshold") == ["segments"]
    assert redone_by("segments.mask_prompt") == ["decoded", "segments"]
    assert redone_by("references.passes")[0] == redone_by("seed")[0] == "references"
    assert "references" not in redone_by("training.tokens")


def options(group, above=()):
    """Every command's path, and its options."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from options(command, (*above, name))
        else:
            yield " ".join((*above, name)), [one.opts[0] for one in command.params if one.param_type_name == "option"]


def test_every_command_and_option_is_in_the_reference(site):
    text = (site / "commands.html").read_text()
    found = dict(options(typer.main.get_command(app)))
    assert {"segment", "import", "models pull"} <= set(found)
    for name, named in found.items():
        [part] = re.findall(rf"<h2[^>]*><code>{name}</code>.*?(?=<h2|</article>)", text, re.DOTALL)
        assert [one for one in named if f"<code>{one}" not in part] == [], name


def errors():
    """Names of the kinds of failure: classes that derive from ours, and kinds that are given by name."""
    files = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]
    classes = [
        node for file in files for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef)
    ]
    found = {"S3potError", "ManifestError"}
    for _ in range(3):  # those that derive from those that derive …
        found |= {one.name for one in classes if {ast.unparse(base) for base in one.bases} & found}
    given = r'(?:"failed", |problems\.add\(row, |kind=)"([A-Z]\w+)"'
    return found | {name for file in files for name in re.findall(given, file.read_text())}


def test_every_kind_of_error_is_listed_with_what_to_do(site):
    named = errors()
    assert {"MissingFile", "BadBox", "OutOfBounds", "KilledWorker", "DamagedData", "BadDrawing"} <= named
    assert named - code_of(site / "errors.html") == set()


def test_the_site_opens_from_disk_and_fetches_nothing(site):
    for page in set(site.glob("*.html")) - {site / "404.html"}:  # which only a server shows
        text = page.read_text()
        fetched = re.findall(r"<(?:script|img|iframe|source)[^>]* src=\"?([^\" >]+)", text)
        fetched += re.findall(r"<link[^>]* href=\"?([^\" >]+)", text)
        assert fetched
        assert [one for one in fetched if "//" in one or not (site / one.split("#")[0]).exists()] == [], page.name
    assert not list(site.glob("**/*.py"))


def test_a_site_that_is_opened_from_disk_can_be_searched(site):
    with chromium() as browser, page_of(browser, color_scheme="dark") as page:
        page.goto((site / "method.html").as_uri())
        page.get_by_placeholder("Search").click()
        page.get_by_placeholder("Search").press_sequentially("prompt_step")
        page.locator(".md-search-result__item a[href*='settings.html']").first.wait_for()
        other = browser.new_page()  # axe-core asks for style sheets, which a page from disk may not
        other.goto((site / "method.html").as_uri())
        assert serious(other) == []
