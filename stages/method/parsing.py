"""What a parser makes of an aligned face: its parse map, and the face region M."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s3pot_batch.stages.method.alignment import AlignedFace
from s3pot_batch.stages.method.region import enlarged, face_region
from s3pot_batch.stages.models.protocols import Parser
from s3pot_batch.stages.models.taxonomy import Taxonomy

MOST = 512
"""Side at which a parser looks at larger frames: FaRL sees 448 pixels, and a class each for 19 maps takes its time."""


@dataclass(frozen=True)
class ParseMaps:
    """All that is asked of one face's K probability maps, s×s each."""

    labels: NDArray[np.uint8]
    """The likeliest class."""
    surest: NDArray[np.float32]
    """Its probability."""
    face: NDArray[np.float32]
    """The probability of all classes of the face region together."""


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
        complete: the parser is not amodal, and M is completed.
    """

    def __init__(self, parser: Parser, classes: Sequence[str], *, complete: bool = False) -> None:
        self.parser = parser
        self.complete = complete
        self.ids = list(parser.taxonomy.ids(classes))

    @property
    def taxonomy(self) -> Taxonomy:
        """The parser's."""
        return self.parser.taxonomy

    def parse(self, faces: Sequence[AlignedFace]) -> list[Parsed]:
        """Parse faces, of one photo or of several, as one batch; nothing outside the photo is in M."""
        return [self.parsed(maps, face) for maps, face in zip(self.maps(faces), faces, strict=True)]

    def maps(self, faces: Sequence[AlignedFace]) -> list[ParseMaps]:
        """The parser's own part of :meth:`parse`, at ``MOST`` pixels if the frame is larger."""
        frames, landmarks = np.stack([face.raw for face in faces]), np.stack([face.landmarks for face in faces])
        side = frames.shape[1]
        if side > MOST:
            frames = np.stack([cv2.resize(one, (MOST, MOST), interpolation=cv2.INTER_AREA) for one in frames])
        found = self.parser.parse(frames, landmarks * (frames.shape[1] / side))
        if isinstance(found, Tensor) and found.device.type != "cpu":
            return self._reduced(found)
        # in NumPy, whose order of sums decides last bits
        return [
            ParseMaps(maps.argmax(0).astype(np.uint8), maps.max(0), maps[self.ids].sum(0))
            for maps in np.asarray(found, np.float32)
        ]

    @torch.inference_mode()
    def _reduced(self, found: Tensor) -> list[ParseMaps]:
        """The same on the maps' device: B×K×s×s."""
        surest, labels = found.max(1)
        every = (one.cpu().numpy() for one in (labels.byte(), surest, found[:, self.ids].sum(1)))
        return [ParseMaps(*maps) for maps in zip(*every, strict=True)]

    def parsed(self, maps: ParseMaps, face: AlignedFace) -> Parsed:
        """The processor's part of :meth:`parse`, which takes the time of one core: M, at the frame's own size."""
        there = face.inside
        side, size = len(there), len(maps.labels)
        region = face_region(maps.face, complete=self.complete)
        inside = maps.surest[region & _drawn(there.view(np.uint8), size).astype(bool)]
        confidence = float(inside.mean()) if inside.size else 0.0
        region = enlarged(region, side) if size < side else region
        return Parsed(_drawn(maps.labels, side), region & there, confidence)


def _drawn(labels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Labels at side×side pixels."""
    if len(labels) == side:
        return labels
    return np.asarray(cv2.resize(labels, (side, side), interpolation=cv2.INTER_NEAREST), np.uint8)
