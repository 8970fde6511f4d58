"""Photos and masks: decoded safely, encoded compactly."""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pycocotools import mask as coco

from s3pot_batch.stages.errors import ItemError

Photo = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class MissingFile(ItemError):
    """There is no file at the photo's path or URL."""


class NotAnImage(ItemError):
    """The file is no photo that Pillow can read."""


class TruncatedImage(ItemError):
    """The photo ends early or its data is damaged."""


class ImageTooLarge(ItemError):
    """The photo has more pixels than the limit allows."""


def read_photo(location: str, max_pixels: int) -> Photo:
    """Decode a photo of any mode, size and orientation.

    Args:
        location: a path, or an fsspec URL.
        max_pixels: photos with more are refused before they are decoded.

    Returns:
        H×W×3 uint8 RGB, turned as its EXIF orientation says, alpha over white, 16 bit scaled to 8.

    Raises:
        ItemError: one of this module's kinds; the text says what to do.
    """
    image = _open(location)
    if image.width * image.height > max_pixels:
        raise ImageTooLarge(
            f"{location}: {image.width}×{image.height} pixels are more than {max_pixels}; raise faces.max_pixels"
        )
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise TruncatedImage(f"{location}: damaged or cut off ({error}); copy or download it again") from error
    return np.asarray(as_rgb(image), np.uint8)


def _open(location: str) -> Image.Image:
    try:
        with fsspec.open(location, "rb") as stream:
            content = io.BytesIO(stream.read())
    except FileNotFoundError as error:
        raise MissingFile(f"{location}: no such file; correct the manifest's image column") from error
    except (OSError, ValueError, ImportError) as error:
        raise MissingFile(f"{location}: cannot be read ({error})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the caller checks the size itself
            return Image.open(content)
    except UnidentifiedImageError as error:
        raise NotAnImage(f"{location}: not a photo that Pillow can read; remove the row or convert the file") from error
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"{location}: far too many pixels ({error})") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise TruncatedImage(f"{location}: damaged or cut off ({error}); copy or download it again") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as 8 bit RGB: alpha over white, 16 bit scaled to 8."""
    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray((np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(np.asarray(image).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return image.convert("RGB")


def read_mask(mask: str | Mapping[str, Any], folder: Path) -> Mask:
    """A ground-truth mask: a PNG (bright = occluded), its path relative to ``folder``, or COCO RLE.

    Raises:
        ItemError: the file cannot be read.
    """
    if isinstance(mask, Mapping):
        return decode_rle(mask)
    path = mask if "://" in mask or Path(mask).is_absolute() else str(folder / mask)
    return read_photo(path, max_pixels=2**31)[..., 0] > 127


def encode_rle(mask: Mask) -> dict[str, Any]:
    """H×W bool → compressed COCO RLE, ``{"size": [H, W], "counts": str}`` (pycocotools)."""
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in encoded["size"]], "counts": encoded["counts"].decode()}


def decode_rle(rle: Mapping[str, Any]) -> Mask:
    """Compressed COCO RLE → H×W bool."""
    counts = rle["counts"]
    encoded = {"size": list(rle["size"]), "counts": counts.encode() if isinstance(counts, str) else counts}
    return np.asarray(coco.decode(encoded), bool)
