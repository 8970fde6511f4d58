"""Photos, decoded safely: whatever is wrong with one is an error of that photo, and of no other."""

import io
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from s3pot_batch.manifests.errors import one_line
from s3pot_batch.stages.depth import UnknownRange, as_bytes, loaded, whole_numbers
from s3pot_batch.stages.errors import ItemError
from s3pot_batch.stages.reading import read_bytes
from s3pot_batch.stages.settings import FaceSettings

Photo = NDArray[np.uint8]

FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP",
)  # fmt: skip
"""What is looked for, as Pillow calls it; not EPS, which starts another program, nor formats that hold no photos."""
ORIENTATION = 0x0112
"""The EXIF tag."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
"""A TIFF tag and what it may say; Pillow minds it in files of 8 bit."""
MOST_TEXT = 64 * 2**20
"""Bytes that a PNG's text or colour profile may unpack to: Pillow's 1 MB is less than some photos' editing history."""


class NotAnImage(ItemError):
    """The file is no photo that Pillow can read."""


class TruncatedImage(ItemError):
    """The photo ends early or its data is damaged."""


class ImageTooLarge(ItemError):
    """The photo has more pixels than the limit, or the memory, allows."""


def read_photo(location: str, bounds: FaceSettings) -> Photo:
    """Read and decode a photo of any mode, size and orientation.

    Args:
        location: a path, or an fsspec URL.
        bounds: ``max_bytes`` and ``max_seconds`` hold for reading; photos of more than ``max_pixels`` are refused
            before they are decoded.

    Returns:
        H×W×3 uint8 RGB; see :func:`decode_photo`.

    Raises:
        ItemError: a kind of this module or of :mod:`~s3pot_batch.stages.reading`; the text says what to do.
    """
    return decode_photo(read_bytes(location, bounds), location, bounds.max_pixels)


def decode_photo(content: bytes, name: str, max_pixels: int) -> Photo:
    """Decode a file's content, first frame of several.

    Args:
        content: the file.
        name: what the errors call it.
        max_pixels: more are refused before they are decoded.

    Returns:
        H×W×3 uint8 RGB, turned as its EXIF orientation says, alpha over white, deeper numbers scaled to 8 bit.

    Raises:
        ItemError: one of this module's kinds.
    """
    with decoding(name):
        return as_photo(loaded(open_image(content, name, max_pixels), lambda: open_image(content, name, max_pixels)))


def as_photo(image: Image.Image) -> Photo:
    """A picture of Pillow's as H×W×3 uint8 RGB, as :func:`decode_photo` says; within :func:`decoding`."""
    is_negative = image.mode.startswith(("I", "F")) and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
    picture = as_rgb(upright(image))
    return np.asarray(ImageOps.invert(picture) if is_negative else picture, np.uint8)


class _Lifted:
    """Pillow's own bounds and its warnings are the process's, and beside a card threads decode photos at once.

    The first one in lifts them, and the last one out puts them back.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.restore = Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            if self.inside > 1:
                return
            self.restore.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
            self.restore.callback(setattr, PngImagePlugin, "MAX_TEXT_CHUNK", PngImagePlugin.MAX_TEXT_CHUNK)
            self.restore.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # of tags and chunks that are odd but do no harm
            Image.MAX_IMAGE_PIXELS = None  # ours is checked before anything is decoded
            PngImagePlugin.MAX_TEXT_CHUNK = MOST_TEXT

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.restore.close()


LIFTED = _Lifted()


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Whatever a decoder raises is said of the photo called ``name``: broken data raises nearly anything."""
    try:
        with LIFTED:
            yield
    except UnknownRange as error:
        raise UnknownRange(f"{name}: {error}") from error
    except ItemError:
        raise
    except UnidentifiedImageError as error:
        raise NotAnImage(f"{name}: not a photo that Pillow can read; remove the row or convert the file") from error
    except MemoryError as error:
        raise ImageTooLarge(f"{name}: there is not enough memory to decode it; lower faces.max_pixels") from error
    except Exception as error:
        raise TruncatedImage(f"{name}: damaged or cut off ({one_line(error)}); copy or download it again") from error


def open_image(content: bytes, name: str, max_pixels: int) -> Image.Image:
    """A picture whose header was read, and nothing else yet.

    Raises:
        ImageTooLarge: it has more than ``max_pixels``.
    """
    image = Image.open(io.BytesIO(content), formats=_formats())
    if image.width * image.height > max_pixels:
        raise ImageTooLarge(
            f"{name}: {image.width}×{image.height} pixels are more than {max_pixels}; raise faces.max_pixels, and "
            "run with --retry-failed"
        )
    return image


@cache
def _formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this Pillow reads; HEIC photos through pillow-heif, where it is installed."""
    Image.init()
    if find_spec("pillow_heif"):
        import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says.

    No other tag is looked at: Pillow's own ``exif_transpose`` writes all of them anew, and fails at any that is odd.
    """
    image.load()  # some formats do it for their tags, and what is wrong with the pixels is no odd tag
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # noqa: BLE001 — a block of tags that nobody can read says nothing of the orientation
        return image
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as 8 bit RGB: alpha over white, deeper numbers scaled by what they hold.

    An alpha that shows nothing at all was never meant: many programs leave it 0.

    Raises:
        UnknownRange: negative numbers, or none at all.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(as_bytes(whole_numbers(image))).convert("RGB")
    if image.has_transparency_data and (layered := image.convert("RGBA")).getchannel("A").getbbox():
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    if image.mode == "RGB":
        return image  # convert() would copy it, and photos may be large
    return image.convert("RGB")
