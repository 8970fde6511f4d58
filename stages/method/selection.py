"""Prompt Selection (PS): point prompts by greedy matching. An adapter re-weights them later."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from s3pot_batch.stages.method.enhancement import Enhanced
from s3pot_batch.stages.method.matching import greedy_match
from s3pot_batch.stages.models.windows import TokenWindow

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
    """:func:`select_prompts` of one or more pairs, which are matched as one batch where they have as many tokens."""
    if len({len(one.raw) for one in enhanced}) > 1:
        each = zip(enhanced, insides, strict=True)
        return [select_prompts(*pair, min_similarity=min_similarity, reach=reach) for pair in each]
    views = [one.window.cut(inside) for one, inside in zip(enhanced, insides, strict=True)]
    cells = [view.flatten().nonzero()[:, 0] for view in views]
    scores = [_scores(one, own, reach) for one, own in zip(enhanced, cells, strict=True)]
    rows = torch.arange(max(map(len, cells)), device=cells[0].device)
    taking = torch.stack([rows < len(own) for own in cells])
    padded = pad_sequence(scores, batch_first=True) if len(scores) > 1 else scores[0][None]  # one need not be copied
    columns = greedy_match(padded, mask=taking)
    return [
        _prompts(one.window, own, some, matched[: len(own)], min_similarity)
        for one, own, some, matched in zip(enhanced, cells, scores, columns, strict=True)
    ]


def _scores(enhanced: Enhanced, cells: Tensor, reach: float) -> Tensor:
    """R×N cosines of the reference's tokens in R of N cells with the photo's."""
    reference = F.normalize(enhanced.reference[cells].float(), dim=-1)
    raw = F.normalize(enhanced.raw.float(), dim=-1)
    scores, window = reference @ raw.T, enhanced.window
    return scores.masked_fill(_distance(cells, window) > reach * window.side, NEVER) if reach < 1 else scores


def _prompts(window: TokenWindow, cells: Tensor, scores: Tensor, columns: Tensor, min_similarity: float) -> Prompts:
    # there are no more rows than columns, so that every row has its own; nothing here waits for a device
    found = scores.gather(1, columns[:, None])[:, 0]
    seen = scores.new_zeros(scores.shape[1], dtype=torch.bool)
    seen[columns] = found >= min_similarity if min_similarity > 0 else found > NEVER
    similarity = scores.new_full(scores.shape[1:], -1.0)
    similarity[columns] = found.clamp(min=-1)
    return Prompts(window.cells(cells), seen[cells].float(), similarity[cells])


def _distance(cells: Tensor, window: TokenWindow) -> Tensor:
    """R×N tokens between each of R of a window's N cells and every one, the larger of both axes."""
    every = torch.arange(window.height * window.width, device=cells.device)
    x = (cells[:, None] % window.width - every % window.width).abs()
    y = (cells[:, None] // window.width - every // window.width).abs()
    return torch.maximum(x, y)
