"""A tiny segmenter of the package's own classes, and pairs to prompt it with."""

import pytest
import torch

from stages.models.sam import build_vit_sam, encode
from stages.segmentation.network import S3POT
from stages.segmentation.selection import PromptSelector

TINY = {"embed_dim": 32, "depth": 1, "num_heads": 4, "img_size": 64, "patch_size": 8, "out_chans": 32}
"""8×8 tokens of 32 channels from 64 px; the channel count is not 3, so a reshape by it cannot pass unseen."""


@pytest.fixture
def sam():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_vit_sam(**TINY).eval()


@pytest.fixture
def network(sam):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return S3POT(sam, PromptSelector(32))


@pytest.fixture
def region():
    """M: an ellipse in the middle of a 64 px frame."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    return ((y - 32) / 26) ** 2 + ((x - 32) / 20) ** 2 < 1


@pytest.fixture
def pictures():
    """Photo and reference, 2×64×64×3 uint8: alike but for a square in front of the face."""
    reference = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    raw = reference.clone()
    raw[28:48, 20:40] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    return torch.stack([raw, reference])


@pytest.fixture
def tokens(sam, pictures):
    return encode(sam, pictures)
