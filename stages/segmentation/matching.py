"""Greedy one-to-one matching, exactly, without a loop over the scores."""

import torch
from torch import Tensor

_LOW = (1 << 32) - 1


def greedy_match(scores: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Assign every row a column by descending score; ties go to the lower flat index.

    With a strict total order (score, then flat index) the greedy assignment is unique and equals the stable matching.
    So every free row proposes to its best column that would still have it, a column keeps its best proposal, and this
    repeats until no row is free: a few rounds of tensor operations (deferred acceptance; Gale and Shapley, 1962).

    Args:
        scores: B×R×N float32.
        mask: B×R bool, rows that take part; by default all.

    Returns:
        B×R int64: each row's column, −1 for rows that are left over or masked out.

    Raises:
        ValueError: wrong rank or dtype, a NaN, or R·N of 2³² or more.
    """
    if scores.ndim != 3 or scores.dtype != torch.float32:
        raise ValueError(f"scores must be float32 of shape (B, R, N), not {scores.dtype} {tuple(scores.shape)}")
    if torch.isnan(scores).any():
        raise ValueError("scores hold a NaN")
    b, r, n = scores.shape
    if r * n > _LOW:
        raise ValueError(f"{r}×{n} scores are too many to rank")
    matched = torch.full((b, r), -1, dtype=torch.int64, device=scores.device)
    if not matched.numel() or not n:
        return matched
    keys = _ranks(scores)
    held = torch.full((b, n), torch.iinfo(torch.int64).min, device=scores.device)
    free = torch.ones_like(matched, dtype=torch.bool) if mask is None else mask.clone()
    while True:
        batch, row = free.nonzero(as_tuple=True)
        if not len(row):
            return matched
        offers = keys[batch, row]
        offers = offers.where(offers > held[batch], torch.iinfo(torch.int64).min)
        offer, column = offers.max(dim=1)
        free[batch, row] = False  # from here on only refused rows are free
        able = offer > torch.iinfo(torch.int64).min
        batch, row, offer, column = batch[able], row[able], offer[able], column[able]
        held.view(-1).scatter_reduce_(0, batch * n + column, offer, "amax")
        lost = (matched >= 0) & (keys.gather(2, matched.clamp(min=0)[..., None])[..., 0] < _held_by(held, matched))
        matched[lost] = -1
        free |= lost
        won = held[batch, column] == offer
        matched[batch[won], row[won]] = column[won]
        free[batch[~won], row[~won]] = True


def _held_by(held: Tensor, matched: Tensor) -> Tensor:
    """B×R: the key that each row's column holds now."""
    return held.gather(1, matched.clamp(min=0))


def _ranks(scores: Tensor) -> Tensor:
    """B×R×N int64 keys whose order is (score, then lower flat index)."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 makes −0 and 0 the same score
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    r, n = scores.shape[1:]
    flat = torch.arange(r * n, device=scores.device).view(r, n)
    return (ordered << 32) | (_LOW - flat)
