"""Finer landmarks from the parsed face: where its eyes, nose and mouth lie says more than a small detector's guess."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s3pot_batch.stages.models.taxonomy import Taxonomy

LEAST = 1e-4
"""A part that covers less of the frame is taken as not found."""
OFFSETS = np.array([[-0.005, 0.002], [-0.004, 0.002], [-0.006, 0.067], [-0.018, -0.009], [0.012, -0.009]])
"""Annotated landmark minus the part's point, as fractions of the frame: medians over 804 CelebAMask-HQ faces."""


@dataclass(frozen=True)
class Refined:
    """``landmarks`` 5×2 in frame pixels, and how many of the four parts (two eyes, nose, mouth) were found."""

    landmarks: NDArray[np.float64]
    parts: int


def refined(landmarks: NDArray[np.float64], parsing: NDArray[np.uint8], taxonomy: Taxonomy) -> Refined:
    """Replace landmarks by what the parse map says about them.

    Eyes and nose are their parts' centres, mouth corners the outermost pixels of lips and mouth, all moved by the mean
    difference between such points and annotated landmarks.

    Args:
        landmarks: 5×2 (x, y) in frame pixels.
        parsing: S×S class ids of the aligned frame.
        taxonomy: what the ids mean.

    Returns:
        The landmarks; a point whose part was not found stays as it was.
    """
    side = parsing.shape[-1]
    points, parts = landmarks.copy(), 0
    for n, names in enumerate((*taxonomy.eyes, taxonomy.nose)):
        part = _pixels(parsing, names, taxonomy)
        if len(part) >= LEAST * side * side:
            points[n] = part.mean(0) + OFFSETS[n] * side
            parts += 1
    mouth = _pixels(parsing, taxonomy.mouth, taxonomy)
    if len(mouth) >= LEAST * side * side:
        ordered = mouth[mouth[:, 0].argsort()]
        few = max(len(ordered) // 25, 1)
        points[3] = ordered[:few].mean(0) + OFFSETS[3] * side
        points[4] = ordered[-few:].mean(0) + OFFSETS[4] * side
        parts += 1
    return Refined(points, parts)


def _pixels(parsing: NDArray[np.uint8], names: Sequence[str], taxonomy: Taxonomy) -> NDArray[np.float64]:
    """N×2 (x, y) centres of the pixels of some classes."""
    found = np.argwhere(taxonomy.where(parsing, names))
    return np.asarray(found[:, ::-1] + 0.5, np.float64)
