"""Finding the faces of a photo and bringing them into the aligned frame."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from s3pot_batch.stages.method.alignment import Alignment, NotAFace
from s3pot_batch.stages.method.parsing import FaceParser
from s3pot_batch.stages.method.refinement import refined
from s3pot_batch.stages.models.protocols import Detection, Detector
from s3pot_batch.stages.settings import FaceSettings

SAME = 0.2
"""Boxes that share so much of the smaller one are one face: a forehead or a neck makes half a face of its own."""
AT_THE_BOX = 0.2
"""Least IoU of a detection with the box that somebody gave."""
LEAST_PARTS = 2
"""Of eyes, nose and mouth: what has fewer is no face."""


@dataclass(frozen=True)
class Hint:
    """What is known of a photo's face beforehand: ``bbox`` x0 y0 x1 y1, ``landmarks`` 5×2, in photo pixels."""

    bbox: tuple[float, ...] | None = None
    landmarks: NDArray[np.float64] | None = None


NOTHING = Hint()


@dataclass(frozen=True)
class AlignedFace:
    """One face in its frame; ``raw`` S×S×3 uint8 RGB."""

    detection: Detection
    alignment: Alignment
    raw: NDArray[np.uint8]

    @property
    def landmarks(self) -> NDArray[np.float64]:
        """5×2 (x, y) in frame pixels."""
        return self.alignment.to_frame(self.detection.landmarks)


class FaceFinder:
    """Detector and parser together: the detector proposes faces, and the parser judges them.

    Args:
        detector: finds candidates.
        parser: parses them.
        settings: how many faces, how sure, and how large the frame is.
    """

    def __init__(self, detector: Detector, parser: FaceParser, settings: FaceSettings) -> None:
        self.detector = detector
        self.parser = parser
        self.settings = settings

    def find(self, photo: NDArray[np.uint8], hint: Hint = NOTHING) -> list[AlignedFace]:
        """The faces of an H×W×3 uint8 RGB photo, the surest first; given landmarks are believed.

        Raises:
            NotAFace: the given landmarks do not span a face.
        """
        if hint.landmarks is not None:
            points = np.asarray(hint.landmarks, np.float64).reshape(5, 2)
            box = hint.bbox or (*points.min(0).tolist(), *points.max(0).tolist())
            return [self._aligned(photo, Detection(box, 1.0, points))]
        found = self.detector.detect(photo, self.settings.min_score)
        if hint.bbox and found:
            found = _nearest(found, hint.bbox)
        elif not self.settings.refine:
            found = distinct(found)[: self.settings.max_faces]
        faces = self._align(photo, found)
        return self._judged(photo, faces) if self.settings.refine else faces

    def _judged(self, photo: NDArray[np.uint8], faces: Sequence[AlignedFace]) -> list[AlignedFace]:
        """Choose among detected faces by how surely they can be parsed, and align them anew by their parsed parts.

        A detector takes many a patch for a face; a parser that looks at the patch closely finds no parts there, or not
        surely. Two that end up in one place are one.
        """
        judged: list[tuple[float, Detection]] = []
        for face in faces:
            [parsed] = self.parser.parse(face.raw[None], face.landmarks[None])
            fine = refined(face.landmarks, parsed.parsing, self.parser.taxonomy)
            margin = parsed.confidence - self.settings.min_parse_confidence
            if fine.parts >= LEAST_PARTS and margin >= 0:
                found = _moved(face.detection, face.alignment.to_photo(fine.landmarks))
                judged.append((face.detection.score * margin * fine.parts, found))
        surest = [detection for _, detection in sorted(judged, key=lambda one: -one[0])]
        return self._align(photo, distinct(surest)[: self.settings.max_faces])

    def _align(self, photo: NDArray[np.uint8], detections: Sequence[Detection]) -> list[AlignedFace]:
        """Every detection in its frame; one whose landmarks do not span a face is left out."""
        faces = []
        for detection in detections:
            try:
                faces.append(self._aligned(photo, detection))
            except NotAFace:
                continue
        return faces

    def _aligned(self, photo: NDArray[np.uint8], detection: Detection) -> AlignedFace:
        alignment = Alignment.by_landmarks(detection.landmarks, self.settings.frame)
        return AlignedFace(detection, alignment, alignment.warp(photo))


def distinct(detections: Sequence[Detection]) -> list[Detection]:
    """The first of all detections whose boxes share a fifth of the smaller one, in order."""
    kept: list[Detection] = []
    for one in detections:
        if all(shared(one.bbox, other.bbox) < SAME for other in kept):
            kept.append(one)
    return kept


def shared(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection of two boxes over the smaller one's area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(width, 0.0) * max(height, 0.0) / max(smaller, 1e-6)


def _nearest(detections: Sequence[Detection], bbox: tuple[float, ...]) -> list[Detection]:
    """The detection at a box, if there is one."""
    overlap = box_iou(torch.tensor([bbox]), torch.tensor([one.bbox for one in detections]))[0]
    return [detections[int(overlap.argmax())]] if float(overlap.max()) > AT_THE_BOX else []


def _moved(detection: Detection, landmarks: NDArray[np.float64]) -> Detection:
    """The detection at better landmarks, 5×2 in photo pixels; its box goes with them."""
    x, y = (landmarks.mean(0) - detection.landmarks.mean(0)).tolist()
    x0, y0, x1, y1 = detection.bbox
    return replace(detection, bbox=(x0 + x, y0 + y, x1 + x, y1 + y), landmarks=landmarks)
