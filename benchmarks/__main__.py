"""python -m benchmarks: matching against the plain loop, the token cache, and each model's time per face."""

import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.caching import caching
from stages.faces.alignment import alignment_matrix
from stages.models.catalog import EMBEDDED, load
from stages.models.sam import encode
from stages.references import warp
from stages.seeds import generator
from stages.segmentation.matching import greedy_match
from stages.settings import ReferenceSettings


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """The median of a few runs after one warm-up."""
    work()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))


def plain_loop(scores: np.ndarray) -> np.ndarray:
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


def token_scores(rows: int) -> torch.Tensor:
    """R×4096 cosines of real tokens: scikit-image's astronaut, her face blurred against her face behind a cup.

    The small segmenter's encoder gives 64×64 tokens of 256 pixels; the R tokens nearest the centre are the rows.
    """
    import skimage.data

    sam = load(EMBEDDED.segmenter, "cpu")
    face = np.ascontiguousarray(skimage.data.astronaut()[16:272, 96:352])
    hidden = face.copy()
    hidden[140:240, 70:190] = skimage.data.coffee()[100:200, 200:320]
    pixels = torch.from_numpy(np.stack([hidden, cv2.GaussianBlur(face, (0, 0), 1.2)])).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        tokens = sam.image_encoder((pixels - sam.pixel_mean) / sam.pixel_std).flatten(2).transpose(1, 2)
    raw, reference = F.normalize(tokens, dim=-1)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    nearest = ((y - 31.5) ** 2 + (x - 31.5) ** 2).flatten().argsort(stable=True)[:rows]
    return reference[nearest.sort().values] @ raw.T


def smooth_scores(rows: int) -> torch.Tensor:
    """R×4096 cosines of smooth random features and noisy copies of some of them."""
    rng = torch.Generator().manual_seed(0)
    features = F.interpolate(torch.randn(1, 64, 12, 12, generator=rng), (64, 64), mode="bicubic").flatten(2)[0].T
    chosen = features[torch.randperm(4096, generator=rng)[:rows]]
    noisy = chosen + 0.3 * torch.randn(chosen.shape, generator=rng)
    return F.normalize(noisy, dim=1) @ F.normalize(features, dim=1).T


def same_scores(rows: int) -> torch.Tensor:
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
            fast = seconds(lambda there=there: greedy_match(there).cpu(), times=9)
            slow = seconds(lambda scores=scores: plain_loop(scores.numpy()), times=1)
            print(f"matching, {name}, {rows}×4096, {device}: {fast:.4f} s, plain {slow:.2f} s, ratio {slow / fast:.0f}")


def models() -> None:
    """Seconds per face of each embedded model, on scikit-image's astronaut."""
    import skimage.data

    photo = skimage.data.astronaut()
    detector, parser = load(EMBEDDED.detector, "cpu"), load(EMBEDDED.parser, "cpu")
    inpainter, sam = load(EMBEDDED.inpainter, "cpu"), load(EMBEDDED.segmenter, "cpu")
    points = np.array([[206, 107], [242, 107], [224, 128], [210, 144], [238, 144]], float)
    matrix = alignment_matrix(points, 256)
    frames, landmarks = warp(photo, matrix, 256)[None], (points @ matrix[:, :2].T + matrix[:, 2])[None]
    parsing = parser.parse(frames, landmarks).argmax(1).astype(np.uint8)
    holes, settings = parsing > 0, ReferenceSettings()
    work: dict[str, Callable[[], object]] = {
        "detector": lambda: detector.detect(photo, 0.4),
        "parser": lambda: parser.parse(frames, landmarks),
        "inpainter": lambda: inpainter.inpaint(
            frames, parsing, holes, hide=False, settings=settings, generators=[generator(0)]
        ),
        "image encoder": lambda: encode(sam, torch.from_numpy(frames)),
    }
    for name, step in work.items():
        print(f"{name}: {seconds(step):.3f} s per photo")


if __name__ == "__main__":
    torch.set_num_threads(1)
    matching()
    caching()
    models()
