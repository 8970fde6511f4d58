"""Greedy one-to-one matching, exactly, without a loop over the scores."""

import torch
from torch import Tensor

_LOW = (1 << 32) - 1
_NONE = torch.iinfo(torch.int64).min
_LISTED = 256


def greedy_match(scores: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Assign every row a column by descending score; ties go to the lower flat index.

    With a strict total order (score, then flat index) the greedy assignment is unique and equals the stable matching.
    So every free row proposes to its best column that would still have it, a column keeps its best proposal, and this
    repeats until no row is free (deferred acceptance; Gale and Shapley, 1962). Each row lists its best columns,
    some at a time, and goes down its list, so that a round makes no pass over the scores: where all rows want the same
    columns (constant or rank-1 scores), one row is settled per round and there are about R rounds.

    Args:
        scores: B×R×N float32.
        mask: B×R bool, rows that take part; by default all.

    Returns:
        B×R int64: each row's column, −1 for rows that are left over or masked out.

    Raises:
        ValueError: wrong rank, dtype or mask shape, a NaN, or R·N of 2³² or more.
    """
    if scores.ndim != 3 or scores.dtype != torch.float32:
        raise ValueError(f"scores must be float32 of shape (B, R, N), not {scores.dtype} {tuple(scores.shape)}")
    b, r, n = scores.shape
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (b, r)):
        raise ValueError(f"mask must be bool of shape {(b, r)}, not {mask.dtype} {tuple(mask.shape)}")
    if torch.isnan(scores).any():
        raise ValueError("scores hold a NaN")
    if r * n > _LOW:
        raise ValueError(f"{r}×{n} scores are too many to rank")
    matched = torch.full((b * r,), -1, dtype=torch.int64, device=scores.device)
    if not matched.numel() or not n:
        return matched.view(b, r)
    keys = _ranks(scores).flatten(0, 1)
    held, owner = keys.new_full((b * n,), _NONE), keys.new_full((b * n,), -1)
    listed = keys.new_empty(b * r, min(n, _LISTED))  # keys of each row's best columns, best first
    at = torch.zeros_like(matched)  # how far down its list each row is
    places = torch.empty_like(listed)  # and those columns' positions in held
    unlisted = torch.arange(b * r, device=scores.device) if mask is None else mask.flatten().nonzero()[:, 0]
    while len(unlisted):
        batch = unlisted // r
        would = keys[unlisted]
        would.masked_fill_(would <= held.view(b, n)[batch], _NONE)
        listed[unlisted], columns = would.topk(listed.shape[1])
        places[unlisted] = columns + batch[:, None] * n
        free = unlisted[listed[unlisted, 0] > _NONE]  # the others have been refused by every column
        at[unlisted] = 0
        exhausted = []
        while len(free):
            able = at[free] < listed.shape[1]
            exhausted.append(free[~able])
            free = free[able]
            choice = at[free]
            at[free] = choice + 1
            offer, place = listed[free, choice], places[free, choice]
            held.scatter_reduce_(0, place, offer, "amax")
            won = held[place] == offer
            winners, place = free[won], place[won]
            displaced = owner[place]
            displaced = displaced[displaced >= 0]
            matched[displaced] = -1
            owner[place], matched[winners] = winners, place % n
            free = torch.cat([free[~won], displaced])
        unlisted = torch.cat(exhausted) if exhausted else unlisted[:0]
    return matched.view(b, r)


def _ranks(scores: Tensor) -> Tensor:
    """B×R×N int64 keys whose order is (score, then lower flat index)."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 makes −0 and 0 the same score
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    r, n = scores.shape[1:]
    flat = torch.arange(r * n, device=scores.device).view(r, n)
    return (ordered << 32) | (_LOW - flat)
