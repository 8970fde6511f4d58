"""Whether what is quick on a device is right there, too: against float32, the library's own code and the plain loop."""

import copy
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.matching import plain_loop
from benchmarks.ways import Way
from s3pot_batch.stages.method.enhancement import enhance, token_region
from s3pot_batch.stages.method.matching import greedy_match
from s3pot_batch.stages.models.segmenters._attention import fold
from s3pot_batch.stages.models.segmenters._sam import SamSegmenter


def agreement(ours: Way, published: Way) -> float:
    """The smallest cosine of a token by our encoder with the same by the published one, in float32."""
    pairs = zip(ours.tokens[0], published.tokens[0], strict=True)
    return float(min(F.cosine_similarity(mine, theirs, dim=0).min() for mine, theirs in pairs))


def _apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def distance(ours: Way, published: Way) -> float:
    """How far our tokens are from those in float32, as a share of their length."""
    return _apart(ours.tokens[0][0], published.tokens[0][0])


def attention(ours: Way, published: Way) -> float:
    """The same of our attention in float32: all that differs is how relative positions are added."""
    del ours
    segmenter = cast("SamSegmenter", published.network.segmenter)
    twin = copy.deepcopy(segmenter.sam)
    fold(twin.image_encoder)
    found = SamSegmenter(twin.to(segmenter.device)).encode(published.pictures)
    return _apart(found[0], published.tokens[0][0])


@torch.no_grad()
def matching(ours: Way, published: Way) -> float:
    """The share of rows that are given the column that the plain loop gives them; 1 is right."""
    del published
    raw, reference = ours.tokens[0]
    inside = token_region(ours.region, raw.shape[-1]).to(raw.device)
    enhanced = enhance(ours.network.segmenter, raw, reference, inside)
    scores = F.normalize(enhanced.reference[inside.flatten()], dim=-1) @ F.normalize(enhanced.raw, dim=-1).T
    same = greedy_match(scores[None])[0].cpu() == torch.from_numpy(plain_loop(scores.cpu().numpy()))
    return float(same.float().mean())


CHECKS = {
    "segmenter": {
        "tokens, smallest cosine with float32": agreement,
        "tokens, distance from float32": distance,
        "attention, distance from segment_anything's in float32": attention,
        "matching, share as in the plain loop": matching,
    },
}
"""By the part that they are of: ours and the published way, to a number."""
