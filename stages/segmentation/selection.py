"""Prompt Selection (PS): point prompts by greedy matching, re-weighted by one self-attention layer."""

from dataclasses import dataclass
from typing import cast

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from stages.segmentation.enhancement import Enhanced
from stages.segmentation.matching import greedy_match


@dataclass(frozen=True)
class Prompts:
    """Points of one image: P tokens of the photo inside M."""

    cells: Tensor
    """P int64 token indices."""
    labels: Tensor
    """P float32, 1 = visible face, 0 = occlusion."""
    similarity: Tensor
    """P float32, cosine of each with its match in the reference, −1 where it has none."""


def select_prompts(enhanced: Enhanced, inside: Tensor, *, min_similarity: float = 0.0, reach: float = 1.0) -> Prompts:
    """Match every reference token inside M to a raw token; matched raw tokens inside M are face, the rest of M is not.

    Args:
        enhanced: features of FE.
        inside: T×T bool, M at the token centres.
        min_similarity: lowest cosine that counts as a match; 0 counts all (as published).
        reach: farthest match along x and y, as a fraction of the frame's side; 1 is anywhere (as published).
    """
    region = inside.flatten()
    cells = region.nonzero()[:, 0]
    reference = F.normalize(enhanced.reference[region].float(), dim=-1)
    raw = F.normalize(enhanced.raw.float(), dim=-1)
    scores = reference @ raw.T
    if reach < 1:
        scores = scores.masked_fill(_distance(cells, inside.shape[-1]) > reach * inside.shape[-1], NEVER)
    columns = greedy_match(scores[None])[0]
    rows = (columns >= 0).nonzero()[:, 0]
    found = scores[rows, columns[rows]]
    counts = found >= min_similarity if min_similarity > 0 else found > NEVER
    seen = torch.zeros_like(region)
    seen[columns[rows[counts]]] = True
    similarity = torch.full(region.shape, -1.0, device=region.device)
    similarity[columns[rows]] = found.clamp(min=-1)
    return Prompts(cells, seen[cells].float(), similarity[cells])


NEVER = -2.0
"""Below every cosine."""


def _distance(cells: Tensor, tokens: int) -> Tensor:
    """R×T² tokens between each of R cells and every cell, the larger of both axes."""
    every = torch.arange(tokens * tokens, device=cells.device)
    x = (cells[:, None] % tokens - every % tokens).abs()
    y = (cells[:, None] // tokens - every // tokens).abs()
    return torch.maximum(x, y)


class PromptSelector(nn.Module):
    """One self-attention layer over prompt tokens, with a residual path and layer norm: the only trained weights.

    About 264 k parameters at 256 channels.
    """

    def __init__(self, embed_dim: int = 256, heads: int = 4) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.heads = heads
        self.attention = nn.MultiheadAttention(embed_dim, heads, batch_first=True)
        self.norm = nn.LayerNorm(embed_dim)

    @classmethod
    def untrained(cls, sam: Sam) -> "PromptSelector":
        """One that changes next to nothing yet: its attention adds zero, and its norm keeps the spread of SAM's points.

        SAM's decoder is frozen and knows prompts of that spread only: √½ of their sines and cosines, and the labels'.
        """
        selector = cls(sam.prompt_encoder.embed_dim)
        labels = torch.cat([embedding.weight for embedding in sam.prompt_encoder.point_embeddings[:2]])
        nn.init.zeros_(selector.attention.out_proj.weight)
        nn.init.constant_(selector.norm.weight, float((0.5 + labels.detach().var(1)).mean().sqrt()))
        return selector

    def forward(self, prompts: Tensor, padding: Tensor | None = None) -> Tensor:
        """B×P×C → B×P×C; ``padding`` B×P bool, true where a prompt only fills up the batch."""
        attended, _ = self.attention(prompts, prompts, prompts, key_padding_mask=padding, need_weights=False)
        return cast("Tensor", self.norm(prompts + attended))
