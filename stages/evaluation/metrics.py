"""Mask metrics, per image and overall."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
