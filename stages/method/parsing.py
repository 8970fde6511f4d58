"""What a parser makes of an aligned face: its parse map, and the face region M."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s3pot_batch.stages.method.alignment import AlignedFace
from s3pot_batch.stages.method.region import face_region
from s3pot_batch.stages.models.protocols import Parser
from s3pot_batch.stages.models.taxonomy import Taxonomy


@dataclass(frozen=True)
class Parsed:
    """One parsed face of a frame of side S."""

    parsing: NDArray[np.uint8]
    """S×S class ids."""
    region: NDArray[np.bool_]
    """S×S, the face region M, the covered part included; it ends where the photo does."""
    confidence: float
    """Mean probability of the likeliest class inside M, 0..1; 0 where M is empty."""


class FaceParser:
    """A parser, and which of its classes make the face region.

    Args:
        parser: any that follows the protocol.
        classes: names in the parser's taxonomy.
    """

    def __init__(self, parser: Parser, classes: Sequence[str]) -> None:
        self.parser = parser
        self.ids = parser.taxonomy.ids(classes)

    @property
    def taxonomy(self) -> Taxonomy:
        """The parser's."""
        return self.parser.taxonomy

    def parse(self, faces: Sequence[AlignedFace]) -> list[Parsed]:
        """Parse faces as one batch; nothing outside the photo belongs to M."""
        frames, landmarks = np.stack([face.raw for face in faces]), np.stack([face.landmarks for face in faces])
        found = self.parser.parse(frames, landmarks)
        return [self._parsed(one, face.inside) for one, face in zip(found, faces, strict=True)]

    def _parsed(self, probabilities: NDArray[np.float32], there: NDArray[np.bool_]) -> Parsed:
        region = face_region(probabilities, self.ids) & there
        inside = probabilities.max(0)[region]
        confidence = float(inside.mean()) if inside.size else 0.0
        return Parsed(probabilities.argmax(0).astype(np.uint8), region, confidence)
