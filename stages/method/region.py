"""The parsed face region M: where the face is, and would be seen if nothing were in front of it."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray


def face_region(probabilities: NDArray[np.float32], classes: Sequence[int]) -> NDArray[np.bool_]:
    """Complete the parsed face parts into one region without holes.

    A parser that leaves a hole where a hand is would hide that hand from the method, so gaps that the face encloses
    or nearly encloses are closed.

    Args:
        probabilities: K×S×S class probabilities.
        classes: ids of the classes that belong to the face.

    Returns:
        S×S bool; all false when no part of a face was parsed.
    """
    parts = probabilities[list(classes)].sum(0) > 0.5
    side = parts.shape[0]
    closed = cv2.morphologyEx(np.pad(parts.astype(np.uint8), side // 8), cv2.MORPH_CLOSE, disc(side // 12))
    closed = closed[side // 8 : -(side // 8), side // 8 : -(side // 8)]
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    region = np.zeros_like(closed)
    if outlines:
        cv2.drawContours(region, [max(outlines, key=cv2.contourArea)], -1, 1, thickness=-1)
    return np.asarray(region, bool)


def dilated(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """S×S bool, grown by ``radius`` pixels."""
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc(radius)), bool)


def disc(radius: int) -> NDArray[np.uint8]:
    """A filled circle as a structuring element."""
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), np.uint8)
