"""What was drawn on a photo, whatever the tool: masks with a label, and which of them belong to one face."""

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from s3pot_batch.stages.errors import ConfigError, ItemError
from s3pot_batch.stages.rle import Mask

FACE, OCCLUSION = "face", "occlusion"
"""The two labels: the whole face M with its hidden part, and what is hidden of it."""
LABELS = (FACE, OCCLUSION)
NO_SIZE = (0, 0)
"""Of a photo on which nothing was drawn, in a tool that notes sizes beside shapes."""
CORNERS = 256
"""Of the polygon that stands for an ellipse."""

Points = NDArray[np.float64]


class BadDrawing(ItemError):
    """What was drawn on one photo cannot be taken."""


@dataclass(frozen=True)
class Drawn:
    """One shape."""

    label: str
    """One of ``LABELS``."""
    mask: Mask
    """H×W bool, in the upright photo's pixels."""
    group: str | int | None = None
    """The same for shapes of one face; ``None`` where the tool does not say."""


@dataclass(frozen=True)
class Drawing:
    """All that was drawn on one photo; nothing at all means that nothing is hidden there."""

    name: str
    """What the tool calls the photo."""
    shape: tuple[int, int]
    """(height, width) that the tool saw."""
    drawn: tuple[Drawn, ...]


@dataclass(frozen=True)
class Unread:
    """A photo of a file whose drawing could not be taken, and why."""

    name: str
    error: str


def label_of(text: object) -> str:
    """One of ``LABELS``, however it is written.

    Raises:
        BadDrawing: it is neither.
    """
    label = str(text).strip().lower()
    if label not in LABELS:
        raise BadDrawing(f"label {text!r} is neither {FACE} nor {OCCLUSION}; rename it in the tool")
    return label


def polygon(points: Sequence[Sequence[float]], shape: tuple[int, int]) -> Mask:
    """The H×W inside of a polygon of x, y pairs.

    Raises:
        BadDrawing: fewer than three points, or no numbers.
    """
    corners = np.asarray(points, np.float64).reshape(-1, 2)
    if len(corners) < 3 or not np.isfinite(corners).all():
        raise BadDrawing("a polygon needs three points or more")
    [rle] = coco.frPyObjects([corners.ravel().tolist()], *shape)
    return np.asarray(coco.decode(rle), bool)


def rectangle(box: Sequence[float], shape: tuple[int, int], degrees: float = 0.0) -> Mask:
    """The inside of x0 y0 x1 y1, turned clockwise about its middle."""
    x0, y0, x1, y1 = box
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)
    return polygon(turned(corners, ((x0 + x1) / 2, (y0 + y1) / 2), degrees).tolist(), shape)


def ellipse(centre: tuple[float, float], radii: tuple[float, float], shape: tuple[int, int], degrees: float) -> Mask:
    """The inside of an ellipse, turned clockwise about its centre."""
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    points = np.array(centre) + np.stack([np.cos(angles), np.sin(angles)], 1) * radii
    return polygon(turned(points, centre, degrees).tolist(), shape)


def turned(points: Points, about: tuple[float, float], degrees: float) -> Points:
    """N×2 points turned clockwise, as one sees them, about a point."""
    angle, centre = np.deg2rad(degrees), np.array(about)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.asarray((points - centre) @ turn + centre, np.float64)


def files_below(path: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files of that suffix: the file itself, or those in a folder or a ZIP.

    Raises:
        ConfigError: there is none, or the ZIP is damaged.
    """
    if path.is_dir():
        found = [(str(one), one) for one in sorted(path.rglob(f"*{suffix}")) if one.is_file()]
        if not found:
            raise ConfigError(f"{path}: no *{suffix} in there")
        yield from ((name, one.read_bytes()) for name, one in found)
    elif path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
                names = [name for name in sorted(archive.namelist()) if name.lower().endswith(suffix)]
                if not names:
                    raise ConfigError(f"{path}: no *{suffix} in there")
                yield from ((f"{path}/{name}", archive.read(name)) for name in names)
        except zipfile.BadZipFile as error:
            raise ConfigError(f"{path}: a damaged ZIP ({error}); export it again") from error
    elif path.is_file():
        yield str(path), path.read_bytes()
    else:
        raise ConfigError(f"{path}: no such file or folder")
