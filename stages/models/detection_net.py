"""The embedded face detector's network: face centres as a heat map, with a box and five landmarks at each."""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from stages.models.trunk import UNetTrunk

STRIDE = 4
UNIT = 32.0
"""Pixels per regression unit."""


class DetectionNet(nn.Module):
    """B×3×H×W in −1..1 → B×15×H/4×W/4: heat logit, box sides (l, t, r, b), five landmark offsets (x, y).

    Distances are in units of 32 pixels from the cell's centre. H and W are multiples of 16.
    Centres as points follow CenterNet (Zhou et al., arXiv 1904.07850).
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 96)) -> None:
        super().__init__()
        self.trunk = UNetTrunk(widths)
        self.head = nn.Sequential(nn.Conv2d(widths[1], widths[2], 3, padding=1), nn.SiLU(), nn.Conv2d(widths[2], 15, 1))
        nn.init.constant_(cast("nn.Conv2d", self.head[2]).bias[:1], -4.0)  # type: ignore[index]

    def forward(self, pixels: Tensor) -> Tensor:
        """B×3×H×W → B×15×H/4×W/4."""
        return cast("Tensor", self.head(F.silu(self.trunk(pixels)[1])))
