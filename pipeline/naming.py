"""Names of exported files: short, readable, unique, and never outside the folder that they are written to."""

import hashlib
import unicodedata
from collections.abc import Sequence

LONGEST = 255 - 15
"""Bytes of a name, so that a suffix fits into what file systems allow."""


def file_names(image_ids: Sequence[str]) -> list[str]:
    """One name for every photo, without a suffix.

    An id that is a relative path is its own name, folders and all. Absolute paths and URLs are shortened by the folder
    that they have in common. What a file system may not take is replaced, a name that is too long is cut, and one that
    another photo has already (whatever its case) is marked; the mark follows from the id alone.
    """
    split = [_parts(image_id) for image_id in image_ids]
    rooted = [image_id.startswith("/") or "://" in image_id for image_id in image_ids]
    shared = _shared([parts[:-1] for parts, root in zip(split, rooted, strict=True) if root])
    names: list[str] = []
    taken = set[str]()
    for image_id, parts, root in zip(image_ids, split, rooted, strict=True):
        own = parts[shared:] if root else parts
        name = "/".join(_fitting(part, image_id) for part in own)
        if _key(name) in taken:
            name = "/".join([*(_fitting(part, image_id) for part in own[:-1]), _marked(own[-1], image_id)])
        taken.add(_key(name))
        names.append(name)
    return names


def _parts(image_id: str) -> list[str]:
    return [_clean(part) for part in image_id.split("/") if part not in {"", "."}] or ["_"]


def _clean(part: str) -> str:
    plain = "".join("_" if unicodedata.category(letter) in {"Cc", "Cs"} else letter for letter in part)
    return "_" if plain == ".." else plain


def _shared(folders: Sequence[list[str]]) -> int:
    """How many leading parts all have in common."""
    if not folders:
        return 0
    first, last = min(folders), max(folders)  # those two differ most
    return next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _fitting(part: str, image_id: str) -> str:
    return part if len(part.encode()) <= LONGEST else _marked(part, image_id)


def _marked(part: str, image_id: str) -> str:
    mark = "~" + hashlib.blake2b(image_id.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    return part.encode()[: LONGEST - len(mark)].decode(errors="ignore") + mark


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
