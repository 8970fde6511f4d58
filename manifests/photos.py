"""Which files are photos."""

import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".webp",
        ".avif",
        ".gif",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".jp2",
        ".j2k",
        ".jpx",
        ".ppm",
        ".pgm",
        ".pnm",
        ".tga",
        ".qoi",
    ]
)
"""What photos' names end with, lower case, of the formats that Pillow reads."""
HEIC = frozenset({".heic", ".heif", ".hif"})
"""What the package pillow-heif reads in addition, where it is installed."""
OF_SYSTEMS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN"})
"""Folders that systems put beside photos; what lies in them is called like photos, too."""


@cache
def suffixes() -> frozenset[str]:
    """What photos' names end with here."""
    return SUFFIXES | HEIC if find_spec("pillow_heif") else SUFFIXES


def is_photo(path: Path) -> bool:
    """Whether it is a file that is called like a photo, and not hidden."""
    return path.suffix.lower() in suffixes() and not path.name.startswith(".") and path.is_file()


def is_named(path: Path, skipped: Counter[str]) -> bool:
    """Whether a manifest can hold its name, which is text; one that it cannot is counted as left out."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        skipped["photos whose names are not UTF-8 (rename them)"] += 1
        return False
    return True


def photos_below(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    """The photos of a folder and its folders, by name; linked folders are entered, each folder once.

    Args:
        folder: where to look.
        skipped: counts what is left out, by what it is.
    """
    yield from _below(folder, set(), skipped)


def _below(folder: Path, entered: set[tuple[int, int]], skipped: Counter[str]) -> Iterator[Path]:
    found = folder.stat()
    if (found.st_dev, found.st_ino) in entered:
        skipped["folders that were entered before, by a link"] += 1
        return
    entered.add((found.st_dev, found.st_ino))
    for path in sorted(Path(entry.path) for entry in os.scandir(folder)):
        if path.is_dir():
            if path.name.startswith(".") or path.name in OF_SYSTEMS:
                skipped["hidden folders"] += 1
            else:
                yield from _below(path, entered, skipped)
        elif is_photo(path):
            if is_named(path, skipped):
                yield path
        else:
            hidden = path.name.startswith(".")
            skipped["hidden files" if hidden else f"files {path.suffix.lower() or 'without a suffix'}"] += 1
