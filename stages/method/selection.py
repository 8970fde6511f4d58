"""Prompt Selection (PS): point prompts by greedy matching. An adapter re-weights them later."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from s3pot_batch.stages.method.enhancement import Enhanced
from s3pot_batch.stages.method.matching import greedy_match

NEVER = -2.0
"""Below every cosine."""


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
    [found] = select_all([enhanced], [inside], min_similarity=min_similarity, reach=reach)
    return found


def select_all(
    enhanced: Sequence[Enhanced], insides: Sequence[Tensor], *, min_similarity: float = 0.0, reach: float = 1.0
) -> list[Prompts]:
    """:func:`select_prompts` of one or more pairs, which are matched as one batch."""
    cells = [inside.flatten().nonzero()[:, 0] for inside in insides]
    scores = [_scores(one, own, reach) for one, own in zip(enhanced, cells, strict=True)]
    rows = torch.arange(max(map(len, cells)), device=cells[0].device)
    taking = torch.stack([rows < len(own) for own in cells])
    columns = greedy_match(pad_sequence(scores, batch_first=True), mask=taking)
    return [
        _prompts(inside.flatten(), own, some, matched[: len(own)], min_similarity)
        for inside, own, some, matched in zip(insides, cells, scores, columns, strict=True)
    ]


def _scores(enhanced: Enhanced, cells: Tensor, reach: float) -> Tensor:
    """R×T² cosines of the reference's tokens in R cells with the photo's."""
    reference = F.normalize(enhanced.reference[cells].float(), dim=-1)
    raw = F.normalize(enhanced.raw.float(), dim=-1)
    scores, side = reference @ raw.T, enhanced.contrast.shape[-1]
    return scores.masked_fill(_distance(cells, side) > reach * side, NEVER) if reach < 1 else scores


def _prompts(region: Tensor, cells: Tensor, scores: Tensor, columns: Tensor, min_similarity: float) -> Prompts:
    # there are no more rows than columns, so that every row has its own; nothing here waits for a device
    found = scores.gather(1, columns[:, None])[:, 0]
    seen = torch.zeros_like(region)
    seen[columns] = found >= min_similarity if min_similarity > 0 else found > NEVER
    similarity = torch.full(region.shape, -1.0, device=region.device)
    similarity[columns] = found.clamp(min=-1)
    return Prompts(cells, seen[cells].float(), similarity[cells])


def _distance(cells: Tensor, tokens: int) -> Tensor:
    """R×T² tokens between each of R cells and every cell, the larger of both axes."""
    every = torch.arange(tokens * tokens, device=cells.device)
    x = (cells[:, None] % tokens - every % tokens).abs()
    y = (cells[:, None] // tokens - every // tokens).abs()
    return torch.maximum(x, y)
