"""The page that a person looks at: ``report.html``, one file with everything in it."""

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from s3pot_batch.manifests.answer import ANSWER
from s3pot_batch.manifests.files import replacing
from s3pot_batch.manifests.plan import read_plan
from s3pot_batch.pipeline.config import CONFIG
from s3pot_batch.pipeline.report.sheets import TITLES
from s3pot_batch.pipeline.report.summary import summarise
from s3pot_batch.pipeline.status import run_status

PAGE = "report.html"
TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)


def write_page(run: Path, sheet: Path) -> Path:
    """Write ``report.html``.

    Args:
        run: a run folder.
        sheet: the contact sheet, a PNG.

    Raises:
        ManifestError: there is no run.
    """
    status, plan = run_status(run), read_plan(run)
    stage = "segments" if status.answer else "references"
    text = TEMPLATES.get_template("page.html.j2").render(
        status=status,
        summary=summarise(stage, plan, run, [], seconds=0.0, files=run_files(run)),
        sheet=base64.b64encode(sheet.read_bytes()).decode(),
        titles=TITLES,
    )
    with replacing(run / PAGE) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")
    return run / PAGE


def run_files(run: Path) -> tuple[Path, ...]:
    """What there is to look at in a run folder."""
    names = (ANSWER, "references.zarr", "masks.zarr", "masks", "checkpoint", CONFIG, PAGE)
    return tuple(path for name in names if (path := run / name).exists())
