"""A parser of another package, which knows a face and what is around it."""

from pathlib import Path

import numpy as np

from s3pot_batch.stages.models.taxonomy import Taxonomy

TAXONOMY = Taxonomy(
    name="two classes", classes=("around", "skin"), colours=((0, 0, 0), (230, 180, 140)), face=("skin",),
    eyes=((), ()), nose=(), mouth=(), skin=("skin",), worn=(), sides=(),
)  # fmt: skip


class DiscParser:
    """Every face is a disc."""

    taxonomy = TAXONOMY

    def parse(self, frames, landmarks):
        y, x = np.mgrid[: frames.shape[1], : frames.shape[2]]
        centres = landmarks.mean(1)
        skin = np.stack([np.hypot(x - cx, y - cy) < frames.shape[1] / 3 for cx, cy in centres]).astype(np.float32)
        return np.stack([1 - skin, skin], axis=1)


def build(weights: Path, device: str, dtype: str = "float32") -> DiscParser:
    return DiscParser()
