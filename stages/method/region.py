"""The parsed face region M: where the face is, and would be seen if nothing were in front of it."""

import cv2
import numpy as np
from numpy.typing import NDArray

BOUND = 256
"""Side of the frame at which regions are closed and edges cut where the frame is larger: the one that the constants
were found at. The cost of both grows faster than the number of pixels."""
CORE = np.array([
    (0.639, 0.295), (0.686, 0.314), (0.709, 0.338), (0.725, 0.381), (0.689, 0.674), (0.65, 0.768), (0.592, 0.838),
    (0.545, 0.865), (0.459, 0.865), (0.389, 0.807), (0.342, 0.725), (0.287, 0.451), (0.287, 0.361), (0.318, 0.314),
    (0.377, 0.291), (0.545, 0.283),
])  # fmt: skip
"""Where nine of ten faces have theirs, as fractions of the frame (x, y): the amodal outlines of 2,241 annotated faces,
each aligned by its annotated landmarks. On the mean, 2 % of this area lie outside of a face."""
LARGE = 16
"""Radius in pixels from which a disc is no longer laid over every pixel: that takes time with its square."""


def face_region(likely: NDArray[np.float32], *, complete: bool = False) -> NDArray[np.bool_]:
    """Complete the parsed face parts into one region without holes.

    A parser that leaves a hole where a hand is would hide that hand from the method, so gaps that the face encloses
    or nearly encloses are closed.

    Args:
        likely: S×S, the probability that a pixel belongs to the face, be it to any of its parts.
        complete: ``CORE`` belongs to it, too: a parser that is not amodal leaves out what is covered at the border.

    Returns:
        S×S bool; all false when no part of a face was parsed.
    """
    side = likely.shape[0]
    if side <= BOUND:
        return _closed(likely > 0.5, complete=complete)
    closed = enlarged(_closed(shrunk(likely) > 0.5, complete=complete), side)
    # what was parsed keeps its own edge; what was closed has one of a coarser pixel
    return np.asarray(closed | ((likely > 0.5) & dilated(closed, -(-side // BOUND))), bool)


def _closed(parts: NDArray[np.bool_], *, complete: bool) -> NDArray[np.bool_]:
    side = parts.shape[0]
    if complete and parts.any():
        core = cv2.fillPoly(np.zeros(parts.shape, np.uint8), [(CORE * side).round().astype(np.int32)], 1)
        parts = parts | (core > 0)
    closed = cv2.morphologyEx(np.pad(parts.astype(np.uint8), side // 8), cv2.MORPH_CLOSE, disc(side // 12))
    closed = closed[side // 8 : -(side // 8), side // 8 : -(side // 8)]
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    region = np.zeros_like(closed)
    if outlines:
        cv2.drawContours(region, [max(outlines, key=cv2.contourArea)], -1, 1, thickness=-1)
    return np.asarray(region, bool)


def dilated(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """S×S bool, grown by ``radius`` pixels."""
    if radius >= LARGE:
        away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
        return np.asarray(away <= radius, bool) & mask.any()  # without any, OpenCV measures to nowhere
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc(radius)), bool)


def window(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """Rows and columns of the rectangle around what an S×S mask marks, and of ``margin`` pixels more on each side."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return slice(max(y - margin, 0), y + height + margin), slice(max(x - margin, 0), x + width + margin)


def shrunk(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """S×S at ``BOUND`` pixels, each the mean of those that it covers."""
    return np.asarray(cv2.resize(values, (BOUND, BOUND), interpolation=cv2.INTER_AREA), np.float32)


def enlarged(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """A bool mask at side×side pixels, with a smooth edge."""
    return np.asarray(cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR) > 0.5, bool)


def disc(radius: int) -> NDArray[np.uint8]:
    """A filled circle as a structuring element."""
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), np.uint8)
