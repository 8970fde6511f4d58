"""Finding faces: boxes, scores and five landmarks, in photo pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from stages.models.detection_net import STRIDE, UNIT, DetectionNet

CLOSER = 0.85
SAME = 0.2
"""Boxes that share so much of the smaller one are one face: a forehead or a neck makes half a face of its own."""


@dataclass(frozen=True)
class Face:
    """One found face; ``bbox`` x0 y0 x1 y1 and ``landmarks`` 5×2 (x, y) in photo pixels, ``score`` 0..1."""

    bbox: tuple[float, ...]
    score: float
    landmarks: NDArray[np.float64]


class FaceDetector(Protocol):
    """Finds the faces of one photo."""

    def detect(self, photo: NDArray[np.uint8], min_score: float) -> list[Face]:
        """H×W×3 uint8 RGB → faces, best first; several looks at one face may be among them (:func:`distinct`)."""


class HeatmapDetector:
    """The embedded detector: the network looks at the photo in several sizes, and every look is a candidate."""

    def __init__(self, net: DetectionNet, device: torch.device, sides: tuple[int, ...] = (128, 224, 448)) -> None:
        self.net = net
        self.device = device
        self.sides = sides

    @torch.inference_mode()
    def detect(self, photo: NDArray[np.uint8], min_score: float) -> list[Face]:
        """H×W×3 uint8 RGB → faces, best first, the same face once for every look that found it."""
        found: list[Face] = []
        for look, side in enumerate(self.sides):
            scale = side / max(photo.shape[:2])
            boxes, scores, landmarks = self._look(photo, scale, min_score)
            # Seen closer, a large face falls apart into face-like pieces: a closer look has to be surer.
            found += [
                Face(tuple((box / scale).tolist()), float(score) * CLOSER**look, (points / scale).double().numpy())
                for box, score, points in zip(boxes, scores, landmarks, strict=True)
            ]
        return [face for face in sorted(found, key=lambda face: -face.score) if face.score >= min_score]

    def _look(
        self, photo: NDArray[np.uint8], scale: float, min_score: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        height, width = (max(round(n * scale), 16) for n in photo.shape[:2])
        resized = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        pixels = torch.from_numpy(resized).to(self.device).permute(2, 0, 1)[None].float() / 127.5 - 1
        pixels = F.pad(pixels, (0, -width % 16, 0, -height % 16))
        out = self.net(pixels)[0].float().cpu()
        heat = out[0].sigmoid()
        peaks = (heat == F.max_pool2d(heat[None], 5, 1, 2)[0]) & (heat > min_score)
        y, x = peaks.nonzero(as_tuple=True)
        centre = (torch.stack([x, y], 1) + 0.5) * STRIDE
        sides = out[1:5, y, x].T * UNIT
        boxes = torch.cat([centre - sides[:, :2], centre + sides[:, 2:]], 1)
        landmarks = out[5:, y, x].T.reshape(-1, 5, 2) * UNIT + centre[:, None]
        return boxes, heat[y, x], landmarks


def distinct(faces: Sequence[Face]) -> list[Face]:
    """The first of all faces whose boxes share a fifth of the smaller one, in order."""
    kept: list[Face] = []
    for face in faces:
        if all(shared(face.bbox, other.bbox) < SAME for other in kept):
            kept.append(face)
    return kept


def shared(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection of two boxes over the smaller one's area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(width, 0.0) * max(height, 0.0) / max(smaller, 1e-6)
