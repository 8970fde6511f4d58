"""Broken photos by the thousand: every one is read or is an error of its own row, and nothing else happens."""

import io
from collections import Counter

import numpy as np
from PIL import Image

from s3pot_batch.stages.errors import ItemError
from s3pot_batch.stages.images import decode_photo

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000", "PPM", "TGA")
FILES = 25_000
MAX_PIXELS = 100_000


def mutations() -> None:
    """Change, cut, double and exchange bytes of small photos of every format, and decode what comes of it."""
    rng, outcomes, escaped = np.random.default_rng(0), Counter[str](), Counter[str]()
    originals = [encoded(form) for form in FORMATS]
    for n in range(FILES):
        try:
            photo = decode_photo(mutated(originals[n % len(originals)], rng), f"mutant {n}", MAX_PIXELS)
            outcomes["read" if photo.dtype == np.uint8 and photo.ndim == 3 else "wrong"] += 1
        except ItemError as error:
            outcomes[type(error).__name__] += 1
        except Exception as error:  # noqa: BLE001 — that is what is counted here
            escaped[type(error).__name__] += 1
    found = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
    print(f"mutations, {FILES} files: {found}; {sum(escaped.values())} escaped {dict(escaped) or ''}".rstrip())


def encoded(form: str) -> bytes:
    """A small photo with tags, as a file of that format."""
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    content = io.BytesIO()
    options = {"exif": exif} if form in {"JPEG", "PNG", "WEBP", "TIFF", "AVIF"} else {}
    Image.effect_noise((48, 40), 60).convert("RGB").save(content, form, **options)
    return content.getvalue()


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """The file with a few bytes changed, mostly at its beginning, and now and then cut, or with a part doubled."""
    data = bytearray(content)
    head = len(data) if rng.random() < 0.5 else min(len(data), 400)
    for at in rng.integers(head, size=int(rng.integers(1, 9))):
        data[at] = int(rng.choice([0, 0x7F, 0x80, 0xFF, int(rng.integers(256))]))
    kind = rng.random()
    if kind < 0.2:
        del data[int(rng.integers(len(data))) :]
    elif kind < 0.35:
        start, size = (int(n) for n in rng.integers(len(data), size=2))
        data[start:start] = data[start : start + size // 4]
    return bytes(data)
