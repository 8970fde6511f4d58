"""What the classes of a face parser are called, what they mean for the method, and the colours they are drawn in."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Taxonomy:
    """The classes of a parser. Whatever asks for a part of a face asks here, and nowhere for a number."""

    name: str
    classes: tuple[str, ...]
    """Names by class id."""
    colours: tuple[tuple[int, int, int], ...]
    """RGB by class id; also what the inpainter's ControlNet sees."""
    face: tuple[str, ...]
    """Classes that make the parsed face region M unless the settings name others."""
    eyes: tuple[tuple[str, ...], tuple[str, ...]]
    """The eye on the image's left, and the one on its right."""
    nose: tuple[str, ...]
    mouth: tuple[str, ...]
    skin: tuple[str, ...]
    """What is to be seen where something worn is taken away; the first one is told to the inpainter."""
    worn: tuple[str, ...]
    """Classes of M that are no part of a face: eyeglasses."""
    sides: tuple[tuple[str, str], ...]
    """Pairs that change places when a photo is mirrored."""
    background: tuple[str, ...] = ("background",)
    """What is no part of a person; a name that is no class of the parser counts for nothing."""

    def ids(self, names: Sequence[str]) -> list[int]:
        """Class ids by name.

        Raises:
            ValueError: there is no class of that name.
        """
        unknown = [name for name in names if name not in self.classes]
        if unknown:
            raise ValueError(f"{self.name} has no class {unknown[0]}; it has {', '.join(self.classes)}")
        return [self.classes.index(name) for name in names]

    def where(self, parsing: NDArray[np.integer], names: Sequence[str]) -> NDArray[np.bool_]:
        """…×H×W class ids → …×H×W, true where the class is one of ``names``."""
        return np.isin(parsing, self.ids(names))

    @cached_property
    def mirrored(self) -> tuple[int, ...]:
        """The id that each class has in a mirrored photo: ears, brows and eyes change sides."""
        partner = {one: other for pair in self.sides for one, other in (pair, pair[::-1])}
        return tuple(self.ids([partner.get(name, name) for name in self.classes]))

    def colourise(self, parsing: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """…×H×W class ids → …×H×W×3 RGB."""
        return np.asarray(self.colours, np.uint8)[parsing]


CELEBM = Taxonomy(
    name="celebm/448",
    classes=(
        "background", "neck", "face", "cloth", "rr", "lr", "rb", "lb", "re", "le", "nose", "imouth", "llip", "ulip",
        "hair", "eyeg", "hat", "earr", "neck_l",
    ),
    # Neighbouring parts differ in lightness as well as hue, so that they stay apart for colour-blind readers.
    colours=(
        (0, 0, 0), (86, 60, 40), (230, 180, 140), (60, 60, 60), (160, 120, 90), (200, 150, 110),
        (0, 114, 178), (86, 180, 233), (0, 158, 115), (120, 220, 160), (240, 228, 66), (110, 20, 40),
        (213, 94, 0), (255, 140, 70), (90, 50, 120), (204, 121, 167), (0, 60, 120), (255, 255, 255), (170, 170, 170),
    ),
    face=("face", "rb", "lb", "re", "le", "nose", "imouth", "llip", "ulip", "eyeg"),
    eyes=(("re",), ("le",)),
    nose=("nose",),
    mouth=("imouth", "llip", "ulip"),
    skin=("face",),
    worn=("eyeg",),
    sides=(("rr", "lr"), ("rb", "lb"), ("re", "le")),
)  # fmt: skip
"""facer's ``celebm/448`` (r = the person's right, seen on the left); eyeglasses are in M, as in the authors' code."""
