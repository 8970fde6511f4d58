"""Numbers deeper than 8 bit, as scanners, microscopes and cameras write them: which of them is white?

A file does not say it: 12 bits may lie in 16, real numbers go up to 1, to 255 or to 65535.
"""

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s3pot_batch.stages.errors import ItemError

DEPTHS = (8, 10, 12, 14, 16, 24, 32)
"""Bits that a camera or a scanner may have filled of the 16 or 32 that a file gives a pixel."""
OVERSHOOT, LEAST = 2.0, 32.0
"""Real numbers up to the first were meant to end at 1, and sharpening has raised some; up to the second they may be a
bright picture's of a scale of their own, or a black one's of 255."""
DARK = 64
"""Of a colour of 16 bit Pillow keeps the upper eight; where all are below this, the file's numbers fill 14 or fewer."""
OTHER_BYTE = {";16L": ";16B", ";16B": ";16L", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}
"""How Pillow is told to read colours, and what makes it keep their lower eight bits instead."""
BITS, PLANES, FORMAT = 258, 284, 339
"""TIFF tags: bits of a number, whether each colour has a plane of its own, and kind of number."""
UNSIGNED, SIGNED, SEPARATE = 1, 2, 2
ADVICE = "save the photo as 8 or 16 bit"


class UnknownRange(ItemError):
    """The photo's numbers are no brightness that could be told."""


def as_bytes(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Whole or real numbers as 8 bit, by the range that they fill; of the same shape.

    Raises:
        UnknownRange: negative, not finite, or of no range that is known.
    """
    if not np.isfinite(values).all():
        raise UnknownRange(f"some pixels are not finite numbers; {ADVICE}")
    low, high = float(values.min()), float(values.max())
    if low < 0:
        raise UnknownRange(f"its pixels go from {low:g} to {high:g}; {ADVICE}")
    tops = [2.0**bits - 1 for bits in DEPTHS if high <= 2.0**bits - 1]
    if np.issubdtype(values.dtype, np.floating):
        tops = _tops_of_reals(high)
    if not tops:
        raise UnknownRange(f"its pixels go up to {high:g}; {ADVICE}")
    return np.asarray((values.astype(np.float32) * np.float32(255 / tops[0])).round().clip(0, 255), np.uint8)


def _tops_of_reals(high: float) -> list[float]:
    if high <= OVERSHOOT:
        return [max(high, 1.0)]
    return [2.0**bits - 1 for bits in DEPTHS if LEAST <= high <= 2.0**bits - 1 <= 65535]


def whole_numbers(image: Image.Image) -> NDArray[np.generic]:
    """A picture of one deep number a pixel as H×W; Pillow takes 32 bit for signed ones, whatever the file says."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    is_unsigned = image.mode == "I" and tags.get(BITS) == (32,) and tags.get(FORMAT, (UNSIGNED,)) == (UNSIGNED,)
    return values.view(np.uint32) if is_unsigned else values


def loaded(image: Image.Image, again: Callable[[], Image.Image]) -> Image.Image:
    """A picture with its pixels, those of a colour of 16 bit by what they fill.

    Args:
        image: a picture whose header was read.
        again: gives the same once more.

    Raises:
        UnknownRange: its numbers are signed or lie in planes, which Pillow takes for others, or are too small for their
            bits in a format of which Pillow does not give the rest.
    """
    tags, mode = getattr(image, "tag_v2", {}), _raw_mode(image)
    is_deep = image.mode not in {"F", "L"} and not image.mode.startswith("I") and max(tags.get(BITS, (8,))) > 8
    if is_deep and tags.get(PLANES) == SEPARATE:
        raise UnknownRange("its colours have 16 bit and a plane each; save the photo with its colours together")
    image.load()
    if SIGNED in tags.get(FORMAT, ()) and tags.get(BITS, ())[:1] == (8,) and _brightest(image) > 127:
        raise UnknownRange(f"some pixels are negative; {ADVICE}")
    if mode and 0 < _brightest(image) < DARK:
        image.paste(_by_range(image, again(), mode))
    return image


def _raw_mode(image: Image.Image) -> str:
    """How a picture of deep colours lies in its file, before it is loaded; "" of any other one."""
    if image.mode.startswith(("I", "F")) or not getattr(image, "tile", None):
        return ""
    args = image.tile[0].args  # type: ignore[attr-defined]
    first, *more = args if isinstance(args, tuple) else (args,)
    is_deep = ";16" in str(first) or (image.format == "PPM" and more and int(more[0]) > 4095)
    return str(first) if is_deep else ""


def _brightest(image: Image.Image) -> int:
    """The largest number of a picture of 8 bit, its alpha aside."""
    bands = image.getchannel("L") if image.mode == "LA" else image.convert("RGB") if image.mode == "RGBA" else image
    return int(np.max(bands.getextrema()))


def _by_range(image: Image.Image, again: Image.Image, mode: str) -> Image.Image:
    """A picture with the bits that Pillow has left out, as 8 bit by the range that they fill."""
    kind, dot, depth = mode.partition(";")
    if f"{dot}{depth}" not in OTHER_BYTE or kind != image.mode:
        raise UnknownRange("its pixels fill less than 15 of its 16 bits; save the photo as 8 bit")
    other = f"{kind}{OTHER_BYTE[dot + depth]}"
    again.tile = [  # type: ignore[attr-defined]
        tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
        for tile in again.tile  # type: ignore[attr-defined]
    ]
    again.load()
    values = np.asarray(image).astype(np.uint16) << 8 | np.asarray(again)
    parts = (values[..., :3], values[..., 3:]) if image.mode == "RGBA" else (values,)
    return Image.fromarray(np.concatenate([as_bytes(part) for part in parts if part.size], axis=2), image.mode)
