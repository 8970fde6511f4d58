"""python -m benchmarks: the matching against the plain loop, and the time per face of every model, in one run."""

import time
from collections.abc import Callable

import numpy as np
import torch

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
    """Greedy matching as a walk over all sorted scores (the authors' way)."""
    rows, columns = scores.shape
    matched, taken = np.full(rows, -1), np.zeros(columns, bool)
    left = rows
    for flat in np.argsort(-scores.ravel(), kind="stable"):
        row, column = divmod(int(flat), columns)
        if matched[row] < 0 and not taken[column]:
            matched[row], taken[column] = column, True
            left -= 1
            if not left:
                break
    return matched


def matching() -> None:
    """Cosine scores of noisy copies of smooth features, 1419×4096 and 2617×4096."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 64, 12, 12, generator=rng)
    features = torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic").flatten(2)[0].T
    for rows in (1419, 2617):
        chosen = features[torch.randperm(4096, generator=rng)[:rows]]
        noisy = chosen + 0.3 * torch.randn(chosen.shape, generator=rng)
        scores = torch.nn.functional.normalize(noisy, dim=1) @ torch.nn.functional.normalize(features, dim=1).T
        fast = seconds(lambda scores=scores: greedy_match(scores[None]))
        slow = seconds(lambda scores=scores: plain_loop(scores.numpy()), times=1)
        print(f"matching {rows}×4096: {fast:.3f} s, plain loop {slow:.3f} s, ratio {slow / fast:.1f}")


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
    models()
