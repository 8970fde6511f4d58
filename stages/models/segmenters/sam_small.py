"""A small SAM: a convolutional encoder of stride 2 under ``segment_anything``'s prompt encoder and mask decoder."""

from pathlib import Path
from typing import cast

import torch
from segment_anything.modeling import Sam
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from s3pot_batch.stages.models.checkpoints import read_state
from s3pot_batch.stages.models.protocols import TokenShape
from s3pot_batch.stages.models.segmenters._sam import SamSegmenter, assemble
from s3pot_batch.stages.models.trunk import UNetTrunk

IMG_SIZE, EMBED_DIM, WIDTHS, HEADS = 128, 128, (32, 64, 128, 192), 4
"""Of the embedded segmenter."""


class TrunkImageEncoder(nn.Module):
    """A U-Net trunk with SAM's LayerNorm neck: B×3×S×S normalised pixels → B×C×S/2×S/2 tokens."""

    def __init__(self, img_size: int, out_chans: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.img_size = img_size
        self.trunk = UNetTrunk(widths)
        self.fine = nn.Conv2d(widths[0], out_chans, 1, bias=False)
        self.coarse = nn.Conv2d(widths[1], out_chans, 1, bias=False)
        self.neck = nn.Sequential(
            LayerNorm2d(out_chans),
            nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False),
            LayerNorm2d(out_chans),
        )

    def forward(self, x: Tensor) -> Tensor:
        """B×3×S×S → B×C×S/2×S/2."""
        half, quarter = self.trunk(x)
        coarse = F.interpolate(self.coarse(quarter), scale_factor=2.0, mode="bilinear", align_corners=False)
        return cast("Tensor", self.neck(self.fine(half) + coarse))


def build_small_sam(
    img_size: int = IMG_SIZE, embed_dim: int = EMBED_DIM, widths: tuple[int, ...] = WIDTHS, heads: int = HEADS
) -> Sam:
    """The network, with random weights."""
    encoder = TrunkImageEncoder(img_size, embed_dim, widths)
    return assemble(encoder, img_size, img_size // 2, embed_dim, mlp_dim=4 * embed_dim, heads=heads)


def token_shape(
    *, img_size: int = IMG_SIZE, embed_dim: int = EMBED_DIM, widths: tuple[int, ...] = WIDTHS, heads: int = HEADS
) -> TokenShape:
    """Of the segmenter that :func:`build` gives with these options."""
    del widths, heads  # they change nothing of the tokens' shape
    return TokenShape(embed_dim, img_size // 2)


def build(
    weights: Path, device: str, dtype: str = "float32", *, img_size: int = IMG_SIZE, embed_dim: int = EMBED_DIM,
    widths: tuple[int, ...] = WIDTHS, heads: int = HEADS,
) -> SamSegmenter:  # fmt: skip
    """The segmenter from a state dictionary."""
    if dtype != "float32":
        raise TypeError(f"a segmenter runs in float32, not {dtype}")
    sam = build_small_sam(img_size, embed_dim, widths, heads)
    sam.load_state_dict(read_state(weights))
    return SamSegmenter(sam.to(device, memory_format=torch.channels_last))
