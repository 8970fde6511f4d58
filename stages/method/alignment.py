"""The aligned frame: where five landmarks put a face, and the way back to the photo."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from s3pot_batch.stages.models.protocols import GREY, Detection

Points = NDArray[np.floating]

MIRROR = (1, 0, 2, 4, 3)
"""The order of the five landmarks in a mirrored photo: eyes and mouth corners change sides."""


OUTSIDE = (GREY,) * 3
"""What the frame shows beyond the photo. Its mirror image would be a second face: mouths double, foreheads shrink."""


class NotAFace(ValueError):
    """Five points that do not span a face."""


def moved(points: Points, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """N×2 (x, y) by a 2×3 affine."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2], np.float64)


def moved_landmarks(landmarks: Points, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """5×2 landmarks by a 2×3 affine; one that mirrors also exchanges left and right, so that order stays as seen."""
    points = moved(landmarks, matrix)
    return points[list(MIRROR)] if np.linalg.det(matrix[:, :2]) < 0 else points


@dataclass(frozen=True)
class Alignment:
    """A similarity from a photo's pixels to the square frame in which CelebAMask-HQ was annotated."""

    matrix: NDArray[np.float64]
    """2×3, photo pixels → frame pixels."""
    size: int
    """Side of the frame in pixels."""

    @classmethod
    def by_landmarks(cls, landmarks: Points, size: int) -> "Alignment":
        """The alignment of a face (facer's ``get_face_align_matrix_celebm``).

        Args:
            landmarks: 5×2 (x, y) photo pixels: left eye, right eye, nose tip, left and right mouth corner, as seen.
            size: side of the frame in pixels.

        Raises:
            NotAFace: the five points do not span a face.
        """
        import torch

        from s3pot_batch.stages.method._facer import transform  # takes seconds: only when a face is aligned

        points = torch.as_tensor(np.asarray(landmarks, np.float32).reshape(1, 5, 2))
        with np.errstate(invalid="ignore", divide="ignore"):  # facer divides by the distance of the eyes
            matrix = transform.get_face_align_matrix_celebm(points, (size, size))[0, :2].double().numpy()
        if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-9:
            raise NotAFace(f"the landmarks {np.asarray(landmarks).tolist()} do not span a face")
        return cls(np.asarray(matrix, np.float64), size)

    @cached_property
    def inverse(self) -> NDArray[np.float64]:
        """2×3, frame pixels → photo pixels."""
        return np.asarray(np.linalg.inv(np.vstack([self.matrix, [0, 0, 1]]))[:2], np.float64)

    def to_frame(self, points: Points) -> NDArray[np.float64]:
        """N×2 photo pixels → frame pixels."""
        return moved(points, self.matrix)

    def to_photo(self, points: Points) -> NDArray[np.float64]:
        """N×2 frame pixels → photo pixels."""
        return moved(points, self.inverse)

    def warp(self, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draw an H×W×3 photo in the frame, S×S×3, without aliasing where it is made smaller; grey outside."""
        scale = float(np.sqrt(abs(np.linalg.det(self.matrix[:, :2]))))
        if scale < 0.5:
            photo = np.asarray(cv2.GaussianBlur(photo, (0, 0), 0.4 / scale), np.uint8)
        drawn = cv2.warpAffine(
            photo, self.matrix, (self.size, self.size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT,
            borderValue=OUTSIDE,
        )  # fmt: skip
        return np.asarray(drawn, np.uint8)

    def inside(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """S×S, where the frame shows an H×W photo and nothing beyond its edge."""
        there = np.full(shape[:2], 255, np.uint8)
        drawn = cv2.warpAffine(there, self.matrix, (self.size, self.size), flags=cv2.INTER_LINEAR)
        return np.asarray(drawn == 255, bool)

    def warp_labels(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draw H×W labels in the frame, S×S; 0 outside the photo."""
        drawn = cv2.warpAffine(labels, self.matrix, (self.size, self.size), flags=cv2.INTER_NEAREST)
        return np.asarray(drawn, np.uint8)

    def paste(self, values: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
        """Draw S×S frame values at a photo's H×W resolution; 0 outside the frame."""
        height, width = shape
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(values, self.matrix, (width, height), flags=flags, borderValue=0), np.float32)


@dataclass(frozen=True)
class AlignedFace:
    """One face in its frame of side S."""

    detection: Detection
    alignment: Alignment
    raw: NDArray[np.uint8]
    """S×S×3 uint8 RGB, grey where the photo ends."""
    inside: NDArray[np.bool_]
    """S×S, where the frame shows the photo."""

    @classmethod
    def drawn(cls, photo: NDArray[np.uint8], detection: Detection, size: int) -> "AlignedFace":
        """A detected face of an H×W×3 uint8 RGB photo.

        Raises:
            NotAFace: its landmarks do not span a face.
        """
        alignment = Alignment.by_landmarks(detection.landmarks, size)
        return cls(detection, alignment, alignment.warp(photo), alignment.inside(photo.shape))

    @property
    def landmarks(self) -> NDArray[np.float64]:
        """5×2 (x, y) in frame pixels."""
        return self.alignment.to_frame(self.detection.landmarks)
