"""Greedy matching against the plain loop over sorted scores."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import seconds
from s3pot_batch.stages.method.matching import greedy_match
from s3pot_batch.stages.models.profiles import EMBEDDED
from s3pot_batch.stages.models.registry import Models


def plain_loop(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """The authors' way: sort all R×N scores and walk them until every row is matched (N columns are enough here).

    Stable, so that ties go to the lower flat index; the authors also call ``np.unravel_index`` on every score, which
    ``divmod`` does several times faster.
    """
    rows, columns = scores.shape
    matched = np.full(rows, -1)
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    for flat in np.argsort(-scores, axis=None, kind="stable"):
        row, column = divmod(int(flat), columns)
        if row not in used_rows and column not in used_columns:
            matched[row] = column
            used_rows.add(row)
            used_columns.add(column)
            if len(used_rows) == rows:
                break
    return matched


def token_scores(rows: int) -> Tensor:
    """R×4096 cosines of real tokens: scikit-image's astronaut, her face blurred against her face behind a cup.

    The small segmenter's encoder gives 64×64 tokens of 128 channels; the R tokens nearest the centre are the rows.
    """
    import skimage.data

    segmenter = Models(EMBEDDED).segmenter
    side = segmenter.shape.side
    face = np.ascontiguousarray(skimage.data.astronaut()[16:272, 96:352])
    hidden = face.copy()
    hidden[140:240, 70:190] = skimage.data.coffee()[100:200, 200:320]
    tokens = segmenter.encode(torch.from_numpy(np.stack([hidden, cv2.GaussianBlur(face, (0, 0), 1.2)])))
    raw, reference = F.normalize(tokens.flatten(2).transpose(1, 2), dim=-1)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    middle = (side - 1) / 2
    nearest: Tensor = ((y - middle) ** 2 + (x - middle) ** 2).flatten().argsort(stable=True)[:rows]
    scores: Tensor = reference[nearest.sort().values] @ raw.T
    return scores


def smooth_scores(rows: int) -> Tensor:
    """R×4096 cosines of smooth random features and noisy copies of some of them."""
    rng = torch.Generator().manual_seed(0)
    features = F.interpolate(torch.randn(1, 64, 12, 12, generator=rng), (64, 64), mode="bicubic").flatten(2)[0].T
    chosen = features[torch.randperm(4096, generator=rng)[:rows]]
    noisy = chosen + 0.3 * torch.randn(chosen.shape, generator=rng)
    return F.normalize(noisy, dim=1) @ F.normalize(features, dim=1).T


def same_scores(rows: int) -> Tensor:
    """R×4096 scores whose rows are all the same: the worst case, every row wants the same columns."""
    return torch.rand(4096, generator=torch.Generator().manual_seed(0)).expand(rows, -1).contiguous()


def matching() -> None:
    """Both ways on the same scores, 1419×4096 and 2617×4096: seconds and their ratio."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kinds = {"tokens": token_scores, "smooth": smooth_scores, "same rows": same_scores}
    for name, kind in kinds.items():
        for rows in (1419, 2617):
            scores = kind(rows)
            there = scores[None].to(device)
            np.testing.assert_array_equal(greedy_match(there)[0].cpu(), plain_loop(scores.numpy()))
            fast = seconds(lambda there=there: greedy_match(there).cpu(), times=9)  # type: ignore[misc]
            slow = seconds(lambda scores=scores: plain_loop(scores.numpy()), times=1)  # type: ignore[misc]
            print(f"matching, {name}, {rows}×4096, {device}: {fast:.4f} s, plain {slow:.2f} s, ratio {slow / fast:.0f}")
