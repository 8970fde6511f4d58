"""The embedded refiner: a small U-Net of diffusers that sees photo, reference and the decoder's answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from diffusers import UNet2DModel
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.protocols import Decision

SIDE = 256
"""Side of the frames that it was trained on; larger ones are shrunk to it, and the answer is drawn at their size."""
UNSHUFFLED = 2
"""It works at half of the frame's side, with the pixels of each 2×2 block as channels."""
CHANNELS = 9
"""Photo and reference, how they differ in CIE Lab, the decoder's answer, and M."""
MARGIN, STEP = 8, 16
"""Pixels that it sees around M, and what the sides of what it sees are multiples of."""
LAB = 50.0
"""Lab units that count as 1."""


class UNetRefiner:
    """A ``diffusers.UNet2DModel`` whose time step is always 0.

    Args:
        net: takes B×(4·``CHANNELS``)×128×128, gives B×4×128×128.
        device: where it runs.
    """

    def __init__(self, net: UNet2DModel, device: str) -> None:
        self.net = net.to(device, memory_format=torch.channels_last).eval()
        self.device = torch.device(device)

    @torch.inference_mode()
    def refine(self, decisions: Sequence[Decision]) -> NDArray[np.float32]:
        """Probabilities that a pixel is hidden, B×S×S in 0..1; what it says outside of M means nothing."""
        side = decisions[0].region.shape[0]
        shown = [resized(one, SIDE) for one in decisions]
        rows, columns = window(np.any([one.region for one in shown], axis=0))
        seen = torch.stack([torch.from_numpy(as_input(cut_out(one, rows, columns))) for one in shown])
        hidden = np.zeros((len(shown), SIDE, SIDE), np.float32)
        hidden[:, rows, columns] = logits(self.net, seen.to(self.device)).sigmoid().float().cpu().numpy()
        if side != SIDE:
            hidden = np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_LINEAR) for one in hidden])
        return np.asarray(hidden, np.float32)


def untrained() -> UNet2DModel:
    """The network, 3.1 M parameters."""
    return UNet2DModel(
        sample_size=SIDE // UNSHUFFLED, in_channels=CHANNELS * UNSHUFFLED**2, out_channels=UNSHUFFLED**2,
        block_out_channels=(24, 48, 96, 128), layers_per_block=1, norm_num_groups=8, add_attention=False,
        down_block_types=("DownBlock2D",) * 4, up_block_types=("UpBlock2D",) * 4,
    )  # fmt: skip


def logits(net: UNet2DModel, seen: Tensor) -> Tensor:
    """B×``CHANNELS``×S×S → B×S×S logits of being hidden."""
    blocks = F.pixel_unshuffle(seen, UNSHUFFLED).contiguous(memory_format=torch.channels_last)
    found = cast("Tensor", net(blocks, 0, return_dict=False)[0])
    return F.pixel_shuffle(found, UNSHUFFLED)[:, 0]


def as_input(decision: Decision) -> NDArray[np.float32]:
    """``CHANNELS``×S×S, all about −1..1."""
    photo, reference = (
        picture.astype(np.float32) / np.float32(255) for picture in (decision.photo, decision.reference)
    )
    lab = [cv2.cvtColor(cv2.GaussianBlur(picture, (0, 0), 1.0), cv2.COLOR_RGB2LAB) for picture in (photo, reference)]
    differs = np.linalg.norm(lab[0] - lab[1], axis=2)[..., None] / LAB
    both = [decision.occlusion[..., None], decision.region[..., None].astype(np.float32)]
    seen = np.concatenate([2 * photo - 1, 2 * reference - 1, differs, *(2 * one - 1 for one in both)], axis=2)
    return np.ascontiguousarray(seen.transpose(2, 0, 1), np.float32)


def window(region: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns around M, with a margin, in lengths that the network can halve: half of the work is saved."""
    x, y, width, height = cv2.boundingRect(region.astype(np.uint8))

    def widened(first: int, length: int, side: int) -> slice:
        start, end = max(first - MARGIN, 0), min(first + length + MARGIN, side)
        length = -(-(end - start) // STEP) * STEP
        start = min(start, side - length)
        return slice(start, start + length)

    return widened(y, height, region.shape[0]), widened(x, width, region.shape[1])


def cut_out(decision: Decision, rows: slice, columns: slice) -> Decision:
    """What lies in a window of it."""
    return Decision(
        decision.photo[rows, columns], decision.reference[rows, columns], decision.region[rows, columns],
        decision.occlusion[rows, columns],
    )  # fmt: skip


def resized(decision: Decision, side: int) -> Decision:
    """A decision in a frame of another side."""
    if decision.region.shape[0] == side:
        return decision
    pictures = decision.photo, decision.reference, decision.occlusion, decision.region.astype(np.float32)
    photo, reference, occlusion, region = (
        cv2.resize(one, (side, side), interpolation=cv2.INTER_AREA) for one in pictures
    )
    return Decision(photo, reference, region > 0.5, occlusion)


def build(weights: Path, device: str, dtype: str = "float32") -> UNetRefiner:
    """Read a refiner from a folder in diffusers' format; it runs in float32.

    Raises:
        ConfigError: the folder does not hold one.
    """
    if dtype != "float32":
        raise TypeError(f"a refiner runs in float32, not {dtype}")
    try:
        net = UNet2DModel.from_pretrained(weights, local_files_only=True, low_cpu_mem_usage=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{weights}: not a refiner ({str(error).splitlines()[0]})") from error
    return UNetRefiner(net.float(), device)
