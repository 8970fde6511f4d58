"""Ground-truth masks, as people have them: black and white pictures, label maps of 0 and 1, COCO RLE."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s3pot_batch.stages.errors import ItemError
from s3pot_batch.stages.images import decoding, open_image, upright
from s3pot_batch.stages.reading import read_bytes
from s3pot_batch.stages.rle import BadRle, Mask, decode_rle
from s3pot_batch.stages.settings import FaceSettings

COLOURED = 48
"""By how much red, green and blue of a black and white picture may differ: JPEG leaves some colour."""
MIDDLE = slice(64, 192)
"""Brightness that is neither black nor white, of 255."""
GREY, LABEL = 0.2, 0.03
"""Shares of the pixels that may be in the middle, and have one brightness there: more is a photo, or a third label."""
LABELS = 32
"""Brightness, of 255, below which numbers may be labels."""
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "HEIF")
"""Formats that may make other labels of labels, as Pillow calls them."""
ADVICE = "save what is hidden as 255 and the rest as 0"


class BadTruth(ItemError):
    """What stands in a manifest's mask column is no mask, or one that can be read in two ways."""


def read_truth(cell: object, folder: Path, bounds: FaceSettings | None = None) -> Mask:
    """Read one cell of a column of masks.

    Args:
        cell: a picture's path relative to ``folder`` or its URL; or COCO RLE as a mapping, or as its JSON text.
        folder: the manifest's.
        bounds: of reading.

    Returns:
        H×W bool, upright, true where the picture is bright, or 1 where it holds nothing but 0 and 1.

    Raises:
        ItemError: it cannot be read, or could mean two things; never is a mask guessed.
    """
    bounds = bounds or FaceSettings()
    if isinstance(cell, str) and cell.lstrip().startswith("{"):
        try:
            return _from_rle(json.loads(cell), bounds.max_pixels)
        except json.JSONDecodeError as error:
            raise BadTruth(f"{cell[:60]}: neither a path nor JSON ({error})") from error
    if isinstance(cell, Mapping):
        return _from_rle(cell, bounds.max_pixels)
    if not isinstance(cell, str) or not cell:
        raise BadTruth(f"{cell!r}: a {type(cell).__name__}, neither a mask's path nor COCO RLE")
    path = cell if "://" in cell or Path(cell).is_absolute() else str(folder / cell)
    with decoding(path):
        return as_mask(open_image(read_bytes(path, bounds), path, bounds.max_pixels), path)


def _from_rle(cell: Mapping[str, Any], max_pixels: int) -> Mask:
    try:
        return decode_rle(cell, max_pixels)
    except BadRle as error:
        raise BadTruth(f"COCO RLE: {error}") from error


def as_mask(image: Image.Image, name: str) -> Mask:
    """A picture of any mode as a mask, H×W.

    Raises:
        BadTruth: it is neither black and white nor a map of the labels 0 and 1.
    """
    values = _brightness(upright(image), name)
    if not np.isfinite(values).all():
        raise BadTruth(f"{name}: some pixels are not finite numbers; save it as black and white")
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    top = 1.0 if high <= 1 else 255.0 if high <= 255 else 65535.0
    if low < 0 or not (high <= 1 or top / 2 < high <= top):
        raise BadTruth(f"{name}: its pixels go from {low:g} to {high:g}; {ADVICE}, or as 1 and 0")
    if high > 1:
        _check_two_kinds(values / top, name, is_lossy=image.format in LOSSY)
    elif high == 1 and image.format in LOSSY:
        raise BadTruth(
            f"{name}: labels of 0 and 1 in a format that does not keep them, {image.format}; {ADVICE}, as PNG"
        )
    return np.asarray(values > top / 2)


def _check_two_kinds(values: NDArray[np.float64], name: str, *, is_lossy: bool) -> None:
    """Make sure that pixels are black or white, edges aside, and no photo's, and no labels with 255 for "unknown"."""
    shares = np.bincount((values * 255).round().astype(np.uint8).ravel(), minlength=256) / values.size
    edge = 2 / min(values.shape)  # of a small mask, the soft edge around half of it may have one brightness
    if shares[MIDDLE].sum() > GREY or shares[MIDDLE].max() > max(LABEL, edge):
        raise BadTruth(f"{name}: {shares[MIDDLE].sum():.0%} of it are grey, neither black nor white; {ADVICE}")
    if shares[0] and shares[1:LABELS].any() and not shares[LABELS:255].any() and not is_lossy:
        labels = ", ".join(str(label) for label in np.flatnonzero(shares))
        raise BadTruth(f"{name}: labels of {labels}; {ADVICE}")


def _brightness(image: Image.Image, name: str) -> NDArray[Any]:
    """H×W numbers: the labels of a palette that is no grey scale, else the brightness over black."""
    if image.mode == "P" and not _is_grey(np.asarray(image.convert("RGB"))):
        labels = np.asarray(image)
        if labels.max(initial=0) > 1:
            raise BadTruth(f"{name}: a palette of {labels.max() + 1} labels; save what is hidden as 255, the rest as 0")
        return labels
    if image.mode == "F" or image.mode.startswith("I"):
        return np.asarray(image)
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        alpha, colour = np.asarray(layered)[..., 3], np.asarray(layered)[..., :3]
        shown = colour[alpha > 0] if alpha.any() else colour
        varies = np.ptp(shown.reshape(-1, 3), axis=0).max(initial=0) > COLOURED
        if alpha.min() != alpha.max() and not shown.any():
            raise BadTruth(f"{name}: black on transparent; save what is hidden as white and the rest as black")
        if varies and alpha.min() < LABELS:
            raise BadTruth(
                f"{name}: both its alpha and its colours differ; save what is hidden as white, without an alpha"
            )
        image = Image.alpha_composite(Image.new("RGBA", layered.size, "black"), layered).convert("RGB")
    colours = np.asarray(image.convert("RGB"))
    if not _is_grey(colours):
        raise BadTruth(f"{name}: in colour; save what is hidden as white and the rest as black")
    return np.asarray(colours.max(axis=2))


def _is_grey(colours: NDArray[np.uint8]) -> bool:
    spread = colours.max(axis=2).astype(int) - colours.min(axis=2)
    return bool(spread.max(initial=0) <= COLOURED)
