"""Masks as COCO run-length encoding: compact, and safe to read from anywhere."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

Mask = NDArray[np.bool_]


class BadRle(ValueError):
    """Run lengths that no mask can have."""


def encode_rle(mask: Mask) -> dict[str, Any]:
    """H×W bool → compressed COCO RLE, ``{"size": [H, W], "counts": str}`` (pycocotools)."""
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in encoded["size"]], "counts": encoded["counts"].decode()}


def decode_rle(rle: Mapping[str, Any], max_pixels: int | None = None) -> Mask:
    """COCO RLE → H×W bool; ``counts`` is compressed text or bytes, or a list of run lengths; ``max_pixels`` bounds it.

    Everything is checked first: pycocotools reads memory that is not its own where run lengths and size do not agree.

    Raises:
        BadRle: size and counts are not those of a mask.
    """
    try:
        height, width = (int(n) for n in rle["size"])
        counts = rle["counts"]
        runs = _unpacked(counts) if isinstance(counts, str | bytes) else [int(n) for n in counts]
    except BadRle:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadRle(f"not COCO RLE, which has a size [height, width] and counts ({error})") from error
    if min(height, width, *runs, 0) < 0 or sum(runs) != height * width:
        raise BadRle(f"the counts cover {sum(runs)} pixels, and the size is {height}×{width}")
    if max_pixels is not None and height * width > max_pixels:
        raise BadRle(f"{height}×{width} pixels are more than {max_pixels}")
    values = np.zeros(len(runs), bool)
    values[1::2] = True
    return np.repeat(values, runs).reshape(width, height).T


def _unpacked(counts: str | bytes) -> Sequence[int]:
    """COCO's compressed run lengths: five bits a character, lowest first, each the change from the last but one."""
    data = counts.encode("ascii") if isinstance(counts, str) else counts
    runs: list[int] = []
    value = shift = 0
    for character in data:
        bits = character - 48
        if not 0 <= bits < 64:
            raise BadRle(f"{chr(character)!r} is no character of COCO's counts")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise BadRle("the counts are cut off")
    return runs
