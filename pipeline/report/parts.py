"""What a page of this package is made of: templates, styles, scripts, and data that the scripts read."""

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from s3pot_batch.manifests.files import replacing

FOLDER = Path(__file__).parent / "templates"
TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
MOST_BYTES = 19_500_000
"""Of a page: browsers open it at once, and it fits into most mails and issues."""
BUNDLE = 20
"""Thumbnails that the page's script reads at once."""


def write(path: Path, template: str, **values: object) -> Path:
    """Fill a template in and write the page, whole or not at all."""
    text = TEMPLATES.get_template(template).render(parts=_parts(), **values)
    with replacing(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")
    return path


def _parts() -> dict[str, Markup]:
    """The style and the scripts, which are written into the page."""
    files = (path for path in FOLDER.iterdir() if path.suffix in (".css", ".js"))
    return {path.name: Markup(path.read_text(encoding="utf-8")) for path in files}  # noqa: S704 — our own files


def room(*taken: Markup) -> int:
    """How many bytes a page has left for pictures, its own files and some of the rest taken off."""
    return (
        MOST_BYTES - sum(path.stat().st_size for path in FOLDER.iterdir()) - sum(len(text.encode()) for text in taken)
    )


def as_script(value: object) -> Markup:
    """A value as JSON that can stand in a script element: no name of a photo ends it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 — what could end the element is escaped


def bundled(thumbnails: list[list[str]]) -> list[Markup]:
    """Thumbnails in bundles, so that the script need not read all of them at once."""
    return [as_script(thumbnails[start : start + BUNDLE]) for start in range(0, len(thumbnails), BUNDLE)]


def rounded(value: float | None) -> float | None:
    """With as many digits as a page can show."""
    return None if value is None else round(value, 4)
