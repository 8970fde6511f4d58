"""Greedy one-to-one matching, exactly, without sorting and walking all scores."""

from heapq import heapify, heappop, heapreplace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

_PATIENCE = 8  # looks for another column that a row may take, on average, before the rest is left to proposals
_AHEAD = 64  # columns that a row considers in one round
_UNCHECKED = 8  # rounds between two questions whether all rows are settled


def greedy_match(scores: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Assign every row a column by descending score; ties go to the lower flat index.

    With a strict total order (score, then flat index) the greedy assignment is unique and equals the stable matching
    (Gale and Shapley, 1962), so three ways give the same answer. On a CPU the best free column of every row waits in a
    heap, and few rows ever look for another one; where all rows want the same columns, the rest of them propose down
    their sorted columns instead. Elsewhere all rows propose at once, in rounds of tensor operations.

    Args:
        scores: B×R×N float32.
        mask: B×R bool, rows that take part; by default all.

    Returns:
        B×R int64: each row's column, −1 for rows that are left over or masked out.

    Raises:
        ValueError: wrong rank, dtype or mask shape, or a NaN.
    """
    if scores.ndim != 3 or scores.dtype != torch.float32:
        raise ValueError(f"scores must be float32 of shape (B, R, N), not {scores.dtype} {tuple(scores.shape)}")
    b, r = scores.shape[:2]
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (b, r)):
        raise ValueError(f"mask must be bool of shape {(b, r)}, not {mask.dtype} {tuple(mask.shape)}")
    if not scores.numel():
        return torch.full((b, r), -1, dtype=torch.int64, device=scores.device)
    scores = scores.detach().contiguous()
    if scores.amax(-1).isnan().any():  # a NaN is its row's largest score; one pass and no B×R×N bool
        raise ValueError("scores hold a NaN")
    taking = torch.ones(b, r, dtype=torch.bool, device=scores.device) if mask is None else mask
    if scores.device.type != "cpu":
        return _in_rounds(scores, taking)
    each = zip(scores.numpy(), taking.numpy(), strict=True)
    return torch.from_numpy(np.stack([_in_turn(matrix, rows.nonzero()[0]) for matrix, rows in each]))


def _in_turn(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Match the best of all rows' best columns, again and again.

    A column may be taken while it waits in the heap. Its row then looks for the next best one when it gets to the top
    and not before, so that a row looks about as often as it comes second, not once per column it cannot have.

    Args:
        scores: R×N float32.
        rows: the rows that take part, ascending.

    Returns:
        R int64: columns, or −1.
    """
    r, n = scores.shape
    matched = np.full(r, -1)
    columns = scores.argmax(1)  # the first of equal scores, here and below
    best = -scores[np.arange(r), columns]
    heap = list(zip(best[rows].tolist(), rows.tolist(), columns[rows].tolist(), strict=True))  # ties: lower flat index
    heapify(heap)
    taken: set[int] = set()
    bound, open_scores = np.full(n, np.inf, np.float32), np.empty(n, np.float32)  # bound: −∞ once a column is taken
    patience = _PATIENCE * len(rows)
    while heap and patience and len(taken) < n:
        _, row, column = heap[0]
        if column not in taken:
            heappop(heap)
            matched[row] = column
            taken.add(column)
            bound[column] = -np.inf
            continue
        patience -= 1
        np.minimum(scores[row], bound, out=open_scores)
        column = int(open_scores.argmax())
        if open_scores[column] == -np.inf:  # the row's own −∞ is no less free
            column = int(bound.argmax())
        heapreplace(heap, (-scores.item(row, column), row, column))
    if heap and len(taken) < n:
        left, free = np.sort([row for _, row, _ in heap]), (bound > 0).nonzero()[0]
        found = _by_proposals(scores[np.ix_(left, free)])
        matched[left] = np.where(found < 0, -1, free[found])
    return matched


def _by_proposals(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Let each row propose down its sorted columns; a column keeps its best row, which it may trade for a better one.

    One sort per row, and a step for every column that a row cannot have: up to R²/2 steps, none of them over N.
    Rows with the best scores go first, as few of them are displaced later.

    Args:
        scores: R×N float32.

    Returns:
        R int64: columns, or −1.
    """
    r, n = scores.shape
    wishes = [iter(row.data) for row in (-scores).argsort(axis=1, kind="stable").astype(np.int32)]
    held, owner = [-np.inf] * n, [r] * n  # r is nobody, and gives way to every row
    score = scores.data  # quicker to index one by one
    for first in (-scores.max(1)).argsort(kind="stable").tolist():
        row = first
        while row < r:
            for column in wishes[row]:
                offer, kept = score[row, column], held[column]
                if offer > kept or (offer == kept and row < owner[column]):
                    held[column], owner[column], row = offer, row, owner[column]
                    break
            else:
                break  # refused by every column
    owners = np.array(owner)
    matched = np.full(r, -1)
    matched[owners[owners < r]] = (owners < r).nonzero()[0]
    return matched


def _in_rounds(scores: Tensor, taking: Tensor) -> Tensor:
    """Deferred acceptance in rounds: every row proposes to its best column that would have it, a column keeps the best.

    A round takes a dozen operations over B·R rows, and the host waits once in several rounds. Neighbouring tokens want
    the same columns, so a row looks several places down its sorted columns at a time.

    Args:
        scores: B×R×N float32.
        taking: B×R bool, rows that take part.

    Returns:
        B×R int64: columns, or −1.
    """
    b, r, n = scores.shape
    values, columns = (scores + 0.0).sort(dim=-1, descending=True, stable=True)  # + 0.0 makes −0 and 0 the same score
    rows, batch = torch.arange(r, device=scores.device), torch.arange(b, device=scores.device)
    # Behind its last column every row finds offers that no one takes, at a place that is nobody's.
    nothing = torch.iinfo(torch.int64).min
    offers = F.pad((_ordered(values) | (r - 1 - rows)[:, None]).flatten(0, 1), (0, _AHEAD), value=nothing)
    places = F.pad((columns + n * batch[:, None, None]).flatten(0, 1), (0, _AHEAD), value=b * n)
    held = offers.new_full((b * n + 1,), nothing + 1)
    ahead = torch.arange(_AHEAD, device=scores.device)
    at = (~taking).flatten() * n  # how far down its columns each row is
    while True:
        for _ in range(_UNCHECKED):
            near = at[:, None] + ahead
            would = offers.gather(1, near) >= held[places.gather(1, near)]  # the column that has the row would, too
            step = would.byte().argmax(1)  # 0 also where no column would: that offer changes nothing
            choice = (at + step)[:, None]
            offer, place = offers.gather(1, choice)[:, 0], places.gather(1, choice)[:, 0]
            at = torch.where(offer >= held[place], choice[:, 0], at + _AHEAD).clamp(max=n)
            held.scatter_reduce_(0, place, offer, "amax")
        won = held[place] == offer
        if (won | (at == n)).all():
            return torch.where(won, place % n, -1).view(b, r)


def _ordered(scores: Tensor) -> Tensor:
    """Scores as int64 of the same order, the lower 32 bits free for what breaks ties."""
    bits = scores.view(torch.int32)
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long() << 32
