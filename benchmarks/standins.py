"""Models that cost nothing, as another package would bring them, for faces whose photos say their own number.

A photo is of one colour; red and green are its number. What works on it writes that down in the folder ``CHAOS`` of the
environment, and fails the way that a file there says, once.
"""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s3pot_batch.stages.models.protocols import Inpainting, TokenShape
from s3pot_batch.stages.models.segmenters import sam_vit
from s3pot_batch.stages.models.segmenters._sam import SamSegmenter
from s3pot_batch.stages.models.taxonomy import Taxonomy
from s3pot_batch.stages.settings import ReferenceSettings

SECONDS = 0.04
"""What a photo takes in each stage, besides."""
DEADLY = (255, 255)
"""Red and green of the photo that kills whatever works on it."""
TAXONOMY = Taxonomy(
    name="two classes", classes=("around", "skin"), colours=((0, 0, 0), (230, 180, 140)), face=("skin",),
    eyes=((), ()), nose=(), mouth=(), skin=("skin",), worn=(), sides=(),
)  # fmt: skip


class _Device:
    """Of this process; once it is lost it stays so."""

    lost = False


def suffer(*kinds: str) -> None:
    """Fail if a file in the folder says so, which only one process then does.

    Raises:
        AcceleratorError: the device is lost.
        OutOfMemoryError: memory is.
    """
    for kind in kinds:
        try:
            (Path(os.environ["CHAOS"]) / kind).unlink()
        except FileNotFoundError:
            continue
        _Device.lost |= kind == "device lost"
        if not _Device.lost:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    if _Device.lost:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")


def work_on(stage: str, pixel: NDArray[np.uint8]) -> None:
    """Note that a photo is worked on, by the pixel in its middle, and take some time."""
    number = tuple(int(value) for value in pixel[:2])
    with (Path(os.environ["CHAOS"]) / "log").open("a") as log:
        log.write(f"{stage} {number[0] + 256 * number[1]}\n")
    if number == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    suffer("device lost", "out of memory")
    time.sleep(SECONDS)


class Parser:
    """Every face is a disc."""

    taxonomy = TAXONOMY

    def parse(self, frames: NDArray[np.uint8], landmarks: NDArray[np.float64]) -> NDArray[np.float32]:
        """A disc around the landmarks."""
        for frame in frames:
            work_on("references", frame[frame.shape[0] // 2, frame.shape[1] // 2])
        y, x = np.mgrid[: frames.shape[1], : frames.shape[2]]
        skin = np.stack([np.hypot(x - cx, y - cy) < frames.shape[1] / 3 for cx, cy in landmarks.mean(1)])
        return np.stack([1 - skin, skin], axis=1).astype(np.float32)


class Inpainter:
    """Fills a hole with noise."""

    def inpaint(
        self, asked: Inpainting, settings: ReferenceSettings, seeds: Sequence[torch.Generator]
    ) -> NDArray[np.uint8]:
        """Noise of each photo's own seed, in blue: red and green stay the photo's number."""
        del settings
        photos = asked.photos.copy()
        for photo, hole, seed in zip(photos, asked.holes, seeds, strict=True):
            noise = torch.randint(0, 256, (int(hole.sum()),), generator=seed)
            photo[hole, 2] = noise.numpy().astype(np.uint8)
        return photos


class Detector:
    """Is not asked, as landmarks are given."""


class Segmenter(SamSegmenter):
    """A tiny one of SAM's own classes."""

    def encode(self, images: Tensor) -> Tensor:
        """SAM's tokens."""
        work_on("decoded", images[0, images.shape[1] // 2, images.shape[2] // 2].cpu().numpy().astype(np.uint8))
        return super().encode(images)


def token_shape(**options: int) -> TokenShape:
    """Of the segmenter."""
    return sam_vit.token_shape(**options)


def build(
    weights: Path | None, device: str, dtype: str = "float32", *, part: str = "segmenter",
    **options: Any,  # noqa: ANN401  (a profile's own)
) -> object:  # fmt: skip
    """The model of one part."""
    suffer("out of memory while loading")
    if part == "segmenter":
        assert weights is not None  # noqa: S101
        return Segmenter(sam_vit.build(weights, device, dtype, **options).sam)
    return {"detector": Detector, "parser": Parser, "inpainter": Inpainter}[part]()
