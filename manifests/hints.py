"""What a manifest says of a photo's face beforehand: boxes and landmarks, and what people mistake for them."""

import math
from collections.abc import Sequence

FLAT = 0.1
"""Sine of the angle between eyes and the way to the mouth, below which five points lie on a line."""
FRACTIONS = 2.0
"""No face is as small as this; fractions of a photo may go a little beyond it."""
FARTHEST = 1e9
"""Pixels; no photo is as large."""
CORNERS = "give x0, y0, x1, y1 in pixels"
ORDER = "give left eye, right eye, nose tip, left and right mouth corner, as seen in the photo"


def box_problem(box: Sequence[float]) -> str | None:
    """What is wrong with x0, y0, x1, y1, or ``None``."""
    x0, y0, x1, y1 = box
    farthest = max(map(abs, box))
    if farthest > FARTHEST:
        return f"{_shown(box)} is beyond any photo; {CORNERS}"
    if x0 < x1 and y0 < y1:
        if farthest <= FRACTIONS:
            return f"{_shown(box)} looks like fractions of the photo's size; {CORNERS}"
        return f"{_shown(box)} is less than a pixel; {CORNERS}" if min(x1 - x0, y1 - y0) < 1 else None
    if x1 > 0 and y1 > 0:
        return f"{_shown(box)} looks like x, y, width, height; {CORNERS}"
    return f"{_shown(box)} is not x0 < x1, y0 < y1; {CORNERS}"


def landmarks_problem(points: Sequence[float]) -> str | None:
    """What is wrong with the x and y of five points, or ``None``."""
    farthest = max(map(abs, points))
    if farthest > FARTHEST:
        return f"{_shown(points)} are beyond any photo; give pixels"
    if farthest <= FRACTIONS and len(set(points)) > 1:
        return f"{_shown(points)} look like fractions of the photo's size; give pixels"
    left, right, _, *corners = [complex(x, y) for x, y in zip(points[::2], points[1::2], strict=True)]
    eyes, mouth = right - left, corners[1] - corners[0]
    down = (corners[0] + corners[1] - left - right) / 2
    across = eyes.real * down.imag - eyes.imag * down.real  # positive where the mouth is below the eyes, however turned
    if abs(across) <= FLAT * abs(eyes) * abs(down):
        return f"{_shown(points)} lie on a line, or on each other, and span no face; {ORDER}"
    if abs(eyes) < 1:
        return f"{_shown(points)} span less than a pixel; give pixels"
    along = (mouth.real * eyes.real + mouth.imag * eyes.imag) / abs(eyes)
    if across < 0 or along < -0.3 * abs(mouth):
        return f"{_shown(points)} have left and right exchanged; {ORDER}"
    return None


def outside(points: Sequence[float], height: int, width: int) -> bool:
    """Whether the points' own box, x and y in turn, shares nothing with a photo of that size."""
    x, y = points[::2], points[1::2]
    return max(x) <= 0 or max(y) <= 0 or min(x) >= width or min(y) >= height


def finite(values: Sequence[float | None]) -> bool:
    """Whether all of them are numbers."""
    return all(value is not None and math.isfinite(value) for value in values)


def _shown(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"
