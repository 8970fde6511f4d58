"""facer's RetinaFace (Deng et al., arXiv 1905.00641), for the published ``mobilenet0.25`` checkpoint."""

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from s3pot_batch.stages.models.protocols import Detection


class RetinaFace:
    """facer's ``RetinaFaceDetector`` from a local checkpoint."""

    def __init__(self, weights: Path, device: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # facer imports a module that timm has renamed
            from facer.face_detection import RetinaFaceDetector
        self.detector = RetinaFaceDetector("mobilenet", model_path=str(weights)).to(device)
        self.device = device

    @torch.inference_mode()
    def detect(self, photo: NDArray[np.uint8], min_score: float) -> list[Detection]:
        """H×W×3 uint8 RGB → faces, best first."""
        pixels = torch.from_numpy(photo).permute(2, 0, 1)[None].to(self.device)
        found = self.detector(pixels)
        scores = found["scores"].tolist()
        order = sorted((n for n, score in enumerate(scores) if score >= min_score), key=lambda n: -scores[n])
        boxes, points = found["rects"].tolist(), found["points"]
        return [Detection(tuple(boxes[n]), scores[n], points[n].double().cpu().numpy()) for n in order]


def build(weights: Path, device: str, dtype: str = "float32") -> RetinaFace:
    """The detector from ``mobilenet0.25_Final.pth``; it has no other precision than float32."""
    if dtype != "float32":
        raise TypeError(f"retinaface runs in float32, not {dtype}")
    return RetinaFace(weights, device)
