"""A segmenter of another package on a card that is too small: it has memory for a few pictures at once."""

from pathlib import Path

import torch

from s3pot_batch.stages.models.segmenters._sam import SamSegmenter
from tests.stages.models import scored

token_shape = scored.token_shape


class ExhaustedSegmenter(SamSegmenter):
    def encode(self, images):
        del images
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def decode(self, tokens, prompts, padding=None, maps=None):
        del tokens, prompts, padding, maps
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def build(weights: Path, device: str, dtype: str = "float32", *, at_once: str = "", **options):
    if at_once == "card":
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    if at_once == "start":
        raise torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later")
    if at_once == "lost":
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")
    if at_once == "machine":
        torch.empty(2**60, dtype=torch.uint8)
    return ExhaustedSegmenter(scored.build(weights, device, dtype, **options).sam)
