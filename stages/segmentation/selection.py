"""Prompt Selection (PS): point prompts by greedy matching, re-weighted by one self-attention layer."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.segmentation.enhancement import Enhanced
from stages.segmentation.matching import greedy_match


@dataclass(frozen=True)
class Prompts:
    """Points of one image: ``cells`` P int64 token indices, ``labels`` P float32, 1 = visible face, 0 = occlusion."""

    cells: Tensor
    labels: Tensor


def select_prompts(enhanced: Enhanced, inside: Tensor) -> Prompts:
    """Match every reference token inside M to a raw token; matched raw tokens inside M are face, the rest of M is not.

    Args:
        enhanced: features of FE.
        inside: T×T bool, M at the token centres.
    """
    region = inside.flatten()
    reference = F.normalize(enhanced.reference[region].float(), dim=-1)
    raw = F.normalize(enhanced.raw.float(), dim=-1)
    columns = greedy_match((reference @ raw.T)[None])[0]
    seen = torch.zeros_like(region)
    seen[columns[columns >= 0]] = True
    cells = region.nonzero()[:, 0]
    return Prompts(cells, seen[cells].float())


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

    def forward(self, prompts: Tensor) -> Tensor:
        """B×P×C → B×P×C."""
        attended, _ = self.attention(prompts, prompts, prompts, need_weights=False)
        return cast("Tensor", self.norm(prompts + attended))
