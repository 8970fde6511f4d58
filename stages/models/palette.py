"""The 19 face-part classes and the colours they are drawn in, also for the ControlNet's condition."""

import numpy as np
from numpy.typing import NDArray

CLASSES = (
    "background", "neck", "face", "cloth", "rr", "lr", "rb", "lb", "re", "le", "nose", "imouth", "llip", "ulip",
    "hair", "eyeg", "hat", "earr", "neck_l",
)  # fmt: skip
"""Class names in the order of facer's ``celebm/448`` (r = the person's right, seen on the left)."""
MIRRORED = (0, 1, 2, 3, 5, 4, 7, 6, 9, 8, *range(10, 19))
"""What each class becomes when the photo is mirrored: ears, brows and eyes change sides."""

PALETTE: NDArray[np.uint8] = np.array(
    [
        (0, 0, 0), (86, 60, 40), (230, 180, 140), (60, 60, 60), (160, 120, 90), (200, 150, 110),
        (0, 114, 178), (86, 180, 233), (0, 158, 115), (120, 220, 160), (240, 228, 66), (110, 20, 40),
        (213, 94, 0), (255, 140, 70), (90, 50, 120), (204, 121, 167), (0, 60, 120), (255, 255, 255), (170, 170, 170),
    ],
    dtype=np.uint8,
)  # fmt: skip
"""19×3 RGB; neighbouring parts differ in lightness as well as hue, so that they stay apart for colour-blind readers."""


def colourise(parsing: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """…×H×W class ids → …×H×W×3 RGB."""
    return PALETTE[parsing]
