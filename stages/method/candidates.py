"""Candidates for faces: what a detector says of a photo, whichever way up it lies, and of a box that somebody gave."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from s3pot_batch.stages.models.protocols import Detection, Detector

AROUND = 0.5
"""What is searched around a box, as a fraction of its longer side."""
SAME_BOX = 0.2
"""Share of the smaller box from which a detection is taken to be at a given box."""
LYING = 0.9
"""What a look is worth that shows its best face lying on a side: a detector is nearly as sure of that one."""
TYPICAL = np.array([[0.31, 0.39], [0.69, 0.39], [0.5, 0.6], [0.35, 0.79], [0.65, 0.79]])
"""Where the five landmarks lie in a frontal face's box, as fractions of its sides."""


def in_a_turn(detector: Detector, photo: NDArray[np.uint8], min_score: float) -> list[Detection]:
    """Faces of an H×W×3 photo that lies on a side or on its head, the way in which the best one stands upright."""
    best, worth = list[Detection](), 0.0
    for quarters in (1, 2, 3):
        seen = detector.detect(np.ascontiguousarray(np.rot90(photo, quarters)), min_score)
        if seen and (this := seen[0].score * (1 if stands(seen[0]) else LYING)) > worth:
            best, worth = [turned_back(one, quarters, photo.shape) for one in seen], this
    return best


def stands(detection: Detection) -> bool:
    """Whether a face leans to a side by less than 45°."""
    across, down = detection.landmarks[3:].mean(0) - detection.landmarks[:2].mean(0)
    return bool(down > abs(across))


def turned_back(detection: Detection, quarters: int, shape: tuple[int, ...]) -> Detection:
    """A detection in ``np.rot90(photo, quarters)`` as one in the H×W photo; landmarks keep the face's own order."""
    height, width = shape[:2]
    points = np.concatenate([detection.landmarks, np.array(detection.bbox).reshape(2, 2)])
    x, y = points[:, 0], points[:, 1]
    for turn in range(quarters, 0, -1):
        across = width if turn % 2 else height  # of the photo before this quarter turn
        x, y = across - y, x
    moved = np.stack([x, y], 1)
    box = (*moved[5:].min(0).tolist(), *moved[5:].max(0).tolist())
    return replace(detection, bbox=box, landmarks=moved[:5])


def around(photo: NDArray[np.uint8], box: tuple[float, ...]) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """What a photo shows in and around a box, and where its upper left corner (x, y) lies; empty if that is nothing."""
    x0, y0, x1, y1 = box
    margin = AROUND * max(x1 - x0, y1 - y0)
    left, top = (max(int(n - margin), 0) for n in (x0, y0))
    cut = photo[top : max(int(y1 + margin) + 1, 0), left : max(int(x1 + margin) + 1, 0)]
    return cut, (left, top)


def at_box(detections: Sequence[Detection], box: tuple[float, ...]) -> list[Detection]:
    """The detection that fits a box best, then the box itself with typical landmarks."""
    x0, y0, x1, y1 = box
    there = [one for one in detections if shared(one.bbox, box) > SAME_BOX]
    best = sorted(there, key=lambda one: -one.score * iou(one.bbox, box))[:1]
    return [*best, Detection(box, 0.0, np.array([x0, y0]) + TYPICAL * (x1 - x0, y1 - y0))]


def shifted(detection: Detection, corner: tuple[int, int]) -> Detection:
    """A detection in a cut-out as one in the photo that it was cut from."""
    left, top = corner
    x0, y0, x1, y1 = detection.bbox
    box = (x0 + left, y0 + top, x1 + left, y1 + top)
    return replace(detection, bbox=box, landmarks=detection.landmarks + corner)


def same_face(one: Detection, other: Detection) -> bool:
    """Whether two detections are looks at one face: the middle of either's landmarks lies in the other's box."""
    return _holds(one, other) or _holds(other, one)


def _holds(one: Detection, other: Detection) -> bool:
    x, y = other.landmarks.mean(0)
    return bool(one.bbox[0] < x < one.bbox[2] and one.bbox[1] < y < one.bbox[3])


def shared(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection of two boxes over the smaller one's area."""
    return _intersection(one, other) / max(min(_area(one), _area(other)), 1e-6)


def iou(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection of two boxes over their union."""
    common = _intersection(one, other)
    return common / max(_area(one) + _area(other) - common, 1e-6)


def _intersection(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def _area(box: tuple[float, ...]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
