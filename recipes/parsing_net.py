"""The embedded face parser's network: a U-Net trunk behind the interface of facer's TorchScript files."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s3pot_batch.stages.models.taxonomy import CELEBM
from s3pot_batch.stages.models.trunk import UNetTrunk


class ParsingNet(nn.Module):
    """B×3×H×W in 0..1 → (logits B×19×H×W, empty): what ``facer.face_parsing.FaRLFaceParser`` expects of its file."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 192), size: int = 128) -> None:
        super().__init__()
        self.size = size
        self.trunk = UNetTrunk(widths)
        self.head = nn.Conv2d(widths[0], len(CELEBM.classes), 3, padding=1)

    def logits(self, pixels: Tensor) -> Tensor:
        """B×3×S×S in −1..1 → B×19×S/2×S/2."""
        return cast("Tensor", self.head(F.silu(self.trunk(pixels)[0])))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """B×3×H×W in 0..1 → B×19×H×W logits, and the empty second output of the FaRL files."""
        small = F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        pixels = small * 2 - 1
        # the mean with the mirrored face's, whose right brow is a left one
        mirrored = self.logits(pixels.flip(-1)).flip(-1)[:, list(CELEBM.mirrored)]
        logits = (self.logits(pixels) + mirrored) / 2
        height, width = images.shape[-2], images.shape[-1]
        return F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False), torch.empty(0)
