"""Reference Generation (RG): each face as it would be with nothing in front of it.

The authors invert the photo with a StyleGAN; here a ControlNet-conditioned diffusion inpainter takes its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from s3pot_batch.stages.method.parsing import Parsed
from s3pot_batch.stages.method.region import dilated
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

    def generate(
        self, raw: NDArray[np.uint8], parsed: Sequence[Parsed], names: Sequence[tuple[object, ...]]
    ) -> NDArray[np.uint8]:
        """The references of B faces: the mean of ``seeds`` runs of one or two passes.

        Args:
            raw: B×S×S×3 uint8 RGB aligned photos.
            parsed: B parsed faces.
            names: what tells each face from all others, for its seed; such as image id and number.

        Returns:
            B×S×S×3 uint8 RGB.
        """
        runs = [self._once(raw, parsed, [(*name, k) for name in names]) for k in range(self.settings.seeds)]
        return np.asarray(np.mean(runs, axis=0).round(), np.uint8)

    def _once(
        self, raw: NDArray[np.uint8], parsed: Sequence[Parsed], names: Sequence[tuple[object, ...]]
    ) -> NDArray[np.uint8]:
        """The first pass regenerates M from the photo and the parse map.

        The second, if asked for, inpaints only what differs clearly from the first, so that the visible face stays the
        photo's own.
        """
        parsing = np.stack([face.parsing for face in parsed])
        margin = round(self.settings.dilation * raw.shape[1])
        holes = np.stack([dilated(face.region, margin) for face in parsed])

        def fill(number: int, *, hide: bool) -> NDArray[np.uint8]:
            seeds = [generator(self.seed, *name, number) for name in names]
            asked = Inpainting(raw, parsing, holes, hide, self.taxonomy)
            return self.inpainter.inpaint(asked, self.settings, seeds)

        blind = fill(1, hide=False)
        if self.settings.passes == 1:
            return blind
        holes = holes & np.stack([differs(*pair, self.settings) for pair in zip(raw, blind, strict=True)])
        return fill(2, hide=True)


def differs(raw: NDArray[np.uint8], reference: NDArray[np.uint8], settings: ReferenceSettings) -> NDArray[np.bool_]:
    """Where a first reference clearly disagrees with the photo, plus a margin; S×S bool."""
    side = raw.shape[0]
    difference = np.abs(raw.astype(np.float32) - reference).mean(axis=2)
    marked = cv2.GaussianBlur(difference, (0, 0), SMOOTH * side) > 255 * settings.second_pass_contrast
    return dilated(marked, round(settings.dilation * side))
