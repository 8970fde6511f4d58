"""The paper profile's detector: facer's RetinaFace."""

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stages.faces.detection import Face


class RetinaFace:
    """facer's ``RetinaFaceDetector`` from a local checkpoint."""

    def __init__(self, weights: Path, device: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # facer imports a module that timm has renamed
            from facer.face_detection import RetinaFaceDetector
        self.detector = RetinaFaceDetector("mobilenet", model_path=str(weights)).to(device)
        self.device = device

    @torch.inference_mode()
    def detect(self, photo: NDArray[np.uint8], min_score: float) -> list[Face]:
        """H×W×3 uint8 RGB → faces, best first."""
        pixels = torch.from_numpy(photo).permute(2, 0, 1)[None].to(self.device)
        found = self.detector(pixels)
        order = found["scores"].argsort(descending=True).tolist() if len(found["scores"]) else []
        return [
            Face(
                tuple(found["rects"][n].tolist()), float(found["scores"][n]), found["points"][n].double().cpu().numpy()
            )
            for n in order
            if float(found["scores"][n]) >= min_score
        ]
