"""A public-domain portrait (Eileen Collins, NASA), with something drawn in front of it, for tests that need a face."""

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

MARKS = np.array([[110.0, 107], [146, 107], [132, 128], [114, 144], [142, 144]])
"""Her eyes, nose tip and mouth corners in :func:`portrait`."""


def portrait() -> NDArray[np.uint8]:
    """256×256×3 RGB, one face."""
    return np.ascontiguousarray(skimage.data.astronaut()[:256, 96:352])


def occluded() -> NDArray[np.uint8]:
    """The same behind a grey bar over the mouth."""
    photo = portrait()
    cv2.line(photo, (70, 150), (180, 135), (90, 90, 110), 22)
    return photo


def blank() -> NDArray[np.uint8]:
    """8×128×3, no face: so narrow that the detector, which turns it all ways, has little to look at."""
    return np.full((8, 128, 3), 120, np.uint8)
