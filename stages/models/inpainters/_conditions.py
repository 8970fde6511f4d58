"""What a ControlNet is shown: each published one was trained on pictures of its own kind, and knows no other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from s3pot_batch.stages.models.protocols import GREY, Inpainting

BEHIND, PERSON = (120, 120, 120), (150, 5, 61)
"""ADE20K's colours of a wall and of a person (MMSegmentation's palette); a person's clothes are the person there."""


@dataclass(frozen=True)
class Shown:
    """What an inpainter is asked for, at the side s that it works at."""

    asked: Inpainting
    photo: Tensor
    """B×3×s×s in 0..1."""
    hole: Tensor
    """B×1×s×s, 1 where the photo is to be filled."""

    @classmethod
    def at(cls, asked: Inpainting, size: int, device: torch.device) -> "Shown":
        """The photos at ``size`` pixels, on the device; a cell of a smaller mask is hole if any of its pixels is."""
        hole = torch.from_numpy(asked.holes).to(device)[:, None].float()
        smaller = size < asked.photos.shape[1]
        hole = F.adaptive_max_pool2d(hole, size) if smaller else F.interpolate(hole, size)
        return cls(asked, resized(torch.from_numpy(asked.photos).to(device), size), hole)

    @property
    def size(self) -> int:
        """The side s."""
        return self.photo.shape[-1]


def resized(images: Tensor, size: int) -> Tensor:
    """B×S×S×3 uint8 → B×3×size×size in 0..1."""
    pixels = images.permute(0, 3, 1, 2).float() / 255
    return F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False, antialias=True)


def parse(shown: Shown) -> Tensor:
    """The parse map in the colours of the parser's taxonomy: for a ControlNet that was trained on them."""
    colours = torch.from_numpy(shown.asked.taxonomy.colourise(shown.asked.parsing))
    return resized(colours.to(shown.photo.device), shown.size)


def parse_and_photo(shown: Shown) -> Tensor:
    """Six channels, the parse map and the photo: the embedded ControlNet, and those that our recipes train."""
    asked = shown.asked
    photo = torch.where(shown.hole > 0, torch.tensor(GREY / 255), shown.photo) if asked.hide else shown.photo
    return torch.cat([parse(shown), photo], 1)


def inpaint(shown: Shown) -> Tensor:
    """The photo with −1 in the hole (``lllyasviel/control_v11p_sd15_inpaint``, its model card)."""
    return torch.where(shown.hole > 0.5, torch.tensor(-1.0), shown.photo)


def ade(shown: Shown) -> Tensor:
    """ADE20K's colours (``lllyasviel/control_v11p_sd15_seg``): to that data set a face is a person, and no more."""
    asked = shown.asked
    known = [name for name in asked.taxonomy.background if name in asked.taxonomy.classes]
    behind = torch.from_numpy(asked.taxonomy.where(asked.parsing, known))[:, None].to(shown.photo.device)
    colours = [torch.tensor(colour, device=behind.device)[:, None, None] / 255 for colour in (BEHIND, PERSON)]
    return F.interpolate(
        torch.where(behind, colours[0], colours[1]), shown.size
    )  # nearest: a mixed colour is another class


CONDITIONS: dict[str, Callable[[Shown], Tensor]] = {
    "inpaint": inpaint, "ade": ade, "parse": parse, "parse+photo": parse_and_photo,
}  # fmt: skip
"""By the name that the option ``condition`` gives them; B×(3 or 6)×s×s, as the ControlNet gets it."""


def checked(names: str | Sequence[str], channels: Sequence[int]) -> tuple[str, ...]:
    """The names of the conditions, one for each ControlNet.

    Args:
        names: of one condition, or of several.
        channels: of the condition that each ControlNet takes.

    Raises:
        TypeError: an unknown name, another number of names than of ControlNets, or one that does not fit its own.
    """
    several = (names,) if isinstance(names, str) else tuple(names)
    for name in several:
        if name not in CONDITIONS:
            raise TypeError(f"there is no condition {name}; choose from {', '.join(CONDITIONS)}")
    if len(several) != len(channels):
        raise TypeError(f"{len(channels)} ControlNets want as many conditions, not {len(several)}")
    for name, width in zip(several, channels, strict=True):
        if width != (6 if name == "parse+photo" else 3):
            raise TypeError(f"a ControlNet of {width} channels does not take the condition {name}")
    return several
