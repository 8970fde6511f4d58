"""Mask metrics of one photo, and means with intervals over many."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

BOUNDARY = 0.02
"""Width of the boundary region as a fraction of the image's diagonal (Cheng et al., arXiv 2103.16562)."""
RESAMPLES = 1000


@dataclass(frozen=True)
class Counts:
    """Pixels of one image, inside the area that is compared."""

    true_positive: int
    false_positive: int
    false_negative: int
    area: int
    """Pixels compared."""

    @property
    def occluded(self) -> bool:
        """Whether the truth holds an occlusion at all."""
        return self.true_positive + self.false_negative > 0

    @property
    def iou(self) -> float:
        """Intersection over union; NaN where the truth is empty (see ``false_positive_area``)."""
        union = self.true_positive + self.false_positive + self.false_negative
        return self.true_positive / union if self.occluded else float("nan")

    @property
    def precision(self) -> float:
        """Share of the found pixels that are true; 0 where nothing was found, NaN where the truth is empty."""
        return self.true_positive / max(self.true_positive + self.false_positive, 1) if self.occluded else float("nan")

    @property
    def recall(self) -> float:
        """Share of the true pixels that were found; NaN where the truth is empty."""
        return self.true_positive / (self.true_positive + self.false_negative) if self.occluded else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN where the truth is empty."""
        total = 2 * self.true_positive + self.false_positive + self.false_negative
        return 2 * self.true_positive / total if self.occluded else float("nan")

    @property
    def false_positive_area(self) -> float:
        """Share of the compared pixels that are wrongly marked; the figure for unoccluded faces."""
        return self.false_positive / max(self.area, 1)


def count(found: NDArray[np.bool_], truth: NDArray[np.bool_], inside: NDArray[np.bool_]) -> Counts:
    """Compare two H×W bool masks inside an H×W bool area.

    Raises:
        ValueError: the shapes differ.
    """
    if not found.shape == truth.shape == inside.shape:
        raise ValueError(f"masks of {found.shape}, {truth.shape} and {inside.shape} cannot be compared")
    found, truth = found & inside, truth & inside
    return Counts(
        int((found & truth).sum()), int((found & ~truth).sum()), int((~found & truth).sum()), int(inside.sum())
    )


def boundary_iou(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Boundary IoU (Cheng et al., arXiv 2103.16562): IoU of the inner boundary regions of two H×W masks.

    NaN where the truth is empty.
    """
    if not truth.any():
        return float("nan")
    width = max(round(BOUNDARY * float(np.hypot(*truth.shape))), 1)
    edges = [mask & ~_eroded(mask, width) for mask in (found, truth)]
    return float((edges[0] & edges[1]).sum() / max(int((edges[0] | edges[1]).sum()), 1))


def _eroded(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inner = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=width)
    return np.asarray(inner[1:-1, 1:-1], bool)


def mean_iou(
    found: NDArray[np.bool_], truth: NDArray[np.bool_], inside: NDArray[np.bool_], face: NDArray[np.bool_]
) -> float:
    """Mean IoU of the classes visible face, occlusion and background, of those that are there.

    Args:
        found: H×W, the occlusion that was found.
        truth: H×W, the true occlusion.
        inside: H×W, the face region that was found.
        face: H×W, the true face region.
    """
    pairs = (
        (inside & ~found, face & ~truth),
        (inside & found, face & truth),
        (~inside, ~face),
    )
    return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs if (a | b).any()]))


def mean_with_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and bootstrap 95 % interval over photos (percentile method, a fixed seed).

    Raises:
        ValueError: no values.
    """
    if not len(values):
        raise ValueError("no values to take the mean of")
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, mean, mean
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.asarray(values),), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    )
    return mean, float(found.confidence_interval.low), float(found.confidence_interval.high)
