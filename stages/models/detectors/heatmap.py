"""The small convolutional detector: face centres as a heat map, with a box and five landmarks at each."""

from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from s3pot_batch.stages.models.checkpoints import read_state
from s3pot_batch.stages.models.protocols import Detection
from s3pot_batch.stages.models.trunk import UNetTrunk

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


CLOSER = 0.85
"""What a closer look at the photo is worth: seen closer, a large face falls apart into face-like pieces."""


class HeatmapDetector:
    """The embedded detector: the network looks at the photo in several sizes, and every look is a candidate."""

    def __init__(self, net: DetectionNet, device: torch.device, sides: tuple[int, ...] = (128, 224, 448)) -> None:
        self.net = net
        self.device = device
        self.sides = sides

    @torch.inference_mode()
    def detect(self, photo: NDArray[np.uint8], min_score: float) -> list[Detection]:
        """H×W×3 uint8 RGB → faces, best first, the same face once for every look that found it."""
        found: list[Detection] = []
        for look, side in enumerate(self.sides):
            scale = side / max(photo.shape[:2])
            boxes, scores, landmarks = self._look(photo, scale, min_score)
            # Seen closer, a large face falls apart into face-like pieces: a closer look has to be surer.
            found += [
                Detection(tuple((box / scale).tolist()), float(score) * CLOSER**look, (points / scale).double().numpy())
                for box, score, points in zip(boxes, scores, landmarks, strict=True)
            ]
        return [face for face in sorted(found, key=lambda face: -face.score) if face.score >= min_score]

    def _look(
        self, photo: NDArray[np.uint8], scale: float, min_score: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        height, width = (max(round(n * scale), 16) for n in photo.shape[:2])
        resized = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        pixels = torch.from_numpy(resized).to(self.device).permute(2, 0, 1)[None].float() / 127.5 - 1
        pixels = F.pad(pixels, (0, -width % 16, 0, -height % 16))
        out = self.net(pixels)[0].float().cpu()
        heat = out[0].sigmoid()
        peaks = (heat == F.max_pool2d(heat[None], 5, 1, 2)[0]) & (heat > min_score)
        y, x = peaks.nonzero(as_tuple=True)
        centre = (torch.stack([x, y], 1) + 0.5) * STRIDE
        sides = out[1:5, y, x].T * UNIT
        boxes = torch.cat([centre - sides[:, :2], centre + sides[:, 2:]], 1)
        landmarks = out[5:, y, x].T.reshape(-1, 5, 2) * UNIT + centre[:, None]
        return boxes, heat[y, x], landmarks


def build(
    weights: Path, device: str, dtype: str = "float32", *, widths: tuple[int, ...] = (16, 32, 64, 96)
) -> HeatmapDetector:
    """The detector from a safetensors file of :class:`DetectionNet`."""
    if dtype != "float32":
        raise TypeError(f"a detector runs in float32, not {dtype}")
    net = DetectionNet(widths)
    net.load_state_dict(read_state(weights))
    return HeatmapDetector(net.eval().to(device), torch.device(device))
