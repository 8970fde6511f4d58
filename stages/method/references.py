"""Reference Generation (RG): each face as it would be with nothing in front of it.

The authors invert the photo with a StyleGAN; here a ControlNet-conditioned diffusion inpainter takes its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from s3pot_batch.stages.method.faces import ParsedFace
from s3pot_batch.stages.method.region import BOUND, dilated, enlarged
from s3pot_batch.stages.method.seeds import generator
from s3pot_batch.stages.models.protocols import Inpainter, Inpainting
from s3pot_batch.stages.models.taxonomy import Taxonomy
from s3pot_batch.stages.settings import ReferenceSettings

SMOOTH = 1 / 64
"""Width of the blur before a first reference is compared with the photo, as a fraction of the frame's side."""


@dataclass(frozen=True)
class ReferenceGenerator:
    """An inpainter, and how it is asked.

    ``seed`` is the run's; every reference has a seed of its own by the name of its face.
    """

    inpainter: Inpainter
    taxonomy: Taxonomy
    settings: ReferenceSettings
    seed: int = 0

    def generate(self, faces: Sequence[ParsedFace], names: Sequence[tuple[object, ...]]) -> NDArray[np.uint8]:
        """The references of B faces: the mean of ``seeds`` runs.

        Args:
            faces: in their frames, and parsed.
            names: what tells each face from all others, for its seed; such as image id and number.

        Returns:
            B×S×S×3 uint8 RGB.
        """
        runs = [self._once(faces, [(*name, k) for name in names]) for k in range(self.settings.seeds)]
        if len(runs) == 1:
            return runs[0]
        return np.asarray(np.mean(runs, axis=0).round(), np.uint8)

    def _once(self, faces: Sequence[ParsedFace], names: Sequence[tuple[object, ...]]) -> NDArray[np.uint8]:
        """The first pass regenerates M from the photo and the parse map.

        A second one fills, without seeing it, what the parser knows to lie in front of the face: an inpainter that
        sees sunglasses keeps them. With two passes it also fills what differs clearly from the first, and then the
        visible face stays the photo's own.
        """
        raw = np.stack([face.aligned.raw for face in faces])
        parsing = np.stack([face.parsed.parsing for face in faces])
        margin = round(self.settings.dilation * raw.shape[1])
        holes = np.stack([dilated(face.parsed.region, margin) & face.aligned.inside for face in faces])
        worn = self.taxonomy.where(parsing, self.settings.hidden_classes)
        skin = parsing.copy()
        if self.taxonomy.skin:
            skin[worn] = self.taxonomy.ids(self.taxonomy.skin)[0]

        def fill(number: int, which: NDArray[np.intp], photos: NDArray[np.uint8], holes: NDArray[np.bool_]) -> None:
            """Have some of the photos filled in, in place."""
            seeds = [generator(self.seed, *names[n], number) for n in which]
            asked = Inpainting(photos[which], skin[which], holes[which], number > 1, self.taxonomy)
            photos[which] = self.inpainter.inpaint(asked, self.settings, seeds)

        blind = raw.copy()
        fill(1, np.arange(len(faces)), blind, holes)
        covered = np.stack([dilated(one, margin) if one.any() else one for one in worn])
        base = blind
        if self.settings.passes > 1:
            covered |= np.stack([differs(*pair, self.settings) for pair in zip(raw, blind, strict=True)])
            base = raw
        covered &= holes
        again = np.flatnonzero(covered.any((1, 2)))  # most faces wear nothing
        if again.size:
            fill(2, again, base, covered)
        return base


def differs(raw: NDArray[np.uint8], reference: NDArray[np.uint8], settings: ReferenceSettings) -> NDArray[np.bool_]:
    """Where a first reference clearly disagrees with the photo, plus a margin; S×S bool."""
    side = raw.shape[0]
    if side > BOUND:  # a blur as wide as this leaves no detail anyway
        raw, reference = (cv2.resize(one, (BOUND, BOUND), interpolation=cv2.INTER_AREA) for one in (raw, reference))
    difference = np.abs(raw.astype(np.float32) - reference).mean(axis=2)
    marked = cv2.GaussianBlur(difference, (0, 0), SMOOTH * len(difference)) > 255 * settings.second_pass_contrast
    return dilated(enlarged(marked, side) if side > BOUND else marked, round(settings.dilation * side))
