"""Where the working copies of run folders in storages are, and what they are called for a person."""

import re
from pathlib import Path
from urllib.parse import quote, unquote

URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.]+):/+(?P<rest>.+)")
"""An fsspec URL, also as a path, which has one slash where there were two."""


PIECE = 200
"""Characters of a URL that become one folder's name: file systems take 255 bytes."""


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
    quoted = quote(above, safe="")
    *first, last = (quoted[start : start + PIECE] for start in range(0, len(quoted), PIECE))
    return copies().joinpath(*(f"{piece}%" for piece in first), last, name)  # nothing quoted ends with %


def called(text: str) -> str:
    """A text for a person: what it names of a working copy has the name that the storage has for it."""
    copy = rf"{re.escape(str(copies()))}/((?:[\w.~%-]+%/)*[\w.~%-]+)"
    return re.sub(copy, lambda found: unquote(found[1].replace("%/", "")), text)
