"""Where the working copies of run folders in storages are, and what they are called for a person."""

import re
from pathlib import Path
from urllib.parse import quote, unquote

URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.]+):/+(?P<rest>.+)")
"""An fsspec URL, also as a path, which has one slash where there were two."""


def url_of(path: Path | None) -> str | None:
    """The URL that a path is in truth, if it is one.

    >>> url_of(Path("s3://bucket/runs/in"))
    's3://bucket/runs/in'
    >>> url_of(Path("runs/in"))
    """
    named = URL.fullmatch(str(path)) if path else None
    return f"{named['scheme'].lower()}://{named['rest']}" if named else None


def copies() -> Path:
    """The folder of all working copies."""
    from s3pot_batch.stages.models.profiles import CACHE

    return CACHE.expanduser() / "runs"


def copy_of(url: str) -> Path:
    """Where the working copy of a folder is; that of another folder is never below it."""
    above, _, name = url.rpartition("/")
    return copies() / quote(above, safe="") / name


def called(text: str) -> str:
    """A text for a person: what it names of a working copy has the name that the storage has for it."""
    return re.sub(rf"{re.escape(str(copies()))}/([\w.~%-]+)", lambda found: unquote(found[1]), text)
